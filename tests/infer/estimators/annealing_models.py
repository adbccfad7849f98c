"""Models with a known log p(x), for annealed importance sampling."""

from dataclasses import dataclass
from typing import Any

import pyro
import pyro.distributions as dist
import torch
from torch import Tensor

QUIET: dict[str, Any] = {"progress": False}


@dataclass
class Regression:
    """x = W z + c y + noise, with covariates y; the guide is the posterior, widened and shifted."""

    noise: float = 0.7

    def __post_init__(self) -> None:
        generator = torch.Generator().manual_seed(6)
        self.weight = torch.randn(3, 2, generator=generator)
        self.slope = torch.tensor([0.5, -1.0, 2.0])

    def model(self, x: Tensor, y: Tensor) -> None:
        with pyro.plate("data", len(x)):
            z = pyro.sample("z", dist.Normal(torch.zeros(2), 1.0).to_event(1))
            mean = pyro.deterministic("mean", z @ self.weight.T + y[:, None] * self.slope)
            pyro.sample("x", dist.Normal(mean, self.noise).to_event(1), obs=x)

    def guide(self, x: Tensor, y: Tensor) -> None:
        precision = torch.eye(2) + self.weight.T @ self.weight / self.noise**2
        covariance = precision.inverse()
        loc = (x - y[:, None] * self.slope) @ self.weight @ covariance / self.noise**2
        with pyro.plate("data", len(x)):
            pyro.sample("z", dist.MultivariateNormal(loc + 0.1, 1.5 * covariance))

    def exact(self, x: Tensor, y: Tensor) -> Tensor:
        covariance = self.weight @ self.weight.T + self.noise**2 * torch.eye(3)
        return dist.MultivariateNormal(y[:, None] * self.slope, covariance).log_prob(x)

    def data(self, num: int) -> tuple[Tensor, Tensor]:
        torch.manual_seed(4)
        y = torch.randn(num)
        mean = torch.randn(num, 2) @ self.weight.T + y[:, None] * self.slope
        return mean + self.noise * torch.randn(num, 3), y


def gamma_poisson(x: Tensor) -> None:
    """Two plates, with the plate over data on the left."""
    with pyro.plate("data", len(x), dim=-2), pyro.plate("features", 2, dim=-1):
        rate = pyro.sample("rate", dist.Gamma(torch.tensor([2.0, 0.7]), 1.5))
        pyro.sample("x", dist.Poisson(rate), obs=x)


def negative_binomial(x: Tensor) -> Tensor:
    shape = torch.tensor([2.0, 0.7])
    return dist.NegativeBinomial(shape, probs=torch.tensor(1 / 2.5)).log_prob(x).sum(1)
