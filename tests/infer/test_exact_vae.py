"""A VAE with a linear decoder is probabilistic PCA (Tipping, Bishop 1999), with a known p(x)."""

from functools import partial

import pytest
import torch
from torch import Tensor
from torch.distributions import MultivariateNormal

from pyrovae import VAE, importance_sample
from pyrovae.infer import annealed_importance_sample, bidirectional_check
from pyrovae.nn import MLP

pytestmark = pytest.mark.usefixtures("float64")


@pytest.fixture
def linear() -> tuple[VAE, Tensor, Tensor]:
    """The VAE, data from its marginal, and their log p(x)."""
    torch.manual_seed(0)
    one_layer = partial(MLP, hidden=())
    likelihood = {"family": "Normal", "scale": 0.7}
    vae = VAE((5,), 2, likelihood, encoder=one_layer, decoder=one_layer)
    with torch.no_grad():
        layer = vae.model.decoder.layers[0]
        layer.weight.normal_(0, 0.8)
        weight, bias = layer.weight.clone(), layer.bias.clone()
    marginal = MultivariateNormal(bias, weight @ weight.T + 0.7**2 * torch.eye(5))
    x = marginal.sample((300,))
    return vae, x, marginal.log_prob(x)


def assert_coverage(errors: Tensor) -> None:
    """About 95 percent of 95-percent intervals cover, to 4.5 standard errors."""
    num = len(errors)
    assert (errors.abs() < 1.96).double().mean() > 0.95 - 4.5 * (0.95 * 0.05 / num) ** 0.5


@pytest.mark.slow
def test_importance_sampling(linear: tuple[VAE, Tensor, Tensor]) -> None:
    vae, x, exact = linear
    got = importance_sample(
        vae.model, vae.guide, x, num_samples=20_000, compile=False, progress=False
    )
    assert_coverage(((got.log_likelihood - exact) / got.standard_error)[got.pareto_k < 0.7])
    assert (got.pareto_k < 0.7).double().mean() > 0.5


@pytest.mark.slow
def test_annealed_importance_sampling(linear: tuple[VAE, Tensor, Tensor]) -> None:
    vae, x, exact = linear
    got = annealed_importance_sample(
        vae.model, x[:100], num_chains=64, num_temperatures=40, num_leapfrog=3, progress=False
    )
    assert_coverage((got.log_likelihood - exact[:100]) / got.standard_error)
    check = bidirectional_check(
        vae.model, x[:50], num_chains=8, num_temperatures=30, num_leapfrog=3, progress=False
    )
    assert check.mean_gap.mean > -4.5 * check.mean_gap.standard_error
