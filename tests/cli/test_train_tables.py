"""``pyrovae train`` on CSV files."""

import gzip
import io
import json
import re
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import sklearn.datasets
import yaml

from tests.cli.helpers import SMALL, find_pictures


@pytest.mark.slow
def test_a_table_of_numbers(pyrovae: Any, tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    table = pd.DataFrame(rng.normal(size=(60, 3)) * [1, 20, 300], columns=["a", "b", "c"])
    table["kind"] = ["x", "y"] * 30
    table.to_csv(tmp_path / "table.csv", index=False)
    outcome = pyrovae("train", "table.csv", "--label", "kind", "--output", "run", *SMALL)
    assert outcome.code == 0, outcome.err
    assert "log density" in outcome.out
    assert find_pictures(tmp_path / "run") == {
        "training",
        "reconstructions",
        "samples",
        "latent_space",
    }
    assert yaml.safe_load((tmp_path / "run" / "config.yaml").read_text())["data"] == str(
        tmp_path / "table.csv"
    )
    assert pyrovae("sample", "run", "--num", "100").code == 0
    assert np.load(tmp_path / "run" / "samples.npz")["x"].shape == (100, 3)


def titanic() -> pd.DataFrame:
    """Passengers of the Titanic as scikit-learn ships them for its own tests, in ARFF."""
    folder = Path(sklearn.datasets.__file__).parent / "tests" / "data" / "openml" / "id_40945"
    with gzip.open(next(folder.glob("*.arff.gz")), "rt") as file:
        head, data = re.split("@data", file.read(), maxsplit=1, flags=re.IGNORECASE)
    names = re.findall(r"(?im)^@attribute\s+\W?([\w.]+)", head)
    table = pd.read_csv(io.StringIO(data.strip()), names=names, na_values="?")
    return table.drop(columns=["name", "ticket", "cabin", "boat", "body", "home.dest"])


@pytest.mark.slow
def test_a_table_of_mixed_types_with_missing_cells(pyrovae: Any, tmp_path: Path) -> None:
    table = titanic()
    assert table.shape == (1309, 8)
    assert (
        table.isna().sum().to_dict() | {"age": 263, "embarked": 2} == table.isna().sum().to_dict()
    )
    table.to_csv(tmp_path / "titanic.csv", index=False)
    outcome = pyrovae(
        "train",
        "titanic.csv",
        "--likelihood",
        "infer",
        "--output",
        "run",
        "--epochs",
        "15",
        "--lr",
        "0.01",
        "--latent-dim",
        "3",
    )
    assert outcome.code == 0, outcome.err
    for line in ("age: Likelihood('Normal'", "sex: Likelihood('Bernoulli'", "as it has 3 classes"):
        assert line in outcome.out
    run = tmp_path / "run"
    config = yaml.safe_load((run / "config.yaml").read_text())
    assert config["missing"] is True
    assert config["likelihood"]["family"] == "Mixed"
    metrics = pd.read_csv(run / "metrics.csv")
    assert metrics.validation_loss.iloc[-1] < metrics.validation_loss.iloc[0] - 0.5
    assert json.loads((run / "evaluation.json").read_text())["kind"].startswith(
        "log density of age, fare; log"
    )
    assert pyrovae("reconstruct", "run").code == 0
    assert np.isfinite(np.load(run / "reconstructions.npz")["mean"]).all()
    again = pyrovae("train", "--config", "run/config.yaml", "--output", "two", "--epochs", "1")
    assert again.code == 0, again.err
    words = pyrovae("train", "titanic.csv", "--output", "three")
    assert words.code == 2
    assert "column 'sex' holds 'female'" in words.err
    gaps = pyrovae("train", "titanic.csv", "--likelihood", "infer", "--no-missing")
    assert gaps.code == 2
    assert "missing (NaN) values, the first in datum" in gaps.err


@pytest.mark.slow
def test_counts_with_an_exposure(pyrovae: Any, tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    size = rng.gamma(2, 2, 200)
    counts = rng.poisson(size[:, None] * [1, 5, 20])
    table = pd.DataFrame(counts, columns=["a", "b", "c"]).assign(size=size)
    table.to_csv(tmp_path / "counts.csv", index=False)
    outcome = pyrovae(
        "train",
        "counts.csv",
        "--exposure",
        "size",
        "--output",
        "run",
        *SMALL,
        "--likelihood",
        "poisson",
        "--likelihood.exposure",
        "true",
    )
    assert outcome.code == 0, outcome.err
    for command in ("evaluate", "reconstruct", "sample"):
        assert pyrovae(command, "run").code == 0
    alone = pyrovae("train", "counts.csv", "--exposure", "size", "--likelihood", "poisson")
    assert alone.code == 2
    assert "go together" in alone.err


def test_a_constant_column_is_refused(pyrovae: Any, tmp_path: Path) -> None:
    table = pd.DataFrame({"a": np.arange(30.0), "b": np.full(30, 7.5)})
    table.to_csv(tmp_path / "table.csv", index=False)
    outcome = pyrovae("train", "table.csv")
    assert outcome.code == 2
    assert "a constant column 'b', always 7.5" in outcome.err


@pytest.mark.slow
def test_a_table_with_reordered_columns_is_refused(pyrovae: Any, tmp_path: Path) -> None:
    table = pd.DataFrame(np.random.default_rng(0).normal(size=(30, 2)), columns=["a", "b"])
    table.to_csv(tmp_path / "table.csv", index=False)
    assert pyrovae("train", "table.csv", "--output", "run", *SMALL).code == 0
    table[["b", "a"]].to_csv(tmp_path / "table.csv", index=False)
    outcome = pyrovae("evaluate", "run")
    assert outcome.code == 2
    assert "now has columns b, a, but the run was trained on a, b" in outcome.err
