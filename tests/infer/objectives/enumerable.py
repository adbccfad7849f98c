"""Pairs with discrete latents that can be enumerated."""

from typing import Any

import pyro
import pyro.distributions as dist
import torch
from numpy.polynomial.hermite_e import hermegauss
from torch import Tensor, nn

from pyrovae.infer import EnumeratedELBO

PARALLEL = {"enumerate": "parallel"}
X = torch.linspace(-2.0, 2.0, 7, dtype=torch.float64)


class Pair(nn.Module):
    """Base of the pairs: a plate over data, and an optional demand for rows only."""

    def __init__(self, rows: bool = False, subsample: int | None = None) -> None:
        super().__init__()
        self.rows, self.subsample = rows, subsample

    def plate(self, x: Tensor) -> Any:
        return pyro.plate("data", len(x), subsample_size=self.subsample)

    def check(self, y: Tensor) -> None:
        if self.rows and y.dim() > 1:
            raise RuntimeError("rows are expected")

    def estimates(self, objective: Any, x: Tensor, num: int = 40) -> Tensor:
        """Value and gradients, one row for each seed."""
        found = []
        for seed in range(num):
            torch.manual_seed(seed)
            found.append(self.step(objective, x))
        return torch.stack(found)

    def step(self, objective: Any, x: Tensor) -> Tensor:
        """The loss per datum, and its gradient in all parameters."""
        loss = objective.differentiable_loss(self.model, self.guide, x)
        if not isinstance(objective, EnumeratedELBO):
            loss = loss / len(x)
        gradients = torch.autograd.grad(loss, list(self.parameters()), materialize_grads=True)
        return torch.cat([loss.detach().reshape(1), *(each.flatten() for each in gradients)])


class Discrete(Pair):
    """Two discrete latents: y of three values, b given y. q(z | x) = q(y | x) q(b | x, y)."""

    def __init__(self, **options: Any) -> None:
        super().__init__(**options)
        generator = torch.Generator().manual_seed(5)
        self.logits = nn.Parameter(torch.randn(3, generator=generator))
        self.of_b = nn.Parameter(torch.randn(3, generator=generator))
        self.loc = nn.Parameter(torch.randn(3, 2, generator=generator))
        self.slope = nn.Parameter(torch.randn(3, generator=generator))
        self.q_of_b = nn.Parameter(torch.randn(3, generator=generator))

    def model(self, x: Tensor) -> None:
        with self.plate(x) as index:
            y = pyro.sample("y", dist.Categorical(logits=self.logits))
            self.check(y)
            b = pyro.sample("b", dist.Bernoulli(logits=self.of_b[y]))
            pyro.sample("x", dist.Normal(self.loc[y, b.long()], 0.7), obs=x[index])

    def guide(self, x: Tensor) -> None:
        with self.plate(x) as index:
            logits = x[index][:, None] * self.slope
            y = pyro.sample("y", dist.Categorical(logits=logits), infer=PARALLEL)
            b = dist.Bernoulli(logits=self.q_of_b[y] + x[index])
            pyro.sample("b", b, infer=PARALLEL)


class Gaussians(Pair):
    """y of two values, z ~ N(mu_y, 1), x ~ N(z, 0.8); the guide draws z after y, or before it."""

    def __init__(self, before: bool = False, exact: bool = False, **options: Any) -> None:
        super().__init__(**options)
        self.before, self.exact = before, exact
        self.mu = nn.Parameter(torch.tensor([-1.0, 1.5]))
        self.logits = nn.Parameter(torch.tensor([0.2, -0.3]))
        self.slope = nn.Parameter(torch.tensor([0.4, -0.5]))
        self.weight = nn.Parameter(torch.tensor([0.5, 0.7]))

    def model(self, x: Tensor) -> None:
        with self.plate(x):
            y = pyro.sample("y", dist.Categorical(logits=self.logits))
            self.check(y)
            z = pyro.sample("z", dist.Normal(self.mu[y], 1.0))
            pyro.sample("x", dist.Normal(z, 0.8), obs=x)

    def guide(self, x: Tensor) -> None:
        with self.plate(x):
            if self.before:
                z = pyro.sample("z", dist.Normal(self.weight[0] * x, 0.6))
                pyro.sample("y", self.q_given(z), infer=PARALLEL)
            else:
                y = pyro.sample("y", self.q_given(x), infer=PARALLEL)
                pyro.sample("z", dist.Normal(self.weight[y] * x, 0.6))

    def q_given(self, x: Tensor) -> Any:
        if self.exact:
            log_prob = dist.Normal(self.mu, 1.0).log_prob(x[..., None])
            return dist.Categorical(logits=self.logits + log_prob)
        return dist.Categorical(logits=x[..., None] * self.slope)

    def truth(self, x: Tensor) -> Tensor:
        """Minus the ELBO per datum and its gradient, by quadrature over z."""
        nodes, weights = (torch.from_numpy(each) for each in hermegauss(60))
        log_pi = self.logits.log_softmax(0)
        total = torch.zeros(())
        for y in range(2):
            q = dist.Normal(self.weight[0 if self.before else y] * x, 0.6)
            z = q.mean + q.stddev * nodes[:, None]
            log_q_of_y = self.q_given(z if self.before else x).logits.log_softmax(-1)[..., y]
            log_p = log_pi[y] + dist.Normal(self.mu[y], 1.0).log_prob(z)
            log_p = log_p + dist.Normal(z, 0.8).log_prob(x)
            of_nodes = log_q_of_y.exp() * (log_p - log_q_of_y - q.log_prob(z))
            total = total - (weights[:, None] * of_nodes).sum() / weights.sum() / len(x)
        gradients = torch.autograd.grad(total, list(self.parameters()))
        return torch.cat([total.detach().reshape(1), *(g.flatten() for g in gradients)])
