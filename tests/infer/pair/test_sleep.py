"""The sleep phase: log q(z | x) of latents and data that the model draws."""

from typing import Any

import pyro
import pyro.distributions as dist
import pytest
import torch
from torch import Tensor, nn

from pyrovae import InputError
from pyrovae.infer import WakeSleep

pytestmark = pytest.mark.usefixtures("float64")


class Regression(nn.Module):
    """z ~ N(0, 1) and x ~ N(a z + c t, 1) for an input t; q(z | x, t) = N(s (x - t), 0.8)."""

    def __init__(self, plate: dict[str, Any]) -> None:
        super().__init__()
        self.plate = plate
        self.a, self.s = nn.Parameter(torch.tensor(1.3)), nn.Parameter(torch.tensor(0.4))

    def model(self, x: Tensor, t: Tensor) -> None:
        with pyro.plate("data", **self.plate):
            z = pyro.sample("z", dist.Normal(0.0, 1.0))
            pyro.sample("x", dist.Normal(self.a * z + 0.5 * t, 1.0), obs=x)

    def guide(self, x: Tensor, t: Tensor) -> None:
        with pyro.plate("data", **self.plate):
            pyro.sample("z", dist.Normal(self.s * (x - t), 0.8))


@pytest.mark.parametrize("num_particles", [1, 3])
@pytest.mark.parametrize("plate", [{"size": 4}, {"size": 12, "subsample": torch.arange(4)}])
def test_dreams_are_averaged_over_the_batch(plate: dict[str, Any], num_particles: int) -> None:
    """A plate that subsamples scales its sites, and inputs that are not observed stay."""
    pair, x, t = Regression(plate), torch.randn(4), torch.randn(4)
    torch.manual_seed(1)
    shape = (num_particles, 4) if num_particles > 1 else (4,)
    z = (pair.s * (x - t) + 0.8 * torch.randn(shape)).detach()
    wake = dist.Normal(pair.a * z + 0.5 * t, 1.0).log_prob(x).mean()
    dream = torch.randn(4)
    dreamt = (pair.a * dream + 0.5 * t + torch.randn(4)).detach()
    sleep = dist.Normal(pair.s * (dreamt - t), 0.8).log_prob(dream).mean()
    want = torch.autograd.grad(-wake - sleep, (pair.a, pair.s))
    objective = WakeSleep(num_particles)
    objective.loss(pair.model, pair.guide, x, t)  # the trial of the layout draws nothing below
    torch.manual_seed(1)
    objective.loss_and_grads(pair.model, pair.guide, x, t)
    torch.testing.assert_close((pair.a.grad, pair.s.grad), want, rtol=0, atol=1e-9)


def test_an_argument_observed_twice_is_refused() -> None:
    pair = Regression({"size": 4})

    def model(x: Tensor, t: Tensor) -> None:
        with pyro.plate("data", 4):
            z = pyro.sample("z", dist.Normal(0.0, 1.0))
            pyro.sample("x", dist.Normal(z, 1.0), obs=x)
            pyro.sample("again", dist.Normal(z, 1.0), obs=x)

    with pytest.raises(InputError, match="the same argument at 'again' and at another site"):
        WakeSleep().loss_and_grads(model, pair.guide, torch.randn(4), torch.randn(4))
