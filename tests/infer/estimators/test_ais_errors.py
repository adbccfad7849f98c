"""Models and options that annealed importance sampling refuses."""

from collections.abc import Callable
from typing import Any

import pyro
import pyro.distributions as dist
import pytest
import torch
from pyro import poutine
from torch import Tensor
from torch.utils.data import DataLoader, TensorDataset

from pyrovae import InputError
from pyrovae.infer.estimators.ais import annealed_importance_sample, bidirectional_check
from tests.infer.estimators.annealing_models import QUIET, Regression
from tests.pairs import user_pair

pytestmark = pytest.mark.usefixtures("float64")


def model_with(latent: Callable[[], Any]) -> Callable[[Tensor], None]:
    """A model with one latent of this distribution."""

    def model(x: Tensor) -> None:
        with pyro.plate("data", len(x)):
            pyro.sample("z", latent())
            pyro.sample("x", dist.Normal(0.0, 1.0), obs=x)

    return model


def without_latents(x: Tensor) -> None:
    with pyro.plate("data", len(x)):
        pyro.sample("x", dist.Normal(0.0, 1.0), obs=x)


def of_fixed_size(x: Tensor) -> None:
    with pyro.plate("data", 3):
        z = pyro.sample("z", dist.Normal(0.0, 1.0))
        pyro.sample("x", dist.Normal(z, 1.0), obs=x[:3])


def in_a_loop(x: Tensor) -> None:
    for i in pyro.plate("data", len(x)):
        z = pyro.sample(f"z{i}", dist.Normal(0.0, 1.0))
        pyro.sample(f"x{i}", dist.Normal(z, 1.0), obs=x[i])


def observing_nothing(x: Tensor) -> None:
    with pyro.plate("data", len(x)):
        pyro.sample("z", dist.Normal(0.0, 1.0))


class TestErrors:
    @pytest.mark.parametrize(
        ("model", "message"),
        [
            (model_with(lambda: dist.Bernoulli(0.4)), "'z' is a Bernoulli, which is discrete: HMC"),
            (model_with(lambda: dist.Poisson(0.4)), "'z' is a Poisson, which is discrete: HMC"),
            (model_with(lambda: dist.Delta(torch.ones(()))), "'z' is a Delta, which"),
            (
                model_with(lambda: dist.ProjectedNormal(torch.ones(3))),
                "'z' is a ProjectedNormal, whose support has no bijection",
            ),
            (without_latents, "the model has no latents"),
            (of_fixed_size, r"plate 'data' has 3 data at site 'z', but got 8 rows"),
            (in_a_loop, "plate 'data' is a loop"),
            (observing_nothing, "the model observes nothing"),
        ],
    )
    def test_unsuitable_models_are_refused(
        self, model: Callable[[Tensor], None], message: str
    ) -> None:
        with pytest.raises(InputError, match=message):
            annealed_importance_sample(model, torch.randn(4), num_chains=2, **QUIET)

    @pytest.mark.parametrize("estimate", [annealed_importance_sample, bidirectional_check])
    def test_shared_latents_and_scaled_sites_are_refused(
        self, estimate: Callable[..., Any]
    ) -> None:
        with pytest.raises(InputError, match=r"'weights' is outside of plate 'data'"):
            estimate(user_pair().model, torch.randn(4, 3), **QUIET)
        program = Regression()
        with pytest.raises(InputError, match=r"site 'z' is scaled by 0\.5"):
            estimate(poutine.scale(program.model, 0.5), program.data(4), **QUIET)

    def test_guides_with_auxiliary_sites_are_refused(self) -> None:
        program = Regression()

        def guide(x: Tensor, y: Tensor) -> None:
            with pyro.plate("data", len(x)):
                loc = pyro.sample("a", dist.Normal(0.0, 1.0), infer={"is_auxiliary": True})
                pyro.sample("z", dist.Normal(loc[:, None].expand(-1, 2), 1.0).to_event(1))

        with pytest.raises(InputError, match="site 'a' of the guide is auxiliary"):
            annealed_importance_sample(program.model, program.data(4), guide=guide, **QUIET)

    @pytest.mark.parametrize(
        ("options", "message"),
        [
            ({"num_chains": 1}, "num_chains is 1; it must be 2 or more"),
            ({"num_temperatures": 0}, "num_temperatures is 0; it must be 1 or more"),
            ({"num_leapfrog": 0}, "num_leapfrog is 0; it must be 1 or more"),
        ],
    )
    def test_invalid_options_are_refused(self, options: dict[str, int], message: str) -> None:
        program = Regression()
        for estimate in (annealed_importance_sample, bidirectional_check):
            with pytest.raises(InputError, match=message):
                estimate(program.model, program.data(4), **options)

    def test_a_loader_without_batches_is_refused(self) -> None:
        program = Regression()
        loader = DataLoader(TensorDataset(*program.data(3)), batch_size=5, drop_last=True)
        with pytest.raises(InputError, match="the data gave no batch"):
            annealed_importance_sample(program.model, loader, **QUIET)

    def test_nan_weights_are_refused(self) -> None:
        def model(x: Tensor) -> None:
            with pyro.plate("data", len(x)):
                z = pyro.sample("z", dist.Normal(0.0, 1.0))
                pyro.sample("x", dist.Normal(z, x * torch.nan), obs=x)

        message = r"log p\(x\) of 4 data is not a number"
        with pyro.validation_enabled(False), pytest.raises(FloatingPointError, match=message):
            annealed_importance_sample(model, torch.ones(4), num_temperatures=1, **QUIET)
