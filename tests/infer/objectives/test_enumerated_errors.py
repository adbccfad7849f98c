"""Guides that cannot be enumerated."""

from collections.abc import Callable
from contextlib import nullcontext
from typing import Any

import pyro
import pyro.distributions as dist
import pytest
import torch
from torch import Tensor

from pyrovae import InputError
from pyrovae.infer import EnumeratedELBO
from tests.infer.objectives.enumerable import PARALLEL, X

pytestmark = pytest.mark.usefixtures("float64")


def guide_with(**sites: Any) -> Callable[[Tensor], None]:
    def guide(x: Tensor) -> None:
        plate = pyro.plate("data", len(x))
        for name, (fn, infer, inside) in sites.items():
            with plate if inside else nullcontext():
                pyro.sample(name, fn, infer=infer)

    return guide


COIN = dist.Bernoulli(0.5)


@pytest.mark.parametrize(
    ("guide", "message"),
    [
        (guide_with(y=(COIN, {}, True)), "the guide marks none"),
        (guide_with(y=(COIN, PARALLEL, False)), "'y' .* outside of plate 'data'"),
        (guide_with(y=(dist.Poisson(1.0), PARALLEL, True)), "support of Poisson is no list"),
        (guide_with(y=(COIN, PARALLEL, True), b=(COIN, {}, True)), "'b' .* is not marked"),
        (guide_with(**{f"y{i}": (COIN, PARALLEL, True) for i in range(13)}), "8192 joint values"),
        (
            guide_with(y=(dist.OneHotCategoricalStraightThrough(torch.ones(2)), PARALLEL, True)),
            "use OneHotCategorical",
        ),
        (guide_with(y=(dist.Bernoulli(torch.ones(3) / 2).to_event(1), PARALLEL, False)), "outside"),
        (
            guide_with(y=(COIN, PARALLEL, True), more=(COIN, PARALLEL, True)),
            "no latent of the model",
        ),
    ],
)
def test_guides_that_cannot_be_enumerated_are_refused(guide: Any, message: str) -> None:
    def model(x: Tensor) -> None:
        with pyro.plate("data", len(x)):
            y = pyro.sample("y", COIN)
            pyro.sample("x", dist.Normal(y, 1.0), obs=x)

    with pytest.raises(InputError, match=message):
        EnumeratedELBO().loss(model, guide, X)


def test_several_values_of_a_datum_are_refused() -> None:
    def guide(x: Tensor) -> None:
        with pyro.plate("data", len(x), dim=-1), pyro.plate("words", 3, dim=-2):
            pyro.sample("y", dist.Bernoulli(0.5), infer=PARALLEL)

    with pytest.raises(InputError, match=r"'y' .* in plate 'words' too"):
        EnumeratedELBO().loss(guide, guide, X)


def test_a_support_that_changes_is_refused() -> None:
    def model(x: Tensor, size: int) -> None:
        with pyro.plate("data", len(x)):
            y = pyro.sample("y", dist.Categorical(torch.ones(size)))
            pyro.sample("x", dist.Normal(y, 1.0), obs=x)

    def guide(x: Tensor, size: int) -> None:
        with pyro.plate("data", len(x)):
            pyro.sample("y", dist.Categorical(torch.ones(size)), infer=PARALLEL)

    objective = EnumeratedELBO()
    objective.loss(model, guide, X, 3)
    with pytest.raises(InputError, match="'y' of the guide has 5 values now"):
        objective.loss(model, guide, X, 5)
