"""``pyrovae compare`` and ``pyrovae likelihoods``."""

import json
import re
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest

from pyrovae.likelihoods.families import FAMILIES
from tests.cli.helpers import SMALL


def test_likelihoods_lists_every_family(pyrovae: Any) -> None:
    shown = pyrovae("likelihoods")
    assert shown.code == 0
    for name in FAMILIES:
        assert name in shown.out


@pytest.mark.slow
def test_compare_ranks_only_what_is_comparable(pyrovae: Any, tmp_path: Path) -> None:
    specs = "normal,bernoulli,{family: binomial, total_count: 16},discretised-logistic"
    outcome = pyrovae("compare", "digits", "--likelihoods", specs, "--output", "all", *SMALL)
    assert outcome.code == 0, outcome.err
    table = outcome.out[outcome.out.index("Test ELBO") :]
    order = re.findall(r"\d-(Normal|Bernoulli|Binomial|DiscretisedLogistic)", table)
    assert order[0] == "Normal"
    assert order[1] == "Bernoulli"
    assert set(order[2:]) == {"Binomial", "DiscretisedLogistic"}
    assert "Values of different sections cannot be compared" in table
    assert "With --dequantise, densities give bounds" in table
    assert (tmp_path / "all" / "comparison.png").exists()
    runs = sorted(path.name for path in (tmp_path / "all").iterdir() if path.is_dir())
    assert runs == ["1-Normal", "2-Bernoulli", "3-Binomial", "4-DiscretisedLogistic"]

    fair = pyrovae(
        "compare",
        "digits",
        "--likelihoods",
        "normal,{family: binomial, total_count: 16}",
        "--dequantise",
        "--output",
        "fair",
        *SMALL,
    )
    assert fair.code == 0, fair.err
    record = json.loads((tmp_path / "fair" / "1-Normal" / "evaluation.json").read_text())
    assert record["kind"] == "lower bound on log probability mass"
    assert record["bits_per_dimension"] == pytest.approx(-record["elbo"]["mean"] / (64 * np.log(2)))
    assert "different sections" not in fair.out[fair.out.index("Test ELBO") :]
    wrong = pyrovae("compare", "digits", "--likelihoods", "normal,beta", "--output", "no", *SMALL)
    assert wrong.code == 2
    assert "Beta cannot have produced the training data" in wrong.err
    assert not (tmp_path / "no").exists()


@pytest.mark.parametrize("few", ["", "normal"])
def test_one_likelihood_cannot_be_compared(pyrovae: Any, few: str) -> None:
    outcome = pyrovae("compare", "digits", "--likelihoods", few)
    assert outcome.code == 2
    assert "compare varies one part: give two or more of likelihoods" in outcome.err


@pytest.mark.slow
def test_compare_likelihoods_of_columns(pyrovae: Any, tmp_path: Path) -> None:
    """Blocks in an order of their own; another measure for another choice of densities."""
    rng = np.random.default_rng(0)
    table = pd.DataFrame({"a": rng.normal(size=60), "n": rng.poisson(3, 60), "w": ["x", "y"] * 30})
    table.to_csv(tmp_path / "table.csv", index=False)
    blocks = (
        "[{columns: [w], likelihood: Bernoulli}, {columns: [n], likelihood: %s}, "
        "{columns: [a], likelihood: Normal}]"
    )
    specs = ", ".join(f"{{family: Mixed, blocks: {blocks % n}}}" for n in ("Poisson", "Normal"))
    outcome = pyrovae("compare", "table.csv", "--likelihoods", specs, "--output", "all", *SMALL)
    assert outcome.code == 0, outcome.err
    assert "Values of different sections cannot be compared" in outcome.out
