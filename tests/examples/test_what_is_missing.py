"""The example that asks for what is missing, run small."""

from math import log
from pathlib import Path

import pytest

from . import example


def test_what_is_missing(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("COLUMNS", "140")
    module = example("what_is_missing")
    output = tmp_path / "picture.png"
    shown = {name: module.METHODS[name] for name in ("amortised", "refined", "pseudo_gibbs")}
    monkeypatch.setattr(module, "METHODS", shown)
    module.main(epochs=6, num_tested=10, output=output)
    printed = capsys.readouterr().out
    found = {}
    for line in printed.splitlines():
        for name in (*module.METHODS.values(), "trained on whole digits", "on half of the pixels"):
            if line.strip().startswith(name):
                found[name] = float(line.split("±")[0].split()[-1])
    refined, amortised = (found[module.METHODS[name]] for name in ("refined", "amortised"))
    # 32 hidden pixels of 17 levels each: refined is better than knowing nothing of them.
    assert refined > max(amortised, -32 * log(17))
    assert len(found) == len(module.METHODS) + 2
    assert output.stat().st_size > 10_000
