"""Score-function gradients and their baselines, written out sample by sample."""

from math import log

import pyro
import pyro.distributions as dist
import pytest
import torch
from torch import Tensor

from pyrovae.infer import IWAE, BetaELBO
from pyrovae.infer.objectives.objective import Objective, mean_of_others

pytestmark = pytest.mark.usefixtures("float64")

BATCH = 5


def test_mean_of_others() -> None:
    """Over the other samples of a datum; with one sample, over the other data."""
    values = torch.tensor([[1.0, 2.0], [3.0, 5.0], [8.0, 11.0]])
    want = torch.tensor([[5.5, 8.0], [4.5, 6.5], [2.0, 3.5]])
    torch.testing.assert_close(mean_of_others(values), want)
    want = torch.tensor([[4.0, 3.0, 2.0]])
    torch.testing.assert_close(mean_of_others(torch.tensor([[1.0, 3.0, 5.0]])), want)
    assert torch.equal(mean_of_others(torch.tensor([[7.0]])), torch.zeros(1, 1))


class Coin:
    """x ~ N(a k, 1) with k ~ Bernoulli(0.3), and q(k | x) = Bernoulli(logits = b x)."""

    def __init__(self) -> None:
        self.a, self.b = (torch.tensor(v, requires_grad=True) for v in (1.5, 0.4))

    def model(self, x: Tensor) -> None:
        with pyro.plate("data", len(x)):
            k = pyro.sample("k", dist.Bernoulli(0.3))
            pyro.sample("x", dist.Normal(self.a * k, 1.0), obs=x)

    def guide(self, x: Tensor) -> None:
        with pyro.plate("data", len(x)):
            pyro.sample("k", dist.Bernoulli(logits=self.b * x))

    def terms(self, x: Tensor, num: int) -> tuple[Tensor, Tensor, Tensor]:
        """log p(x | k), log p(k) and log q(k | x) at the draws of the guide."""
        q = dist.Bernoulli(logits=self.b * x)
        k = q.sample((num,)) if num > 1 else q.sample()[None]
        log_likelihood = dist.Normal(self.a * k, 1.0).log_prob(x)
        return log_likelihood, dist.Bernoulli(0.3).log_prob(k), q.log_prob(k)


def assert_gradients(objective: Objective, pair: Coin, x: Tensor, total: Tensor) -> None:
    want = torch.autograd.grad(-total, (pair.a, pair.b))
    objective.loss(pair.model, pair.guide, x)  # the trial of the layout draws nothing below
    torch.manual_seed(1)
    objective.loss_and_grads(pair.model, pair.guide, x)
    torch.testing.assert_close((pair.a.grad, pair.b.grad), want, rtol=0, atol=1e-9)


@pytest.mark.parametrize("num", [1, 4])
def test_baseline_of_the_elbo(num: int) -> None:
    """The mean over the other samples, or with one sample over the other data."""
    pair, x = Coin(), torch.randn(BATCH)
    torch.manual_seed(1)
    log_likelihood, log_prior, log_q = pair.terms(x, num)
    value = log_likelihood - 0.7 * (log_q - log_prior)
    total = value.mean()
    for k in range(num):
        for i in range(BATCH):
            others = (
                [value[m, i] for m in range(num) if m != k]
                if num > 1
                else [value[0, j] for j in range(BATCH) if j != i]
            )
            signal = (value[k, i] - sum(others) / len(others)).detach()
            total = total + signal * log_q[k, i] / (num * BATCH)
    assert_gradients(BetaELBO(0.7, num_particles=num), pair, x, total)


@pytest.mark.parametrize("num", [1, 4])
def test_baseline_of_the_importance_weighted_bound(num: int) -> None:
    """The bound with the sample's weight replaced by the geometric mean of the others (VIMCO)."""
    pair, x = Coin(), torch.randn(BATCH)
    torch.manual_seed(1)
    log_likelihood, log_prior, log_q = pair.terms(x, num)
    log_weights = log_likelihood + log_prior - log_q
    bound = log_weights.logsumexp(0) - log(num)
    total = bound.mean()
    for k in range(num):
        for i in range(BATCH):
            if num > 1:
                rest = torch.stack([log_weights[m, i] for m in range(num) if m != k])
                replaced = torch.cat([rest, rest.mean()[None]]).logsumexp(0) - log(num)
            else:
                replaced = sum(log_weights[0, j] for j in range(BATCH) if j != i) / (BATCH - 1)
            total = total + (bound[i] - replaced).detach() * log_q[k, i] / BATCH
    assert_gradients(IWAE(num), pair, x, total)
