"""A linear-Gaussian pair with a known log p(x), and gradients of objectives for it."""

from typing import Any

import pyro
import pyro.distributions as dist
import torch
from torch import Tensor, nn
from torch.nn.functional import softplus

from pyrovae.infer import ELBO
from pyrovae.infer.objectives.objective import Objective

NOISE = 0.8


class LinearGaussian(nn.Module):
    """x = W z + b + noise, and q(z | x) = N(A x + c, diag(s)^2), or the exact posterior.

    The prior is N(m, I), with m = 0 at first.
    """

    def __init__(self, draw: Any = dist.Normal) -> None:
        super().__init__()
        generator = torch.Generator().manual_seed(3)
        weight, _ = torch.linalg.qr(torch.randn(4, 2, generator=generator))
        self.weight = nn.Parameter(weight * torch.tensor([1.3, 0.6]))
        self.bias = nn.Parameter(torch.randn(4, generator=generator))
        self.centre = nn.Parameter(torch.zeros(2))
        self.slope = nn.Parameter(0.2 * torch.randn(2, 4, generator=generator))
        self.offset = nn.Parameter(torch.tensor([0.2, -0.1]))
        self.raw = nn.Parameter(torch.tensor([0.3, 0.1]))
        self.draw = draw

    def with_exact_posterior(self) -> "LinearGaussian":
        """Set q to the posterior, which factorises since the columns of W are orthogonal."""
        with torch.no_grad():
            variance = 1 / (1 + self.weight.square().sum(0) / NOISE**2)
            self.slope.copy_(variance[:, None] * self.weight.T / NOISE**2)
            self.offset.copy_(-self.slope @ self.bias)
            self.raw.copy_(variance.sqrt().expm1().log())
        return self

    def model(self, x: Tensor) -> None:
        with pyro.plate("data", len(x)):
            z = pyro.sample("z", dist.Normal(self.centre, 1.0).to_event(1))
            mean = z @ self.weight.T + self.bias
            pyro.sample("x", dist.Normal(mean, NOISE).to_event(1), obs=x)

    def guide(self, x: Tensor) -> None:
        with pyro.plate("data", len(x)):
            q = self.draw(x @ self.slope.T + self.offset, softplus(self.raw))
            pyro.sample("z", q.to_event(1))

    def log_marginal(self, x: Tensor) -> Tensor:
        covariance = self.weight @ self.weight.T + NOISE**2 * torch.eye(4)
        return dist.MultivariateNormal(self.bias, covariance).log_prob(x)

    def data(self, num: int) -> Tensor:
        torch.manual_seed(4)
        z, noise = torch.randn(num, 2), NOISE * torch.randn(num, 4)
        return (z @ self.weight.T + self.bias + noise).detach()

    def terms(self, x: Tensor, num: int) -> tuple[Tensor, Tensor, Tensor]:
        """log p(x | z), log p(z) and log q(z | x) at several samples, by hand."""
        loc, scale = x @ self.slope.T + self.offset, softplus(self.raw)
        assert num > 1
        z = loc + scale * torch.randn(num, len(x), 2)
        return (
            dist.Normal(z @ self.weight.T + self.bias, NOISE).log_prob(x).sum(-1),
            dist.Normal(self.centre, 1.0).log_prob(z).sum(-1),
            dist.Normal(loc, scale).log_prob(z).sum(-1),
        )


def gradients_of(pair: nn.Module, loss: Objective | ELBO, x: Tensor) -> dict[str, Tensor]:
    torch.manual_seed(1)
    pair.zero_grad()
    loss.loss_and_grads(pair.model, pair.guide, x)
    return {
        n: torch.zeros_like(p) if p.grad is None else p.grad.clone()
        for n, p in named_parameters(pair)
    }


def named_parameters(pair: nn.Module) -> list[tuple[str, Any]]:
    return list(pair.named_parameters())


def estimates(
    objective: Objective, draw: Any = dist.Normal, pair: LinearGaussian | None = None
) -> Tensor:
    """Many independent estimates of the gradient in q's loc and scale, for one datum."""
    num = 20_000
    pair = LinearGaussian() if pair is None else pair
    x = pair.data(1).expand(num, 4)
    loc = (x @ pair.slope.T + pair.offset).detach().requires_grad_()
    scale = softplus(pair.raw).expand(num, 2).detach().requires_grad_()

    def guide(x: Tensor) -> None:
        with pyro.plate("data", num):
            pyro.sample("z", draw(loc, scale).to_event(1))

    torch.manual_seed(sum(map(ord, objective.name + draw.__name__)))
    objective.loss_and_grads(pair.model, guide, x)
    assert loc.grad is not None
    assert scale.grad is not None
    return torch.cat([loc.grad, scale.grad], 1) * num
