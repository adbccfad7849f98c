"""Imputation gives values near to the exact ones, with intervals and draws."""

from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch
from numpy.typing import NDArray

from pyrovae import InputError, fit
from pyrovae.tables import imputation
from pyrovae.tables.imputation import impute
from pyrovae.tables.imputed import Imputation
from tests.tables.examples import QUICK, mixed_table


def linear_gaussian(num_rows: int) -> tuple[NDArray[Any], NDArray[Any], NDArray[Any]]:
    """Data x = W z + b + noise, their mean and their covariance."""
    random = np.random.default_rng(0)
    w = np.array([[2.0, 0.0], [1.5, 1.0], [0.0, 1.0], [-1.0, 1.5], [1.0, 1.0]])
    noise = np.array([0.5, 1.0, 0.4, 0.7, 0.6])
    mean = np.array([10.0, -3.0, 0.0, 100.0, 5.0])
    x = mean + random.normal(size=(num_rows, 2)) @ w.T + noise * random.normal(size=(num_rows, 5))
    return x, mean, w @ w.T + np.diag(noise**2)


@pytest.mark.slow
def test_imputed_means_are_near_the_exact_conditional_means() -> None:
    x, mean, covariance = linear_gaussian(600)
    removed = np.random.default_rng(1).random(x.shape) < 0.25
    table = pd.DataFrame(x, columns=list("abcde")).mask(removed)
    result = impute(table, latent_dim=2, **QUICK | {"steps": 350, "num_samples": 200})
    exact, sd = np.full(x.shape, np.nan), np.full(x.shape, np.nan)
    for i in range(len(x)):
        out, at = removed[i], ~removed[i]
        gain = np.linalg.solve(covariance[np.ix_(at, at)], covariance[np.ix_(at, out)]).T
        exact[i, out] = mean[out] + gain @ (x[i, at] - mean[at])
        left = covariance[np.ix_(out, out)] - gain @ covariance[np.ix_(at, out)]
        sd[i, out] = np.sqrt(np.diag(left))
    # Where the parameters are estimated, 5 (2 + 2) of them from 600 rows a quarter of whose cells
    # are gone, the mean is off by some sqrt(20 / 450) = 0.21 of the conditional standard deviation.
    off = ((result.mean.to_numpy() - exact) / sd)[removed]
    assert np.sqrt(np.mean(off**2)) < 0.3
    # Without the other cells it would be off by far more.
    alone = ((mean - exact) / sd)[removed]
    assert np.sqrt(np.mean(alone**2)) > 1.0
    width = (result.high - result.low).to_numpy()[removed] / (2 * 1.645 * sd[removed])
    assert np.median(width) == pytest.approx(1.0, abs=0.15)
    inside = (x >= result.low.to_numpy()) & (x <= result.high.to_numpy())
    error = np.sqrt(0.9 * 0.1 / removed.sum())
    assert inside[removed].mean() == pytest.approx(0.9, abs=0.02 + 4.5 * error)
    # A draw varies about the mean by the conditional standard deviation, and by the blur of a tenth
    # of the column's, which adds up to 0.07 of the variance.
    drawn = (result.draw(3).to_numpy() - result.mean.to_numpy())[removed] / sd[removed]
    assert np.sqrt(np.mean(drawn**2)) == pytest.approx(1.03, abs=0.12)


@pytest.fixture(scope="module")
def table() -> pd.DataFrame:
    return mixed_table()[1]


@pytest.fixture(scope="module")
def result(table: pd.DataFrame) -> Imputation:
    torch.manual_seed(0)
    return impute(table, **QUICK)


@pytest.mark.slow
def test_cells_are_filled_with_values_of_the_type_of_their_column(
    table: pd.DataFrame, result: Imputation
) -> None:
    filled, missing = result.filled, table.isna()
    assert filled.dtypes.equals(table.dtypes)
    assert filled.index.equals(table.index)
    assert filled.columns.equals(table.columns)
    pd.testing.assert_frame_equal(filled.mask(missing), table.mask(missing))
    assert list(result.left_out) == ["name"]
    assert "different words in" in result.left_out["name"]
    assert filled["name"].isna().equals(table["name"].isna())
    assert not filled.drop(columns="name").isna().to_numpy().any()
    pd.testing.assert_frame_equal(result.was_missing, missing & filled.notna())
    assert result.num_filled == missing.drop(columns="name").to_numpy().sum()
    families = {column.name: column.likelihood.family.name for column in result.columns}
    assert families == {
        "height": "Normal",
        "visits": families["visits"],
        "age": "Normal",
        "code": families["code"],
        "smoker": "Bernoulli",
        "sure": "Bernoulli",
        "colour": "Categorical",
        "size": "Bernoulli",
        "group": "Bernoulli",
        "7": "Normal",
    }
    assert {families["visits"], families["code"]} <= {"Poisson", "NegativeBinomial"}
    for name in ("visits", "age", "code"):
        values = filled[name].astype(float)
        assert (values == values.round()).all()
    assert set(filled["smoker"]) == {True, False}
    assert set(filled["colour"]) == {"blue", "green", "red"}
    assert set(filled["size"]) == {"s", "m"}
    assert any("1 rows have no observed cell" in note for note in result.notes)


def test_intervals_and_probabilities_are_given_for_missing_cells_only(
    table: pd.DataFrame, result: Imputation
) -> None:
    words = ["smoker", "sure", "colour", "size", "group"]
    numbers = [name for name in table if name not in [*words, "name"]]
    missing = table.isna()
    for part in (result.low, result.high, result.mean):
        assert part[numbers].notna().equals(missing[numbers])
    assert result.low[[*words, "name"]].isna().to_numpy().all()
    assert result.probability[words].notna().equals(missing[words])
    assert result.probability[numbers].isna().to_numpy().all()
    probability = result.probability[words].to_numpy()[missing[words].to_numpy()]
    assert ((probability >= 1 / 3) & (probability <= 1)).all()
    low, high, at = (part[numbers].to_numpy(float) for part in (result.low, result.high, missing))
    assert (low <= high)[at.astype(bool)].all()
    point = result.filled[numbers].to_numpy(float)
    assert ((low <= point) & (point <= high))[at.astype(bool)].mean() > 0.99
    counts = result.low[["visits", "code"]].to_numpy()
    assert (counts[~np.isnan(counts)] >= 0).all()


def test_draws_are_complete_tables(table: pd.DataFrame, result: Imputation) -> None:
    one, two = result.draw(0), result.draw(result.num_draws - 1)
    for drawn in (one, two):
        assert drawn.dtypes.equals(table.dtypes)
        pd.testing.assert_frame_equal(drawn.mask(table.isna()), table.mask(table.isna()))
        assert drawn.isna().equals(result.filled.isna())
    assert not one.equals(two)
    with pytest.raises(InputError, match="100 draws, numbered from 0; got 100"):
        result.draw(100)
    draws = [result.draw(i) for i in range(100)]
    for name in ("height", 7):
        at = table[name].isna().to_numpy()
        drawn = np.stack([draw[name].to_numpy()[at] for draw in draws])
        off = drawn.mean(0) - result.mean[name].to_numpy()[at]
        assert (np.abs(off) < 4.5 * drawn.std(0) / 10).all()
        assert len(np.unique(drawn)) > 0.5 * drawn.size


def test_the_model_has_the_columns_that_were_used(result: Imputation) -> None:
    assert result.vae is not None
    layer: Any = result.vae.likelihood
    assert layer.likelihood.columns == tuple(column.name for column in result.columns)
    assert len(result.effective_samples) == result.was_missing.any(axis=1).sum()


@pytest.mark.slow
def test_a_seed_reproduces_results_and_keeps_the_random_state_of_torch(table: pd.DataFrame) -> None:
    part = table[["height", "visits"]]
    quick = QUICK | {"steps": 20}
    torch.manual_seed(5)
    first = impute(part, seed=1, **quick)
    state = torch.random.get_rng_state()
    torch.manual_seed(5)
    assert torch.equal(state, torch.random.get_rng_state())
    again = impute(part, seed=1, **quick)
    pd.testing.assert_frame_equal(first.filled, again.filled)
    assert not impute(part, seed=2, **quick).filled.equals(first.filled)


def test_tables_without_missing_cells_are_returned_unchanged() -> None:
    whole = pd.DataFrame({"x": [1.0, 2.5, 3.0], "y": ["a", "b", "a"]})
    for table in (whole, whole[:0], pd.DataFrame(), pd.DataFrame(index=[1, 2])):
        result = impute(table)
        pd.testing.assert_frame_equal(result.filled, table)
        pd.testing.assert_frame_equal(result.draw(0), table)
        assert (result.vae, result.num_filled, result.notes) == (None, 0, ())


@pytest.mark.slow
def test_empty_rows_of_one_column_get_its_marginal_distribution() -> None:
    x = np.random.default_rng(0).normal(5.0, 2.0, 200)
    table = pd.DataFrame({"x": np.where(np.arange(200) % 4 == 0, np.nan, x)})
    result = impute(table, **QUICK)
    assert any("50 rows have no observed cell" in note for note in result.notes)
    # Its mean and deviation are estimated from 150 cells, and from 50 x 100 draws.
    assert result.filled["x"][::4].mean() == pytest.approx(5.0, abs=4.5 * 2.0 / 150**0.5)
    assert (result.high - result.low)["x"].mean() == pytest.approx(2 * 1.645 * 2.0, rel=0.2)


def test_rows_drawn_in_different_chunks_are_independent(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    num_samples = 100
    monkeypatch.setattr(imputation, "_MAX_STORED", 20 * num_samples * 2)  # of 20 rows
    x = np.random.default_rng(0).normal(size=(60, 2))
    table = pd.DataFrame(x, columns=["a", "b"])
    table.loc[:39, "b"] = np.nan
    result = impute(table, **QUICK | {"steps": 2, "num_samples": num_samples})
    drawn = np.stack([result.draw(i)["b"].to_numpy()[:40] for i in range(num_samples)])
    standard = (drawn - drawn.mean(0)) / drawn.std(0)
    correlation = (standard[:, :20] * standard[:, 20:]).mean()
    assert abs(correlation) < 4.5 / np.sqrt(20 * num_samples)


@pytest.mark.slow
def test_training_uses_no_more_rows_than_its_steps_need(monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[tuple[int, int]] = []

    def counted(*arguments: Any, **settings: Any) -> Any:
        asked.append((len(arguments[2]), settings["epochs"]))
        return fit(*arguments, **settings)

    monkeypatch.setattr(imputation, "fit", counted)
    table = pd.DataFrame(np.random.default_rng(0).normal(size=(500, 2)), columns=["a", "b"])
    table.loc[:3, "b"] = np.nan
    for steps in (2, 9):  # eight are a pass through 450 rows
        impute(table, **QUICK | {"steps": steps})
    assert asked == [(128, 1), (450, 2)]
