"""Data that a likelihood cannot have produced, and what the message proposes."""

import re
import subprocess
import sys
from typing import Any

import pytest
import torch
from torch import Tensor

from pyrovae import InputError, Likelihood, Mixed
from pyrovae.likelihoods import LikelihoodLayer
from pyrovae.likelihoods.families import FAMILIES
from pyrovae.likelihoods.support import check_values, check_varied, find_matching

NAN = torch.nan
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


TYPES = [
    torch.bool,
    torch.uint8,
    torch.int8,
    torch.int16,
    torch.int32,
    torch.int64,
    torch.float16,
    torch.bfloat16,
    torch.float32,
    torch.float64,
]


@pytest.mark.parametrize("dtype", TYPES, ids=str)
@pytest.mark.parametrize("name", sorted(FAMILIES))
def test_numbers_of_every_type_are_taken_or_refused_in_a_sentence(
    name: str, dtype: torch.dtype
) -> None:
    """Truth values count as 0 and 1, and what is said does not depend on the type."""
    settings = {"BetaBinomial": {"total_count": 1}, "Binomial": {"total_count": 1}}
    settings |= {"Categorical": {"num_classes": 2}, "OrderedLogistic": {"num_classes": 2}}
    layer = Likelihood(name, **settings.get(name, {"rank": 1} if name == "LowRankNormal" else {}))
    made = layer.build((3,))
    for rows in ([[0, 1, 0]], [[1, 1, 1]], [[0, 0, 0]]):
        said = []
        for x in (torch.tensor(rows, dtype=dtype), torch.tensor(rows, dtype=torch.float32)):
            try:
                made.check(x)
                said.append("")
            except InputError as error:
                said.append(str(error))
        assert said[0] == said[1]
        assert "\n" not in said[0]


def test_truth_values_are_the_numbers_0_and_1() -> None:
    x = torch.randn(40, 3) > 0
    with pytest.raises(InputError, match=r"Gamma cannot .* the first 0 .*choose: Bernoulli"):
        Likelihood("Gamma").build((3,)).check(x)
    mixed = Mixed(a="Gamma", b="Bernoulli", c="Bernoulli").build((3,))
    with pytest.raises(InputError, match="column 'a'"):
        mixed.check(x)
    Likelihood("Bernoulli").build((3,)).check(x)


PROGRAM = """
import torch
from pyrovae import VAE, InputError, fit
x = torch.randn(40, 3) > 0
for likelihood in ("Bernoulli", "Gamma"):
    vae = VAE((3,), latent_dim=1, likelihood=likelihood)
    try:
        vae.standardise(x)
        print(0 < fit(vae.model, vae.guide, x, epochs=1, progress=False)["loss"][-1] < 10)
    except InputError as error:
        print(error)
"""


def test_a_vae_of_truth_values() -> None:
    """In a process of its own, as a type in the signatures of models excludes truth values."""
    done = subprocess.run(
        [sys.executable, "-W", "ignore", "-c", PROGRAM], capture_output=True, text=True, check=True
    )
    trained, refused = done.stdout.splitlines()[:2]
    assert trained == "True"
    assert re.match("Gamma cannot have produced .* the first 0 ", refused)


@pytest.mark.parametrize(
    ("name", "rows", "message"),
    [
        (
            "Dirichlet",
            [[0.2, 0.3, 0.5], [0.5, 0.5, 0.0]],
            "shares above 0 .* is 0 in datum 1, feat",
        ),
        ("Dirichlet", [[0.2, 0.3, 0.4]], "sum to 1 .* they sum to 0.9 in datum 0; .*divide"),
        ("Dirichlet", [[0.7, 0.4, NAN]], "they sum to 1.1 in datum 0"),
        (
            "OneHotCategorical",
            [[0.0, 1.0, 0.0], [0.0, 1.0, 1.0]],
            "sum to 2 in datum 1; .*Bernoulli",
        ),
        ("OneHotCategorical", [[0.0, 3.0, 0.0]], r"there is 3 .*Categorical\(num_classes=...\)"),
        ("OneHotCategorical", [[0.0, 0.0, 0.0]], "they sum to 0 in datum 0"),
        ("OneHotCategorical", [[1.0, 1.0, NAN]], "they sum to 2 in datum 0"),
    ],
)
def test_vectors_whose_entries_do_not_go_together(name: str, rows: Any, message: str) -> None:
    layer = Likelihood(name).build((3,))
    with pytest.raises(InputError, match=f"^{name} is of .*{message}") as caught:
        layer.check(torch.tensor(rows))
    assert "\n" not in str(caught.value)
    with pytest.raises(InputError, match=r"column '[abc]'|in datum"):
        layer.check(torch.tensor(rows), ["a", "b", "c"])


def test_vectors_with_missing_entries_are_taken() -> None:
    Likelihood("Dirichlet").build((3,)).check(
        torch.tensor([[0.2, NAN, 0.5], [NAN] * 3, [0.1, 0.2, 0.70005]])
    )
    Likelihood("OneHotCategorical").build((3,)).check(
        torch.tensor([[0.0, NAN, 0.0], [NAN, 1.0, NAN], [NAN] * 3])
    )


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
