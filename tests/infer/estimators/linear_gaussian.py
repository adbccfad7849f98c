"""A linear-Gaussian pair whose inference gaps are known."""

from dataclasses import dataclass
from typing import Any

import pyro
import pyro.distributions as dist
import torch
from torch import Tensor
from torch.distributions import kl_divergence


@dataclass
class LinearGaussian:
    """p(z) = Normal(0, I), p(x | z) = Normal(W z, s^2 I), whose posterior is correlated."""

    noise: float = 0.8

    def __post_init__(self) -> None:
        self.weight = torch.tensor([[1.2, 0.7], [0.6, 0.9], [0.5, -0.4]])
        self.precision = torch.eye(2) + self.weight.T @ self.weight / self.noise**2

    def model(self, x: Tensor) -> None:
        with pyro.plate("data", len(x)):
            z = pyro.sample("z", dist.Normal(torch.zeros(2), 1.0).to_event(1))
            pyro.sample("x", dist.Normal(z @ self.weight.T, self.noise).to_event(1), obs=x)

    def loc(self, x: Tensor) -> Tensor:
        return x @ self.weight @ self.precision.inverse() / self.noise**2

    def posterior(self, x: Tensor) -> dist.MultivariateNormal:
        return dist.MultivariateNormal(self.loc(x), self.precision.inverse())

    def best(self, x: Tensor) -> Any:
        """The factorised normal with the largest ELBO, of variances 1 / precision_jj."""
        return dist.Normal(self.loc(x), self.precision.diagonal().rsqrt()).to_event(1)

    def off(self, x: Tensor) -> Any:
        """A factorised normal with another mean and scale."""
        return dist.Normal(self.loc(x) + 0.2, 0.7).to_event(1)

    def guide(self, q: Any) -> Any:
        def sampled(x: Tensor) -> None:
            with pyro.plate("data", len(x)):
                pyro.sample("z", q(x))

        return sampled

    def data(self, num: int) -> Tensor:
        torch.manual_seed(4)
        return self.marginal.sample((num,))

    @property
    def marginal(self) -> dist.MultivariateNormal:
        covariance = self.weight @ self.weight.T + self.noise**2 * torch.eye(3)
        return dist.MultivariateNormal(torch.zeros(3), covariance)

    def elbo(self, x: Tensor, q: Any) -> tuple[Tensor, Tensor]:
        """log p(x) - KL(q || posterior), and the deviation of log p(x, z) - log q(z) at a draw."""
        joint = dist.MultivariateNormal(q.mean, torch.diag_embed(q.variance))
        exact = self.marginal.log_prob(x) - kl_divergence(joint, self.posterior(x))
        z = q.sample((4000,))
        return exact, (self.posterior(x).log_prob(z) - q.log_prob(z)).std(0)
