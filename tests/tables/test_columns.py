"""Columns of each type get a suitable likelihood, and keep their type when they are filled."""

from typing import Any

import numpy as np
import pandas as pd
import pytest

from pyrovae import InputError, Mixed
from pyrovae.tables.columns import choose_columns
from pyrovae.tables.imputation import impute
from tests.tables.examples import QUICK, mixed_table


@pytest.mark.parametrize(
    ("column", "reason"),
    [
        ([f"w{i}" for i in range(20)], "20 different words in 20 cells"),
        (["x"] * 19 + [None], "always 0"),
        ([3.0] * 19 + [None], "always 3"),
        ([None] * 20, "is empty"),
        ([np.nan] * 20, "is empty"),
        (list(range(20)), "only numbers the rows"),
        (["1.5", "2", "?", *["3.5"] * 17], "holds numbers and also '?'"),
        ([1 + 2j] * 20, "complex"),
        (list(pd.date_range("2026-01-01", periods=20)), "20 different words in 20 cells"),
        (["a", "b", " NA", "b"] * 5, "holds ' NA', which would mean missing"),
        (["1.5", "2", " ", "4"] * 5, "holds ' ', which would mean missing"),
        ([[1, 2], [3, 4]] * 10, "holds lists"),
        (pd.arrays.SparseArray([0.5, 1.0] * 10), "is sparse"),
        ([2**53 + 2, 5] * 10, "above 2**53"),
        ([1e-200, 3e-200] * 10, "varies so little"),
    ],
)
def test_columns_that_cannot_be_used_are_unchanged(column: Any, reason: str) -> None:
    x = np.random.default_rng(0).normal(size=20)
    table = pd.DataFrame({"x": x, "other": column}).mask(
        pd.DataFrame({"x": x > 1.0, "other": False})
    )
    table["other"] = pd.Series(column)
    result = impute(table, **QUICK | {"steps": 2})
    assert reason in result.left_out["other"]
    pd.testing.assert_series_equal(result.filled["other"], table["other"])
    assert result.filled["x"].notna().all()
    with pytest.raises(InputError, match="other"):
        impute(table, likelihood=Mixed(other="Normal"), **QUICK)


@pytest.mark.slow
def test_likelihoods_can_be_declared_for_all_columns_or_for_some() -> None:
    table = mixed_table()[1][["height", "age", "colour"]]
    everywhere = impute(table, likelihood="StudentT", **QUICK | {"steps": 2})
    named = impute(
        table,
        likelihood={"family": "Mixed", "blocks": [{"columns": "age", "likelihood": "Poisson"}]},
        **QUICK | {"steps": 2},
    )
    for result, families in (
        (everywhere, ["StudentT", "StudentT", "Categorical"]),
        (named, ["Normal", "Poisson", "Categorical"]),
    ):
        found = {column.name: column.likelihood.family.name for column in result.columns}
        assert [found[name] for name in table] == families


@pytest.mark.slow
def test_columns_of_two_numbers_are_numbers_for_likelihoods_of_numbers() -> None:
    z = np.random.default_rng(0).normal(size=40)
    table = pd.DataFrame({"x": z, "y": np.where(np.arange(40) % 5 == 0, np.nan, 1.0 * (z > 0))})
    quick = QUICK | {"steps": 2}
    for likelihood, is_word in (
        (Mixed(y="Poisson"), False),
        ("Normal", False),
        (Mixed(y="Bernoulli"), True),
        (Mixed(y={"family": "Categorical", "num_classes": 2}), True),
        (Mixed(y={"family": "Categorical", "num_classes": 3}), False),
    ):
        result = impute(table, likelihood=likelihood, **quick)
        missing = table["y"].isna()
        assert result.probability["y"].notna().equals(missing & is_word)
        assert result.low["y"].notna().equals(missing & (not is_word))
        assert (result.filled["y"] == result.filled["y"].round()).all()


@pytest.mark.parametrize(
    ("likelihood", "message"),
    [
        (
            "Normal",
            "3 different words, which Normal does not fit; declare Categorical with num_classes=3",
        ),
        ("Bernoulli", "holds 3 different words, which Bernoulli does not fit"),
        (
            {"family": "Categorical", "num_classes": 5},
            "Categorical with num_classes=5 does not fit",
        ),
    ],
)
def test_words_need_a_likelihood_of_words(likelihood: Any, message: str) -> None:
    table = pd.DataFrame({"y": ["a", "b", "c", "a", None] * 4})
    with pytest.raises(InputError) as refusal:
        choose_columns(table, Mixed(y=likelihood))
    assert message in str(refusal.value)


def test_values_outside_a_support_are_named_by_row_in_double_precision() -> None:
    table = pd.DataFrame({"y": [3.0, 1.0, np.nan, 2.5]})
    with pytest.raises(InputError, match=r"in row 4, column 'y'"):
        choose_columns(table, Mixed(y="Poisson"))
    (column,), _ = choose_columns(1e30 * table, None)  # whose square overflows in single precision
    assert (column.likelihood.family.name, column.is_whole) == ("Normal", False)


def test_numbers_stay_within_the_bounds_of_their_column() -> None:
    random = np.random.default_rng(0)
    z = random.normal(size=60)
    table = pd.DataFrame(
        {
            "income": np.exp(8 + 1.5 * z),
            "visits": np.round(np.exp(3 + 1.3 * z)),
            "small": pd.array(np.clip(np.round(60 + 60 * z), 0, 255), dtype="UInt8"),
            "signed": pd.array(np.clip(np.round(90 * z), -128, 127), dtype="Int8"),
            "free": random.normal(size=60),
        }
    ).mask(random.random((60, 5)) < 0.3)
    result = impute(table, **QUICK | {"steps": 5})
    assert result.filled.dtypes.equals(table.dtypes)
    for part in (result.filled, result.low, result.high, result.mean, result.draw(1)):
        numbers = part.astype(float)
        assert numbers.drop(columns=["signed", "free"]).min().min() >= 0
        assert numbers["small"].max() <= 255
        assert numbers["signed"].min() >= -128
        assert numbers["signed"].max() <= 127
    assert (result.low == 0).to_numpy().any()  # or nothing was cut off
    assert result.draw(0)["free"].min() < 0
    (of_income,) = (note for note in result.notes if "'income'" in note)
    (of_visits,) = (note for note in result.notes if "'visits'" in note)
    assert "declare a LogNormal" in of_income
    assert "declare a NegativeBinomial" in of_visits
    assert not any("'small'" in note or "'free'" in note for note in result.notes)


def test_columns_of_objects_that_are_numbers_are_columns_of_numbers() -> None:
    z = np.random.default_rng(0).normal(size=40)
    missing = np.arange(40) % 5 == 0
    table = pd.DataFrame(
        {"real": z.tolist(), "count": [round(abs(5 * x)) for x in z]}, dtype=object
    )
    table["two"] = pd.Series([int(x > 0) + 1 for x in z], dtype=object)
    table = table.mask(missing[:, None] & np.full((1, 3), True), None)
    result = impute(table, **QUICK | {"steps": 2})
    words = {column.name: column.words is not None for column in result.columns}
    assert words == {"real": False, "count": False, "two": True}
    for drawn in (result.filled, result.draw(0)):
        assert drawn.dtypes.equals(table.dtypes)
        kinds = {name: set(map(type, drawn[name])) for name in drawn}
        assert kinds == {"real": {float}, "count": {int}, "two": {int}}
