"""A run can be moved, and used where its training data are gone."""

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch

import pyrovae as package
from pyrovae.models import ConditionalVAE
from pyrovae.priors import PRIORS

COUNTS = ("--likelihood", "Poisson")
MODELS = {
    "vae": COUNTS,
    "posterior": ("--likelihood", "NegativeBinomial", "--posterior", "iaf"),
    "discrete": (*COUNTS, "--posterior", "straight_through"),
    "words": ("--likelihood", "infer"),
    "mixture": ("--model", "mixture", *COUNTS),
    "conditional": ("--model", "conditional", "--label", "kind", *COUNTS),
    "semi-supervised": ("--model", "semi_supervised", "--label", "kind", *COUNTS),
    "ppca": ("--model", "ppca", "--label", "kind"),
    "autoencoder": ("--model", "autoencoder", *COUNTS),
    "hierarchical": ("--model", "hierarchical", *COUNTS),
    "top-down": ("--model", "hierarchical", "--model.guide", "top_down", *COUNTS),
} | {
    f"prior {name}": (*COUNTS, "--prior", name)
    for name in PRIORS
    if name not in ("concrete", "one_hot", "standard")
}


def write_counts(
    path: Path, num: int = 120, *, with_words: bool = False, seed: int = 0, key: bool = False
) -> None:
    draw = np.random.default_rng(seed)
    kind = draw.integers(3, size=num)
    table = pd.DataFrame(
        {
            "apples": draw.poisson(2 + 5 * kind),
            "pears": draw.poisson(9, num),
            "quinces": draw.poisson(20 - 4 * kind),
            "kind": np.array(["plum", "fig", "lime"])[kind],
        }
    )
    if with_words:
        table["colour"] = np.array(["green", "red", "blue"])[kind]
    if key:
        table["key"] = [f"k{i}" for i in range(num)]
    table.to_csv(path, index=False)


@pytest.fixture
def options(request: pytest.FixtureRequest) -> tuple[str, ...]:
    given: tuple[str, ...] = MODELS[request.param]
    if "--label" not in given:
        given = (*given, "--label", "kind")
    return (*given, "--latent-dim", "2", "--hidden", "8", "--epochs", "2")


def questions(run: str, options: tuple[str, ...]) -> dict[str, tuple[str, ...]]:
    """Commands that ask a run about the rows of new.csv."""
    about_rows = (run, "new.csv", "--id", "key", "--overwrite")
    commands = {
        "encode": ("encode", *about_rows, "--draws", "3"),
        "reconstruct": ("reconstruct", *about_rows),
    }
    if "autoencoder" not in options:
        commands["score"] = ("score", *about_rows, "--flag", "0.1")
        commands["sample"] = ("sample", run, "--num", "40", "--overwrite")
    return {name: (*words, "--output", f"{name}.csv") for name, words in commands.items()}


def run_in_new_process(folder: Path, commands: list[tuple[str, ...]]) -> None:
    """Run commands in a new process."""
    root = Path(package.__file__).parents[1]
    program = f"from pyrovae.cli import main\nfor words in {commands!r}:\n    main(words)\n"
    environment = os.environ | {"PYTHONPATH": str(root)}
    done = subprocess.run(
        [sys.executable, "-c", program],
        cwd=folder,
        env=environment,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr


@pytest.mark.slow
@pytest.mark.parametrize("options", MODELS, indirect=True)
def test_a_moved_run_answers_the_same_without_its_data(
    options: tuple[str, ...], pyrovae: Any, tmp_path: Path
) -> None:
    with_words = "infer" in options
    write_counts(tmp_path / "counts.csv", with_words=with_words)
    write_counts(tmp_path / "new.csv", num=30, with_words=with_words, seed=1, key=True)
    assert pyrovae("train", "counts.csv", "--output", "run", *options).code == 0
    for words in questions("run", options).values():
        outcome = pyrovae(*words)
        assert outcome.code == 0, outcome.err
    before = {name: pd.read_csv(f"{name}.csv") for name in questions("run", options)}
    assert len(before["encode"]) == 30
    assert list(before["encode"]["key"]) == [f"k{i}" for i in range(30)]
    assert list(before["encode"]["row"]) == list(range(1, 31))
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    shutil.move(tmp_path / "run", elsewhere / "kept")
    shutil.move(tmp_path / "new.csv", elsewhere / "new.csv")
    (tmp_path / "counts.csv").unlink()
    run_in_new_process(elsewhere, list(questions("kept", options).values()))
    for name, expected in before.items():
        after = pd.read_csv(elsewhere / f"{name}.csv")
        pd.testing.assert_frame_equal(after, expected, rtol=1e-6, atol=1e-6, obj=name)
    outcome = pyrovae("evaluate", str(elsewhere / "kept"))
    assert outcome.code == 2
    assert "counts.csv (the model of" in outcome.err
    assert outcome.err.count("\n") == 1

    about = package.open(elsewhere / "kept").about
    assert about is not None
    features = ("apples", "pears", "quinces")
    assert about.features == ((*features, "colour") if with_words else features)
    assert about.classes == ("fig", "lime", "plum")
    assert about.whole == (True,) * len(about.features)
    assert about.label == "kind"
    assert sum(about.class_counts or ()) == about.num["training"]


@pytest.mark.slow
def test_changed_data_are_refused(pyrovae: Any, tmp_path: Path) -> None:
    write_counts(tmp_path / "counts.csv")
    options = ("--label", "kind", "--likelihood", "Poisson", "--hidden", "4", "--epochs", "1")
    assert pyrovae("train", "counts.csv", "--output", "run", *options).code == 0
    assert pyrovae("evaluate", "run").code == 0
    text = (tmp_path / "counts.csv").read_text()
    first = text.index("\n") + 1
    (tmp_path / "counts.csv").write_text(f"{text[:first]}1{text[first:]}")
    outcome = pyrovae("evaluate", "run")
    assert outcome.code == 2
    assert "are not those of the training" in outcome.err
    (tmp_path / "counts.csv").write_text(text)
    assert pyrovae("evaluate", "run").code == 0


@pytest.mark.slow
def test_runs_of_earlier_versions_open_with_their_data(pyrovae: Any, tmp_path: Path) -> None:
    write_counts(tmp_path / "counts.csv")
    options = ("--label", "kind", "--model", "conditional", "--hidden", "4", "--epochs", "1")
    assert pyrovae("train", "counts.csv", "--output", "run", *options).code == 0
    described = package.open(tmp_path / "run")
    (tmp_path / "run" / "description.json").unlink()
    opened = package.open(tmp_path / "run")
    assert isinstance(opened, ConditionalVAE)
    torch.testing.assert_close(opened.state_dict(), described.state_dict())
    assert opened.describe() == described.describe()


@pytest.mark.slow
def test_a_run_of_a_device_that_is_not_here_opens(pyrovae: Any, tmp_path: Path) -> None:
    if torch.cuda.is_available():
        pytest.skip("this machine has the device")
    assert pyrovae("train", "iris", "--output", "run", "--hidden", "4", "--epochs", "1").code == 0
    config = tmp_path / "run" / "config.yaml"
    config.write_text(config.read_text().replace("device: auto", "device: cuda:3"))
    assert pyrovae("sample", "run", "--num", "5").code == 0
    assert pyrovae("sample", "run", "--device", "cpu").code == 0
    assert pyrovae("sample", "run", "--device", "cuda:3").code == 2


@pytest.mark.slow
def test_the_description_is_plain_text_without_data(pyrovae: Any, tmp_path: Path) -> None:
    assert pyrovae("train", "iris", "--output", "run", "--hidden", "4", "--epochs", "1").code == 0
    record = json.loads((tmp_path / "run" / "description.json").read_text())
    assert record["format"] == 1
    assert record["model"]["class"] == "VAE"
    assert record["data"]["name"] == "iris"
    assert len(json.dumps(record)) < 5000
