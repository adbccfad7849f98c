"""The examples about gradients of the ELBO run, and what they say is so."""

import re
from copy import deepcopy
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest
import torch
from matplotlib.image import imread
from numpy.typing import NDArray
from pyro.infer import Trace_ELBO
from scipy.stats import norm
from torch.distributions import Normal, kl_divergence

from pyrovae import load

from . import example


def exact_variance(module: ModuleType, name: str, phi: NDArray, num: int) -> NDArray:
    """Of an estimate of the gradient in (m, log sigma), by quadrature over the noise of z."""
    nodes, weights = np.polynomial.hermite_e.hermegauss(20)  # exact: all here are polynomials

    def mean(values: NDArray) -> NDArray:
        return (values * weights).sum(-1) / weights.sum()

    m, sigma = phi[0], np.exp(phi[1])
    z = m + sigma * nodes
    if name == module.PATH:
        slope = (module.X - z) / module.NOISE**2 - z
        of_draw = np.stack([slope, slope * sigma * nodes + 1])
        return (mean(of_draw**2) - mean(of_draw) ** 2) / num
    f = norm(0, 1).logpdf(z) + norm(z, module.NOISE).logpdf(module.X) - norm(m, sigma).logpdf(z)
    score = np.stack([nodes / sigma, nodes**2 - 1])
    if name == module.SCORE:
        return (mean((f * score) ** 2) - mean(f * score) ** 2) / num
    # Leave-one-out is the sample covariance of f and the score, whose variance is known.
    f = f - mean(f)
    of_both = mean(f**2) * mean(score**2) / (num - 1) - (num - 2) / (num - 1) * mean(f * score) ** 2
    return (mean((f * score) ** 2) + of_both) / num


def test_reparameterisation(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    module = example("reparameterisation")
    torch.manual_seed(0)
    of_posterior = torch.tensor([module.MEAN, module.VARIANCE**0.5], dtype=torch.float64)
    posterior = Normal(*of_posterior)
    for place in module.PLACES:
        phi = module.phi_of(place).requires_grad_()
        kl = kl_divergence(Normal(phi[0], phi[1].exp()), posterior)
        (of_kl,) = torch.autograd.grad(kl, phi)
        torch.testing.assert_close(module.exact_gradient(phi.detach()), -of_kl)
        for name in module.ESTIMATORS:
            drawn = module.estimates(name, phi.detach(), 4, 5_000).numpy()
            exact = exact_variance(module, name, phi.detach().numpy(), 4)
            squares = (drawn - drawn.mean(1, keepdims=True)) ** 2
            error = squares.std(1) / 5_000**0.5
            assert (abs(squares.mean(1) - exact) <= 4.5 * error + 1e-12).all()

    # That each is right on average the example asserts by itself.
    output = tmp_path / "picture.png"
    module.main(repeats=500, vae_repeats=3, epochs=1, output=output)
    assert imread(output).shape[0] > 500
    of_vae = capsys.readouterr().out.split("VAE")[1]
    factors = {name: [] for name in module.ESTIMATORS}
    for name, factor in re.findall(r"│ (score function|leave-one-out) +│[^│]+│ (\S+) +│", of_vae):
        factors[name].append(float(factor))
    assert len(factors[module.SCORE]) == len(factors[module.LEAVE_ONE_OUT]) == 2
    assert min(factors[module.SCORE]) > 100
    assert min(factors[module.LEAVE_ONE_OUT]) > 2


def test_aevb_algorithm(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    module = example("aevb_algorithm")
    digits = load("digits")
    x, test = digits.train.x.float().flatten(1), digits.test.x.float().flatten(1)[:5]

    # The algorithm's first gradient is Pyro's, on the same minibatch and noise.
    torch.manual_seed(0)
    networks = module.Networks(64)
    untrained = deepcopy(networks)
    torch.manual_seed(1)
    next(module.aevb(networks, x))
    torch.manual_seed(1)
    batch = x[next(module.minibatches(len(x)))]
    loss = Trace_ELBO().differentiable_loss(untrained.model, untrained.guide, batch) / len(batch)
    gradients = torch.autograd.grad(loss, list(untrained.parameters()))
    for parameter, gradient in zip(networks.parameters(), gradients, strict=True):
        torch.testing.assert_close(parameter.grad, gradient, rtol=1e-3, atol=1e-4)

    # The judge agrees with the sum over a grid of z, beyond which the prior has next to nothing.
    estimate = module.log_likelihood(untrained, test)
    axis = torch.linspace(-5, 5, 41)
    z = torch.cartesian_prod(axis, axis, axis)
    with torch.no_grad():
        levels = torch.distributions.Binomial(module.LEVELS, logits=untrained.decoder(z))
        log_p = torch.stack([levels.log_prob(datum).sum(1) for datum in test])
    log_p = log_p + Normal(0.0, 1.0).log_prob(z).sum(1)
    exact = (log_p.logsumexp(1) + 3 * np.log(0.25)).double()
    error = (estimate.log_likelihood - exact).abs()
    assert (error <= 4.5 * estimate.standard_error + 1e-3).all()

    output = tmp_path / "picture.png"
    module.main(num_seen=4_000, num_test=5, output=output)
    found = re.findall(r"│ (\S+) +│ ([\d.]+) +│$", capsys.readouterr().out, re.M)
    assert len(found) == len(module.METHODS)
    for log_likelihood, _ in found:
        assert float(log_likelihood) > exact.mean() + 50
    assert imread(output).shape[0] > 500
