"""Features with normal noise agree with Bayes' rule, by enumeration and by quadrature."""

from collections.abc import Callable
from typing import Any

import pyro.distributions as dist
import pytest
import torch
from torch import Tensor

from pyrovae import InputError
from pyrovae.distributions import denoised, noisy
from tests.pairs import assert_unbiased

NUM_FEATURES = 3

FINITE: dict[str, tuple[Callable[..., Any], int]] = {
    "Bernoulli": (lambda a, b: dist.Bernoulli(logits=a), 1),
    "Binomial": (lambda a, b: dist.Binomial(4, logits=a), 4),
    "Binomial of totals": (
        lambda a, b: dist.Binomial(torch.tensor([1.0, 4.0, 6.0]).to(a), logits=a),
        6,
    ),
    "BetaBinomial": (lambda a, b: dist.BetaBinomial(a.exp(), b.exp(), 5), 5),
    "BetaBinomial of totals": (
        lambda a, b: dist.BetaBinomial(a.exp(), b.exp(), torch.tensor([1.0, 4.0, 6.0]).to(a)),
        6,
    ),
    "Categorical": (lambda a, b: dist.Categorical(logits=torch.stack([a, b, a - b], -1)), 2),
}
"""Distribution of a batch of features, and its largest value."""

CONTINUOUS: dict[str, Callable[..., Any]] = {
    "Normal": lambda a, b: dist.Normal(a, b.exp()),
    "mixture": lambda a, b: dist.MixtureSameFamily(
        dist.Categorical(logits=torch.stack([a, b], -1)),
        dist.Normal(torch.stack([b, a + 2], -1), torch.stack([b, a], -1).exp()),
    ),
}

SHAPES = [(), (4,), (2, 4)]


def make_case(make: Callable[..., Any], *batch: int) -> tuple[Any, Tensor, Tensor]:
    """p over rows of features, noisy observations y of samples from it, and the noise scale."""
    generator = torch.Generator().manual_seed(2)
    a, b = torch.randn(2, *batch, NUM_FEATURES, generator=generator, dtype=torch.float64) * 0.7
    p = make(a, b).to_event(1)
    scale = torch.tensor([0.3, 0.8, 1.5], dtype=torch.float64).expand(a.shape)
    y = p.sample() + scale * torch.randn(a.shape, generator=generator, dtype=torch.float64)
    return p, y, scale


def joint(p: Any, y: Tensor, scale: Tensor, x: Tensor) -> Tensor:
    """log p(x) + log p(y | x) of each feature; x may have more dimensions on the left than y."""
    log_x: Tensor = p.base_dist.log_prob(x)
    return log_x + dist.Normal(x, scale).log_prob(y)


@pytest.mark.parametrize("batch", SHAPES)
@pytest.mark.parametrize("name", FINITE)
def test_finite_values_agree_with_enumeration(name: str, batch: tuple[int, ...]) -> None:
    make, highest = FINITE[name]
    p, y, scale = make_case(make, *batch)
    total = getattr(p.base_dist, "total_count", torch.tensor(float(highest))).expand(y.shape)
    log_joint = torch.stack(
        [
            torch.where(k <= total, joint(p, y, scale, total.clamp(max=k)), -torch.inf)
            for k in range(highest + 1)
        ]
    )
    evidence = log_joint.logsumexp(0)
    torch.testing.assert_close(noisy(p, scale).log_prob(y), evidence.sum(-1))
    given = denoised(p, y, scale)
    log_posterior = log_joint - evidence
    values = torch.arange(highest + 1, dtype=torch.float64)
    mean = torch.einsum("k...,k->...", log_posterior.exp(), values)
    torch.testing.assert_close(given.mean, mean)
    num = 3000
    samples = given.sample((num,))
    variance = torch.einsum("k...,k->...", log_posterior.exp(), values.square()) - mean.square()
    # Bernstein's inequality, because one value may have nearly all the probability.
    bound = 4.5 * (variance.clamp_min(0) / num).sqrt() + 4.5**2 * highest / (6 * num)
    assert ((samples.mean(0) - mean).abs() <= bound).all()
    for k in range(highest + 1):
        log_prob = given.base_dist.log_prob(torch.full_like(y, k))
        torch.testing.assert_close(log_prob, log_posterior[k])
    assert given.log_prob(samples[0] + 0.5).eq(-torch.inf).all()


@pytest.mark.parametrize("batch", SHAPES)
@pytest.mark.parametrize("name", CONTINUOUS)
def test_normals_and_mixtures_agree_with_quadrature(name: str, batch: tuple[int, ...]) -> None:
    p, y, scale = make_case(CONTINUOUS[name], *batch)
    x = torch.linspace(-40, 40, 8001, dtype=torch.float64)
    step = x[1] - x[0]
    grid = x.reshape(-1, *[1] * y.ndim).expand(-1, *y.shape)
    log_joint = joint(p, y, scale, grid)
    evidence = log_joint.logsumexp(0) + step.log()
    torch.testing.assert_close(noisy(p, scale).log_prob(y), evidence.sum(-1))
    given = denoised(p, y, scale)
    log_posterior = log_joint - evidence
    torch.testing.assert_close(given.base_dist.log_prob(grid), log_posterior)
    mean = (log_posterior.exp() * grid).sum(0) * step
    torch.testing.assert_close(given.mean, mean)
    assert_unbiased(given.sample((3000,)), mean)


@pytest.mark.parametrize("name", [*FINITE, *CONTINUOUS])
def test_posterior_is_the_prior_where_y_is_missing(name: str) -> None:
    p, y, scale = make_case(CONTINUOUS[name] if name in CONTINUOUS else FINITE[name][0], 4)
    complete = denoised(p, y, scale)
    y = y.clone()
    y[:, 1] = torch.nan
    given = denoised(p, y, scale)
    x = torch.ones_like(y)
    log_prob = given.base_dist.log_prob(x)
    torch.testing.assert_close(log_prob[:, 1], p.base_dist.log_prob(x)[:, 1])
    torch.testing.assert_close(log_prob[:, ::2], complete.base_dist.log_prob(x)[:, ::2])
    assert given.mean.isfinite().all()
    assert given.sample().isfinite().all()


@pytest.mark.parametrize("name", [*FINITE, *CONTINUOUS])
def test_single_precision_agrees_with_double(name: str) -> None:
    make = CONTINUOUS[name] if name in CONTINUOUS else FINITE[name][0]
    a, b = torch.randn(2, 5, NUM_FEATURES)
    p, y, scale = make(a, b).to_event(1), torch.randn(5, NUM_FEATURES), torch.full((5, 3), 0.4)
    double: Any = make(a.double(), b.double()).to_event(1)
    log_y = noisy(p, scale).log_prob(y)
    assert log_y.dtype == denoised(p, y, scale).mean.dtype == torch.float32
    exact = noisy(double, scale.double()).log_prob(y.double())
    torch.testing.assert_close(log_y.double(), exact, rtol=1e-4, atol=1e-4)
    mean = denoised(double, y.double(), scale.double()).mean
    torch.testing.assert_close(denoised(p, y, scale).mean.double(), mean, rtol=1e-4, atol=1e-4)


def test_gradients_reach_the_arguments_of_p() -> None:
    logits = torch.zeros(2, NUM_FEATURES, dtype=torch.float64, requires_grad=True)
    scale = torch.full((2, NUM_FEATURES), 0.5, dtype=torch.float64, requires_grad=True)
    y = torch.randn(2, NUM_FEATURES, dtype=torch.float64)

    def log_y(logits: Tensor, scale: Tensor) -> Tensor:
        total = torch.tensor([1.0, 2.0, 5.0], dtype=torch.float64)
        p = dist.Binomial(total, logits=logits).to_event(1)
        log_prob: Tensor = noisy(p, scale).log_prob(y)
        return log_prob

    assert torch.autograd.gradcheck(log_y, (logits, scale))


def test_unsupported_distributions_are_refused() -> None:
    scale = torch.ones(3)
    for p in (dist.Poisson(torch.ones(3)), dist.NegativeBinomial(3.0, logits=torch.zeros(3))):
        for function in (lambda p: noisy(p, scale), lambda p: denoised(p, scale, scale)):
            with pytest.raises(InputError, match=r"noise on top of .* has no density"):
                function(p.to_event(1))
    with pytest.raises(InputError, match="joint distribution over all features of a datum"):
        noisy(dist.Dirichlet(torch.ones(3)), scale)


def test_posterior_scale_is_accurate_for_little_noise() -> None:
    """In single precision, 1 - gain would be rounded to zero."""
    y, scale = torch.tensor([0.3]), torch.tensor([1e-4])
    given = denoised(dist.Normal(torch.zeros(1), 1.0).to_event(1), y, scale)
    assert given.base_dist.scale.item() == pytest.approx(1e-4, rel=1e-5)
