"""Data that a likelihood cannot have produced, and what the message proposes."""

from typing import Any

import pytest
import torch
from torch import Tensor

from pyrovae import InputError, Likelihood
from pyrovae.likelihoods import LikelihoodLayer
from pyrovae.likelihoods.support import check_values, check_varied, find_matching

BINOMIAL = {"family": "Binomial", "total_count": 4}
CATEGORICAL = {"family": "Categorical", "num_classes": 3}


@pytest.mark.parametrize(
    ("spec", "value", "reason"),
    [
        (
            "Bernoulli",
            0.3,
            "of whole numbers, .* hold 0.3 in datum 2, column 'b'; binarise .* ContinuousBernoulli",
        ),
        ("Bernoulli", 2.0, r"16.7% of the values.*first 2 .*Binomial\(total_count=2\)"),
        ("Poisson", -1.0, "of numbers from 0 upwards, .* hold -1 .*would fit: Laplace, Normal"),
        ("Poisson", 1.5, "of whole numbers, .* hold 1.5 .*would fit: Exponential, Laplace"),
        (BINOMIAL, 5.0, r"first 5 .*Binomial\(total_count=5\), Categorical\(num_classes=6\)"),
        (CATEGORICAL, 3.0, r"first 3 .*Categorical\(num_classes=4\)"),
        ("Gamma", 0.0, "Gamma cannot .* the first 0 .*.*or choose: Bernoulli, BetaBinomial"),
        ("VonMises", 4.0, "VonMises cannot .* the first 4 .*Binomial"),
        ("Normal", 1e30, "hold 1e\\+30 in datum 2, column 'b', whose square overflows"),
        ("Normal", float("inf"), "hold infinite values"),
    ],
)
def test_refused(spec: Any, value: float, reason: str) -> None:
    x = torch.tensor([[0.0, 1.0], [1.0, 0.0], [0.0, value]])
    layer = Likelihood.of(spec).build((2,))
    with pytest.raises(InputError, match=reason):
        layer.check(x, ["a", "b"])


@pytest.mark.parametrize(
    ("x", "reason"),
    [
        (torch.zeros(3, 4), r"shape \(3, 4\); the model expects \(2,\)"),
        (torch.zeros(0, 2), "are empty"),
        (torch.zeros(3, 2, dtype=torch.complex64), "are complex"),
    ],
)
def test_wrong_shape_or_type(x: Tensor, reason: str) -> None:
    with pytest.raises(InputError, match=f"the test data.*{reason}"):
        Likelihood("Bernoulli").build((2,)).check(x, what="the test data")


def test_where_in_an_image() -> None:
    x = torch.zeros(4, 1, 2, 3)
    x[3, 0, 1, 2] = 9
    with pytest.raises(InputError, match=r"in datum 3, at position \(0, 1, 2\)"):
        Likelihood("Bernoulli").build((1, 2, 3)).check(x)


def test_grey_pixels_under_bernoulli() -> None:
    layer = Likelihood("Bernoulli").build((1, 2, 3))
    whole = torch.tensor([0.0, 255, 17, 3, 0, 1]).reshape(1, 1, 2, 3)
    with pytest.raises(
        InputError, match="range from 0 to 255: binarise them, divide them by 255 for Continuous"
    ):
        layer.check(whole)
    with pytest.raises(InputError, match=r"binarise them .* ContinuousBernoulli"):
        layer.check(whole / 255)


def test_integer_data_are_as_good_as_floats() -> None:
    x = torch.tensor([[0, 1], [1, 1]], dtype=torch.uint8)
    for spec in ("Bernoulli", "Poisson", BINOMIAL, CATEGORICAL):
        Likelihood.of(spec).build((2,)).check(x)


@pytest.mark.parametrize(
    ("values", "families"),
    [
        ([0.0, 1.0], {"Bernoulli", "Binomial", "Categorical", "Normal", "Poisson"}),
        ([0.0, 7.0], {"Binomial", "Categorical", "Normal", "Poisson"}),
        ([0.0, 0.5], {"Normal"}),
        ([0.0, 5000.0], {"Binomial", "Normal", "Poisson"}),
    ],
)
def test_what_would_fit(values: list[float], families: set[str]) -> None:
    named = {"Bernoulli", "Binomial", "Categorical", "Normal", "Poisson"}
    assert {
        p.family.name for p in find_matching(torch.tensor(values), LikelihoodLayer)
    } & named == families


def test_missing_entries_are_no_reason() -> None:
    x = torch.tensor([[0.0, torch.nan], [1.0, 1.0]])
    Likelihood("Bernoulli").build((2,)).check(x)
    with pytest.raises(InputError, match=r"NaN.* in datum 0, column 'b'; .*missing=True"):
        check_values(x, (2,), ["a", "b"])


def test_a_constant_column_has_no_density() -> None:
    x = torch.tensor([[1.0, 7.0], [2.0, torch.nan], [3.0, 7.0]])
    with pytest.raises(InputError, match="a constant column 'b', always 7"):
        check_varied(Likelihood("Normal").build((2,)), x, ["a", "b"], "the data")
    check_varied(Likelihood("Poisson").build((2,)), x, ["a", "b"], "the data")
