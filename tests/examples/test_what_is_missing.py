"""The example on inpainting, denoising and super-resolution runs, at a small size."""

from math import log
from pathlib import Path

import pytest

from . import load_example


@pytest.mark.slow
def test_what_is_missing(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("COLUMNS", "140")
    module = load_example("what_is_missing")
    output = tmp_path / "picture.png"
    methods = {name: module.METHODS[name] for name in ("amortised", "refined", "pseudo_gibbs")}
    monkeypatch.setattr(module, "METHODS", methods)
    module.main(epochs=6, num_tested=10, output=output)
    printed = capsys.readouterr().out
    found = {}
    for line in printed.splitlines():
        for name in (*module.METHODS.values(), "trained on whole digits", "on half of the pixels"):
            if line.strip().startswith(name):
                found[name] = float(line.split("±")[0].split()[-1])
    refined, amortised = (found[module.METHODS[name]] for name in ("refined", "amortised"))
    # 32 hidden pixels with 17 levels each: "refined" is better than a uniform guess.
    assert refined > max(amortised, -32 * log(17))
    assert len(found) == len(module.METHODS) + 2
    assert output.stat().st_size > 10_000
