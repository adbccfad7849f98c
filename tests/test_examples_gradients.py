"""The examples about gradients of the ELBO run, and what they say is so."""

import re
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest
import torch
from matplotlib.image import imread
from numpy.typing import NDArray
from scipy.stats import norm
from torch.distributions import Normal, kl_divergence

from tests.test_examples import example


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
