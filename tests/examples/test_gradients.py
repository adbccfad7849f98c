"""The examples on gradients of the ELBO run, and what they claim is true."""

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

from . import load_example


def exact_variance(module: ModuleType, name: str, phi: NDArray, num: int) -> NDArray:
    """Variance of an estimate of the gradient in (m, log sigma), by quadrature over the noise."""
    nodes, weights = np.polynomial.hermite_e.hermegauss(20)  # exact for polynomials

    def mean(values: NDArray) -> NDArray:
        return (values * weights).sum(-1) / weights.sum()

    m, sigma = phi[0], np.exp(phi[1])
    z = m + sigma * nodes
    if name == module.PATH:
        slope = (module.X - z) / module.NOISE**2 - z
        gradient = np.stack([slope, slope * sigma * nodes + 1])
        return (mean(gradient**2) - mean(gradient) ** 2) / num
    f = norm(0, 1).logpdf(z) + norm(z, module.NOISE).logpdf(module.X) - norm(m, sigma).logpdf(z)
    score = np.stack([nodes / sigma, nodes**2 - 1])
    if name == module.SCORE:
        return (mean((f * score) ** 2) - mean(f * score) ** 2) / num
    # Leave-one-out is the sample covariance of f and the score; this is its variance.
    f = f - mean(f)
    cross = mean(f**2) * mean(score**2) / (num - 1) - (num - 2) / (num - 1) * mean(f * score) ** 2
    return (mean((f * score) ** 2) + cross) / num


@pytest.mark.slow
def test_reparameterisation(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    module = load_example("reparameterisation")
    torch.manual_seed(0)
    loc_and_scale = torch.tensor([module.MEAN, module.VARIANCE**0.5], dtype=torch.float64)
    posterior = Normal(*loc_and_scale)
    for place in module.PLACES:
        phi = module.parameters_at(place).requires_grad_()
        kl = kl_divergence(Normal(phi[0], phi[1].exp()), posterior)
        (kl_gradient,) = torch.autograd.grad(kl, phi)
        torch.testing.assert_close(module.exact_gradient(phi.detach()), -kl_gradient)
        for name in module.ESTIMATORS:
            estimates = module.estimate_gradient(name, phi.detach(), 4, 5_000).numpy()
            exact = exact_variance(module, name, phi.detach().numpy(), 4)
            squares = (estimates - estimates.mean(1, keepdims=True)) ** 2
            error = squares.std(1) / 5_000**0.5
            assert (abs(squares.mean(1) - exact) <= 4.5 * error + 1e-12).all()

    # The example itself asserts that every estimator is unbiased.
    output = tmp_path / "picture.png"
    module.main(repeats=500, vae_repeats=3, epochs=1, output=output)
    assert imread(output).shape[0] > 500
    vae_table = capsys.readouterr().out.split("VAE")[1]
    ratios = {name: [] for name in module.ESTIMATORS}
    for name, ratio in re.findall(r"│ (score function|leave-one-out) +│[^│]+│ (\S+) +│", vae_table):
        ratios[name].append(float(ratio))
    assert len(ratios[module.SCORE]) == len(ratios[module.LEAVE_ONE_OUT]) == 2
    assert min(ratios[module.SCORE]) > 100
    assert min(ratios[module.LEAVE_ONE_OUT]) > 2


@pytest.mark.slow
def test_aevb_algorithm(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    module = load_example("aevb_algorithm")
    digits = load("digits")
    x, test = digits.train.x.float().flatten(1), digits.test.x.float().flatten(1)[:5]

    # The first gradient of the algorithm equals Pyro's, on the same minibatch and noise.
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

    # The estimate of log p(x) agrees with a sum over a grid that covers nearly all prior mass.
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
