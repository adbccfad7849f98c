"""Invalid arguments of impute get a message before any training."""

import inspect
from typing import Any

import numpy as np
import pandas as pd
import pytest

from pyrovae import InputError, Likelihood, Mixed
from pyrovae.tables.imputation import impute
from tests.tables.examples import mixed_table


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"latent_dim": 2.5}, "latent_dim is 2.5; it must be a whole number"),
        ({"latent_dim": True}, "latent_dim is True"),
        ({"steps": 2.5}, "steps is 2.5"),
        ({"hidden": 8}, "hidden is 8; it must be a sequence of whole numbers"),
        ({"hidden": (8, 0)}, "hidden[1] is 0"),
        ({"num_particles": 0}, "num_particles is 0"),
        ({"num_samples": 0}, "num_samples is 0"),
        ({"seed": 2**63}, "seed is 9223372036854775808"),
        ({"seed": "x"}, "seed is 'x'"),
        ({"table": np.ones(3)}, "it must be a pandas.DataFrame"),
        ({"table": pd.Series([1.0, np.nan])}, "table is a Series"),
    ],
)
def test_arguments_of_a_wrong_type_get_a_message(changes: dict[str, Any], message: str) -> None:
    unchecked = inspect.unwrap(impute)
    with pytest.raises(InputError) as refusal:
        unchecked(**{"table": mixed_table()[1][["height", "age"]]} | changes)
    assert message in str(refusal.value)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"level": 1.0}, "level is 1.0; it must be positive and below 1"),
        (
            {"level": 0.999},
            "level is 0.999, which is too high for 500 draws; choose a level of 0.996",
        ),
        ({"steps": 0}, "steps is 0"),
        ({"latent_dim": 0}, "latent_dim is 0"),
        ({"likelihood": "Nrmal"}, "did you mean 'Normal'"),
        ({"likelihood": Mixed(hieght="Normal")}, "no column 'hieght': did you mean 'height'"),
        ({"likelihood": "Poisson"}, "Poisson is of whole numbers"),
        ({"likelihood": Likelihood("Poisson", exposure=True)}, "needs exposure as well as x"),
    ],
)
def test_invalid_arguments_are_refused_before_training(
    changes: dict[str, Any], message: str
) -> None:
    table = mixed_table()[1][["height", "age", "colour"]]
    with pytest.raises(InputError) as refusal:
        impute(table, **changes)
    assert message in str(refusal.value)


def test_tables_with_nothing_to_learn_from_are_refused() -> None:
    with pytest.raises(InputError, match="no column can be used to fill missing cells"):
        impute(pd.DataFrame({"x": [np.nan, np.nan], "y": [1.0, np.nan]}))
    with pytest.raises(InputError, match="two columns named 'x'"):
        impute(pd.DataFrame([[1.0, np.nan]] * 3, columns=["x", "x"]))
    with pytest.raises(InputError, match="infinite"):
        impute(pd.DataFrame({"x": [1.0, np.inf, 2.5, np.nan]}))
