"""``pyrovae runs`` lists runs, and ``pyrovae compare`` compares them."""

import json
import shutil
from pathlib import Path
from typing import Any

import pytest

SMALL = ("--hidden", "4", "--latent-dim", "2", "--epochs", "1")


@pytest.mark.slow
def test_runs_are_listed_and_compared(pyrovae: Any, tmp_path: Path) -> None:
    for name, lr in (("good", "0.03"), ("bad", "1e-8")):
        outcome = pyrovae("train", "iris", *SMALL, "--lr", lr, "--output", f"runs/{name}")
        assert outcome.code == 0, outcome.err
    assert pyrovae("train", "wine", *SMALL, "--output", "runs/deep/er/wine").code == 0
    shutil.copytree(tmp_path / "runs" / "good", tmp_path / "runs" / "unfinished")
    (tmp_path / "runs" / "unfinished" / "evaluation.json").unlink()
    (tmp_path / "runs" / "damaged").mkdir()
    (tmp_path / "runs" / "damaged" / "config.yaml").write_text("epochs: many\n")
    listed = pyrovae("runs")
    assert listed.code == 0, listed.err
    lines = [line.split()[0] for line in listed.out.splitlines()[1:6]]
    elbos = {
        name: json.loads((tmp_path / "runs" / name / "evaluation.json").read_text())["elbo"]["mean"]
        for name in ("good", "bad")
    }
    best = sorted(("good", "bad"), key=lambda name: -elbos[name])
    assert lines == [*best, "unfinished", "deep/er/wine", "damaged"]
    assert f"{elbos['good']:.2f}" in listed.out
    assert "not finished" in listed.out
    assert "epochs cannot be" in listed.out

    compared = pyrovae("compare", "runs/good", "runs/bad")
    assert compared.code == 0, compared.err
    assert compared.out.index(f"runs/{best[0]}") < compared.out.index(f"runs/{best[1]}")
    for words, arguments in {
        "cannot be compared": ("runs/good", "runs/deep/er/wine"),
        "named twice": ("runs/good", "runs/good"),
        "evaluation.json": ("runs/good", "runs/unfinished"),
        "leave out all options": ("runs/good", "runs/bad", "--epochs", "3"),
        "is not a run directory": ("runs/good", "nowhere"),
    }.items():
        outcome = pyrovae("compare", *arguments)
        assert outcome.code == 2, words
        assert words in outcome.err


def test_a_folder_without_runs_is_named(pyrovae: Any, tmp_path: Path) -> None:
    assert "there is no folder runs" in pyrovae("runs").err
    outcome = pyrovae("runs", str(tmp_path))
    assert outcome.code == 2
    assert "holds no runs" in outcome.err


@pytest.mark.slow
def test_one_part_is_varied(pyrovae: Any, tmp_path: Path) -> None:
    outcome = pyrovae(
        "compare",
        "iris",
        *SMALL,
        "--prior",
        "standard,{name: mixture, num_components: 3}",
        "--posterior",
        "full_rank",
        "--output",
        "all",
    )
    assert outcome.code == 0, outcome.err
    assert {"1-standard", "2-mixture"} <= {each.name for each in (tmp_path / "all").iterdir()}
    text = (tmp_path / "all" / "2-mixture" / "config.yaml").read_text()
    assert "num_components: 3" in text
    assert "posterior: full_rank" in text
    for words, arguments in {
        "got prior, objective": ("--prior", "standard,vamp", "--objective", "elbo,iwae"),
        "prior cannot be 'nothing'": ("--prior", "standard,nothing"),
        "prior cannot be 3": ("--prior", "standard,3"),
    }.items():
        outcome = pyrovae("compare", "iris", *SMALL, *arguments, "--output", "no")
        assert outcome.code == 2, words
        assert words in outcome.err
        assert not (tmp_path / "no").exists()
