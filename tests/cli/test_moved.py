"""A run can be moved, and used where its training data are gone."""

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

import pyrovae as package
from pyrovae.models import ConditionalVAE

MODELS = {
    "vae": ("--likelihood", "Poisson"),
    "prior": ("--likelihood", "NegativeBinomial", "--prior", "vamp", "--posterior", "full_rank"),
    "mixture": ("--model", "mixture", "--likelihood", "Poisson"),
    "conditional": ("--model", "conditional", "--label", "kind", "--likelihood", "Poisson"),
    "semi-supervised": ("--model", "semi_supervised", "--label", "kind", "--likelihood", "Poisson"),
    "ppca": ("--model", "ppca", "--label", "kind"),
    "hierarchical": ("--model", "hierarchical", "--likelihood", "Poisson"),
}


def write_counts(path: Path) -> None:
    draw = np.random.default_rng(0)
    kinds = np.array(["plum", "fig", "lime"])
    lines = ["apples,pears,quinces,kind"]
    for _ in range(120):
        kind = draw.integers(3)
        counts = draw.poisson([2 + 5 * kind, 9, 20 - 4 * kind])
        lines.append(",".join([*map(str, counts), kinds[kind]]))
    path.write_text("\n".join(lines) + "\n")


@pytest.fixture
def options(request: pytest.FixtureRequest) -> tuple[str, ...]:
    given: tuple[str, ...] = MODELS[request.param]
    if "--label" not in given:
        given = (*given, "--label", "kind")
    return (*given, "--latent-dim", "2", "--hidden", "8", "--epochs", "2")


@pytest.mark.slow
@pytest.mark.parametrize("options", MODELS, indirect=True)
def test_a_moved_run_is_the_same_without_its_data(
    options: tuple[str, ...], pyrovae: Any, tmp_path: Path
) -> None:
    write_counts(tmp_path / "counts.csv")
    assert pyrovae("train", "counts.csv", "--output", "run", *options).code == 0
    assert pyrovae("sample", "run", "--num", "40").code == 0
    before = np.load(tmp_path / "run" / "samples.npz")
    elsewhere = tmp_path / "elsewhere" / "kept"
    shutil.copytree(tmp_path / "run", elsewhere)
    shutil.rmtree(tmp_path / "run")
    (tmp_path / "counts.csv").unlink()
    (elsewhere / "samples.npz").unlink()
    command = [sys.executable, "-m", "pyrovae", "sample", str(elsewhere), "--num", "40"]
    root = Path(package.__file__).parents[1]
    environment = os.environ | {"PYTHONPATH": str(root)}
    done = subprocess.run(
        command, cwd=elsewhere, env=environment, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    after = np.load(elsewhere / "samples.npz")
    for name in ("x", "mean", "z"):
        np.testing.assert_allclose(after[name], before[name], rtol=1e-6, atol=1e-6)
    outcome = pyrovae("evaluate", str(elsewhere))
    assert outcome.code == 2
    assert "counts.csv (the model of" in outcome.err
    assert outcome.err.count("\n") == 1

    about = package.open(elsewhere).about
    assert about is not None
    assert about.features == ("apples", "pears", "quinces")
    assert about.classes == ("fig", "lime", "plum")
    assert about.whole == (True, True, True)
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
