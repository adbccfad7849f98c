"""Densities of particular families, against torch and by hand."""

import math
from typing import Any

import mpmath as mp
import pyro.distributions as dist
import pytest
import torch
from torch.distributions import constraints

from pyrovae import Likelihood
from pyrovae.distributions import ContinuousBernoulli


@pytest.mark.usefixtures("float64")
def test_continuous_bernoulli_is_torchs_where_that_is_right() -> None:
    logits = torch.tensor([-14.0, -3.0, -0.011, -0.009, 0.0, 0.02, 2.0, 14.0])
    x = torch.linspace(0, 1, 5)[:, None]
    ours = Likelihood("ContinuousBernoulli").build((8,))(logits[None]).base_dist
    theirs = torch.distributions.ContinuousBernoulli(logits=logits)
    torch.testing.assert_close(ours.log_prob(x), theirs.log_prob(x), rtol=1e-5, atol=1e-5)
    mean = theirs.mean
    torch.testing.assert_close(ours.mean, mean.clone(), rtol=1e-5, atol=1e-5)
    # Beyond, where torch clamps, the density still adds up: C(l) is close to l.
    far: Any = Likelihood("ContinuousBernoulli").build((1,))(torch.full((1, 1), 1000.0)).base_dist
    assert far.log_prob(torch.ones(1)).item() == pytest.approx(math.log(1000))
    assert far.mean.item() == pytest.approx(1 - 1 / 1000)
    # The distance from 1 is exponential, with mean 1 / l.
    drawn = 1 - far.sample((20_000,)).mean().item()
    assert drawn == pytest.approx(1 / 1000, rel=4.5 / 20_000**0.5)


@pytest.mark.usefixtures("float64")
def test_continuous_bernoulli_near_zero() -> None:
    """The series and the formula on either side of where they meet, against 50 digits.

    log C(l) = log(l / (exp(l) - 1)), whose series goes on with l^4 / 2880; that of the mean with
    -l^3 / 720.
    """
    sizes = [1e-6, 1e-4, 1e-3, 9.9e-3, 1.01e-2, 0.1, 1.0]
    logits = torch.tensor([sign * size for size in sizes for sign in (-1, 1)])
    p = ContinuousBernoulli(logits=logits)
    log_norm, mean = p.log_prob(torch.zeros(())), p.mean
    with mp.workdps(50):
        for i, value in enumerate(logits.tolist()):
            v = mp.mpf(value)
            exact = float(mp.log(v / mp.expm1(v)))
            assert log_norm[i].item() == pytest.approx(exact, rel=0, abs=1e-11)
            exact_mean = float(1 / (1 - mp.exp(-v)) - 1 / v)
            assert mean[i].item() == pytest.approx(exact_mean, rel=0, abs=3e-9)
    x = torch.tensor([[0.25], [1.0]])
    torch.testing.assert_close(p.log_prob(x), log_norm + logits * x)


def test_discretised_logistic_is_a_difference_of_sigmoids() -> None:
    layer = Likelihood("DiscretisedLogistic", levels=256).build((1,))
    eta = torch.tensor([[3.0], [0.5]], dtype=torch.float64)
    p: Any = layer.double()(eta)
    loc, scale = p.base_dist.loc, p.base_dist.scale
    x = torch.arange(256.0, dtype=torch.float64)[:, None]
    upper = torch.sigmoid((x + 0.5 - loc) / scale)
    lower = torch.sigmoid((x - 0.5 - loc) / scale)
    upper[-1], lower[0] = 1, 0
    # Further out, this difference has no digits left; ours has.
    torch.testing.assert_close(p.base_dist.log_prob(x)[:10], (upper - lower).log()[:10])


class OfProperty(dist.Normal):
    """Its support is that of an instance alone."""

    @property
    def support(self) -> Any:
        return constraints.real


class OfUnknownDimension(dist.Normal):
    """Its support does not say how many dimensions an event has."""

    @constraints.dependent_property(is_discrete=False)
    def support(self) -> Any:
        return constraints.real


@pytest.mark.parametrize("distribution", [OfProperty, OfUnknownDimension])
def test_a_class_whose_support_says_little_is_of_single_numbers(distribution: Any) -> None:
    eta, x = torch.randn(2, 1, 4), torch.randn(2, 4)
    p: Any = Likelihood(distribution, scale=0.5).build((4,))(eta)
    expected = dist.Normal(p.base_dist.loc, 0.5).log_prob(x).sum(1)
    torch.testing.assert_close(p.log_prob(x), expected)
