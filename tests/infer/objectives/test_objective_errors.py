"""Pairs and settings that objectives refuse."""

from collections.abc import Callable
from typing import Any

import pyro
import pyro.distributions as dist
import pytest
import torch
from pyro.distributions.testing.fakes import NonreparameterizedNormal
from torch import Tensor

from pyrovae import InputError
from pyrovae.infer.objectives.multisample import (
    CIWAE,
    IWAE,
    MIWAE,
    RWS,
    DReG,
    Renyi,
    StickingTheLanding,
)
from pyrovae.infer.objectives.schedules import Cyclical, Linear
from pyrovae.infer.objectives.weighted import (
    BetaELBO,
    FreeBits,
)
from tests.infer.objectives.linear_gaussian import LinearGaussian

pytestmark = pytest.mark.usefixtures("float64")


class TestErrors:
    def test_dependent_latents_are_refused(self) -> None:
        def model(x: Tensor) -> None:
            with pyro.plate("data", len(x)):
                above = pyro.sample("above", dist.Normal(0.0, 1.0))
                below = pyro.sample("below", dist.Normal(above, 1.0))
                pyro.sample("x", dist.Normal(below, 1.0), obs=x)

        def guide(x: Tensor) -> None:
            slope = pyro.param("slope", torch.tensor(0.5))
            with pyro.plate("data", len(x)):
                below = pyro.sample("below", dist.Normal(slope * x, 1.0))
                pyro.sample("above", dist.Normal(slope * below, 1.0))

        x = torch.randn(5)
        assert IWAE(3).loss_and_grads(model, guide, x).loss.isfinite()
        for objective in (StickingTheLanding(), DReG(3)):
            with pytest.raises(InputError, match="'above' is drawn given 'below'"):
                objective.loss_and_grads(model, guide, x)

    def test_latents_without_rsample_are_refused(self) -> None:
        pair = LinearGaussian(NonreparameterizedNormal)
        x = pair.data(5)
        for objective in (StickingTheLanding(), DReG(3), FreeBits(), BetaELBO(kl="analytic")):
            with pytest.raises(InputError, match=f"{objective.name} needs latents that can be"):
                objective.loss_and_grads(pair.model, pair.guide, x)

    def test_scaled_sites_are_refused(self) -> None:
        pair = LinearGaussian()
        x = pair.data(5)
        with pytest.raises(InputError, match="'x' is scaled by 3"):
            IWAE(3).loss(pyro.poutine.scale(pair.model, 3.0), pair.guide, x)

    @pytest.mark.parametrize(
        ("make", "message"),
        [
            (lambda: RWS(1), "rws needs 2 or more"),
            (lambda: IWAE(0), "num_particles is 0; it must be from 1"),
            (lambda: MIWAE(10, 3), "must divide num_particles, which is 10"),
            (lambda: Renyi(1.0), "below 1 .for 1 use 'elbo'"),
            (lambda: CIWAE(2.0), "from 0 .'iwae'. to 1"),
            (lambda: FreeBits(-1.0), "free is -1.0"),
            (lambda: Linear(0), "steps is 0; it must be 1 or more"),
            (lambda: Cyclical(0), "period is 0; it must be 1 or more"),
        ],
    )
    def test_invalid_settings_are_refused(self, make: Callable[[], Any], message: str) -> None:
        with pytest.raises(InputError, match=message):
            make()
