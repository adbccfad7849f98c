"""Missing cells of a table: near to what is exactly known, and nothing else touched."""

import inspect
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch
from numpy.typing import NDArray

from pyrovae import InputError, Likelihood, Mixed, fit
from pyrovae.tables import imputation
from pyrovae.tables.columns import choose_columns
from pyrovae.tables.imputation import impute
from pyrovae.tables.imputed import Imputation

QUICK: dict[str, Any] = {
    "steps": 60,
    "hidden": (8,),
    "num_particles": 2,
    "num_samples": 100,
    "compile": False,
    "progress": False,
}


def linear_gaussian(num_rows: int) -> tuple[NDArray[Any], NDArray[Any], NDArray[Any]]:
    """Data x = W z + b + noise, their mean and their covariance."""
    random = np.random.default_rng(0)
    w = np.array([[2.0, 0.0], [1.5, 1.0], [0.0, 1.0], [-1.0, 1.5], [1.0, 1.0]])
    noise = np.array([0.5, 1.0, 0.4, 0.7, 0.6])
    mean = np.array([10.0, -3.0, 0.0, 100.0, 5.0])
    x = mean + random.normal(size=(num_rows, 2)) @ w.T + noise * random.normal(size=(num_rows, 5))
    return x, mean, w @ w.T + np.diag(noise**2)


def test_it_comes_near_the_exact_conditional_mean() -> None:
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


def mixed_table(num_rows: int = 120) -> tuple[pd.DataFrame, pd.DataFrame]:
    """A table of every kind of column, whole, and with cells missing."""
    random = np.random.default_rng(0)
    z = random.normal(size=num_rows)
    whole = pd.DataFrame(
        {
            "height": 170 + 8 * z + random.normal(size=num_rows),
            "visits": random.poisson(np.exp(0.5 + 0.5 * z)).astype(float),
            "age": np.round(40 + 12 * z + random.normal(size=num_rows)),
            "code": pd.array(random.poisson(3.0, num_rows), dtype="Int64"),
            "smoker": (z + 0.5 * random.normal(size=num_rows) > 0).astype(object),
            "sure": pd.array(z > 0.3, dtype="boolean"),
            "colour": np.array(["blue", "green", "red"], object)[(z > -0.5) + 1 * (z > 0.5)],
            "size": pd.Categorical(np.array(["s", "m"])[1 * (z > 0)], ["s", "m", "l"]),
            "name": [f"person {i}" for i in range(num_rows)],
            "group": random.integers(0, 2, num_rows) + 1,
            7: 1.6e9 + 100 * z,
        },
        index=pd.Index(range(1000, 1000 + num_rows), name="key"),
    )
    removed = random.random(whole.shape) < 0.15
    removed[:, whole.columns.get_loc("group")] = False
    removed[3] = True  # a row of which only the group is known
    removed[3, whole.columns.get_loc("group")] = False
    removed[4] = True  # a row of which nothing is known
    return whole, whole.mask(removed)


@pytest.fixture(scope="module")
def table() -> pd.DataFrame:
    return mixed_table()[1]


@pytest.fixture(scope="module")
def result(table: pd.DataFrame) -> Imputation:
    torch.manual_seed(0)
    return impute(table, **QUICK)


def test_every_kind_of_column_is_filled_in_its_own_terms(
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


def test_intervals_and_probabilities_stand_where_cells_were_missing(
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


def test_draws_are_whole_tables(table: pd.DataFrame, result: Imputation) -> None:
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


def test_the_model_is_of_the_columns_that_took_part(result: Imputation) -> None:
    assert result.vae is not None
    layer: Any = result.vae.likelihood
    assert layer.likelihood.columns == tuple(column.name for column in result.columns)
    assert len(result.effective_samples) == result.was_missing.any(axis=1).sum()


def test_a_seed_gives_the_same_and_leaves_torch_alone(table: pd.DataFrame) -> None:
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
def test_columns_that_cannot_take_part_are_left_as_they_are(column: Any, reason: str) -> None:
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


def test_tables_in_which_nothing_is_missing_come_back() -> None:
    whole = pd.DataFrame({"x": [1.0, 2.5, 3.0], "y": ["a", "b", "a"]})
    for table in (whole, whole[:0], pd.DataFrame(), pd.DataFrame(index=[1, 2])):
        result = impute(table)
        pd.testing.assert_frame_equal(result.filled, table)
        pd.testing.assert_frame_equal(result.draw(0), table)
        assert (result.vae, result.num_filled, result.notes) == (None, 0, ())


def test_one_column_and_empty_rows_have_the_marginal_distribution() -> None:
    x = np.random.default_rng(0).normal(5.0, 2.0, 200)
    table = pd.DataFrame({"x": np.where(np.arange(200) % 4 == 0, np.nan, x)})
    result = impute(table, **QUICK)
    assert any("50 rows have no observed cell" in note for note in result.notes)
    # Its mean and deviation are estimated from 150 cells, and from 50 x 100 draws.
    assert result.filled["x"][::4].mean() == pytest.approx(5.0, abs=4.5 * 2.0 / 150**0.5)
    assert (result.high - result.low)["x"].mean() == pytest.approx(2 * 1.645 * 2.0, rel=0.2)


def test_likelihoods_are_declared_for_all_columns_or_for_some() -> None:
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


def test_two_numbers_are_numbers_to_a_likelihood_of_numbers() -> None:
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
def test_words_have_likelihoods_of_words(likelihood: Any, message: str) -> None:
    table = pd.DataFrame({"y": ["a", "b", "c", "a", None] * 4})
    with pytest.raises(InputError) as refusal:
        choose_columns(table, Mixed(y=likelihood))
    assert message in str(refusal.value)


def test_what_is_outside_of_a_support_is_named_by_its_row_in_double_precision() -> None:
    table = pd.DataFrame({"y": [3.0, 1.0, np.nan, 2.5]})
    with pytest.raises(InputError, match=r"in row 4, column 'y'"):
        choose_columns(table, Mixed(y="Poisson"))
    (column,), _ = choose_columns(1e30 * table, None)  # whose square overflows in single precision
    assert (column.likelihood.family.name, column.is_whole) == ("Normal", False)


def test_numbers_stay_within_what_the_column_can_hold() -> None:
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


def test_objects_that_are_numbers_are_numbers() -> None:
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


def test_rows_that_are_drawn_in_different_parts_are_independent(
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


def test_a_pass_is_of_no_more_rows_than_steps_ask_for(monkeypatch: pytest.MonkeyPatch) -> None:
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


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"latent_dim": 2.5}, "latent_dim is 2.5; it must be a whole number"),
        ({"latent_dim": True}, "latent_dim is True"),
        ({"steps": 2.5}, "steps is 2.5"),
        ({"hidden": 8}, "hidden is 8; it must hold the widths"),
        ({"hidden": (8, 0)}, "a width in hidden is 0"),
        ({"num_particles": 0}, "num_particles is 0"),
        ({"num_samples": 0}, "num_samples is 0"),
        ({"seed": 2**63}, "seed is 9223372036854775808"),
        ({"seed": "x"}, "seed is 'x'"),
        ({"table": np.ones((3, 2))}, "table must be a pandas.DataFrame"),
        ({"table": pd.Series([1.0, np.nan])}, "got Series"),
    ],
)
def test_what_static_checkers_would_refuse_gets_a_sentence(
    changes: dict[str, Any], message: str
) -> None:
    unchecked = inspect.unwrap(impute)
    with pytest.raises(InputError) as refusal:
        unchecked(**{"table": mixed_table()[1][["height", "age"]]} | changes)
    assert message in str(refusal.value)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"level": 1.0}, "level is 1.0; it must be a probability between 0 and 1"),
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
def test_mistakes_are_refused_before_training(changes: dict[str, Any], message: str) -> None:
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
