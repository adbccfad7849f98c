"""Tests of every posterior, alone and in a VAE."""

import copy
import warnings
from functools import partial
from typing import Any

import pyro
import pytest
import torch
from pyro.infer import SVI as PyroSVI
from pyro.infer import Trace_ELBO
from torch import Tensor

from pyrovae import SVI, VAE, evaluate, fit, importance_sample
from pyrovae.infer import latent_report
from pyrovae.nn import MLP
from tests.pairs import assert_unbiased, exact_log_evidence
from tests.posteriors.kinds import CONTINUOUS, KINDS, inputs, perturb, small_vae

X = torch.randn(16, 3, generator=torch.Generator().manual_seed(0), dtype=torch.double)

every = pytest.mark.parametrize("kind", KINDS)


@every
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("latent_dim", [1, 3])
def test_posteriors_accept_any_batch_shape(kind: str, dtype: torch.dtype, latent_dim: int) -> None:
    posterior = perturb(KINDS[kind](latent_dim), 0.1).to(dtype)
    event_shape = posterior.prior()().event_shape
    assert event_shape[0] == latent_dim
    batched = inputs(posterior, 4, 5).to(dtype)
    for h in (batched[0, 0], batched[0], batched):
        q, batch = posterior(h), h.shape[: h.ndim - len(posterior.in_shape)]
        assert (q.batch_shape, q.event_shape) == (batch, event_shape)
        assert posterior.centre(h).shape == batch + event_shape
        for drawn_from in (q, q.expand((2, *batch))):
            z = drawn_from.rsample()
            assert z.dtype == dtype
            assert z.shape == drawn_from.batch_shape + event_shape
            density = drawn_from.log_prob(z)
            assert density.isfinite().all()
            torch.testing.assert_close(q.log_prob(z.detach()), density, rtol=1e-4, atol=1e-4)
    z = posterior(batched).sample((2,))
    alone = torch.stack([posterior(batched[1, i]).log_prob(z[:, 1, i]) for i in range(5)], 1)
    torch.testing.assert_close(posterior(batched).log_prob(z)[:, 1], alone, rtol=1e-4, atol=1e-4)


@every
def test_copies_and_state_dicts_give_the_same_posterior(kind: str) -> None:
    vae = small_vae(kind)
    x = X.float()
    state = vae.state_dict()
    assert len({value.data_ptr() for value in state.values()}) == len(state)
    loaded = small_vae(kind)
    perturb(loaded)
    loaded.load_state_dict(state)
    z = vae.q(x).sample()
    expected = vae.q(x).log_prob(z)
    for other in (copy.deepcopy(vae), loaded):
        torch.testing.assert_close(other.q(x).log_prob(z), expected, rtol=0, atol=0)
        torch.testing.assert_close(other.embed(x), vae.embed(x), rtol=0, atol=0)
    double = copy.deepcopy(vae).double()
    expected = double.q(X).log_prob(z.double())
    torch.testing.assert_close(vae.q(x).log_prob(z).double(), expected, rtol=1e-3, atol=1e-3)


@every
def test_vae_methods_use_the_centre(kind: str) -> None:
    vae = small_vae(kind)
    x = X.float()
    z = vae.guide.posterior.centre(vae.guide.h(x))
    torch.testing.assert_close(vae.embed(x), z, rtol=0, atol=0)
    torch.testing.assert_close(vae.reconstruct(x, num_samples=0), vae.decode_mean(z))
    path = vae.interpolate(x[0], x[1], 3)
    ends = vae.decode_mean(torch.stack([z[0], (z[0] + z[1]) / 2, z[1]]))
    torch.testing.assert_close(path, ends)
    drawn, eta = vae.draw(4)
    assert drawn.shape == (4, *z.shape[1:])
    assert eta.shape[0] == 4
    assert vae.sample(4).shape == (4, 3)


@pytest.mark.slow
@every
def test_pyro_svi_and_fit_train_every_posterior(kind: str) -> None:
    """Train on two distant groups of data, which need z, with Pyro's SVI and with fit."""
    x = 3 * X.float().sign()[:, :1] + 0.1 * X.float()
    for by_pyro in (True, False):
        vae = small_vae(kind)
        before = evaluate(vae.model, vae.guide, x, num_particles=20, compile=False).elbo.mean
        if by_pyro:
            svi = PyroSVI(vae.model, vae.guide, pyro.optim.Adam({"lr": 0.02}), Trace_ELBO())
            for _ in range(120):
                svi.step(x)
        else:
            fit(vae.model, vae.guide, x, epochs=120, lr=0.02, progress=False, compile=False)
        after = evaluate(vae.model, vae.guide, x, num_particles=20, compile=False).elbo.mean
        alone = -0.5 * (x / 0.6).square().sum(1).mean().item()  # the best that ignores z
        assert after > before + 10
        assert after > 0.8 * alone


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["full rank", "inverse autoregressive", "straight through"])
@pytest.mark.usefixtures("float64")
def test_recorded_steps_match_eager_steps(kind: str) -> None:
    def run(compile: bool) -> tuple[list[Tensor], SVI]:
        vae = small_vae(kind)
        make = partial(torch.optim.Adam, lr=1e-2)
        svi = SVI(vae.model, vae.guide, make, compile=compile)
        svi._gradients.tiered.can_compile = False  # recording the graphs is enough, and faster
        torch.manual_seed(5)
        for _ in range(6):
            svi.step(X)
        return [p.detach() for p in vae.parameters()], svi

    with warnings.catch_warnings():
        warnings.simplefilter("error", RuntimeWarning)
        recorded, svi = run(compile=True)
    assert svi.num_graphs[0] == 1
    torch.testing.assert_close(recorded, run(compile=False)[0], rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("kind", CONTINUOUS)
@pytest.mark.usefixtures("float64")
def test_importance_sampling_matches_the_exact_log_evidence(kind: str) -> None:
    """With a linear decoder p(x) is normal, whichever q the samples come from."""
    torch.manual_seed(1)
    posterior = perturb(CONTINUOUS[kind](2), 0.1)
    body = partial(MLP, hidden=())
    likelihood = {"family": "Normal", "scale": 0.6}
    vae = VAE((3,), 2, likelihood, posterior=posterior, encoder=body, decoder=body)
    encoder = vae.guide.encoder.layers[0]
    with torch.no_grad():  # q wider than p(z | x), so that weights are bounded
        encoder.weight.mul_(0.2)
        encoder.bias[2:4] = 1.5
    found = importance_sample(vae.model, vae.guide, X, num_samples=2000, compile=False)
    assert found.pareto_k.max() < 0.5  # the weights have a variance, so standard errors are valid
    off = found.log_likelihood - exact_log_evidence(vae, X)
    assert (off.abs() < 4.5 * found.standard_error).all()


@pytest.mark.slow
@every
@pytest.mark.usefixtures("float64")
def test_reports_agree_on_the_kl(kind: str) -> None:
    vae = small_vae(kind)
    evaluation = evaluate(vae.model, vae.guide, X, num_particles=50, compile=False)
    sampled = importance_sample(vae.model, vae.guide, X, num_samples=400, compile=False)
    (report,) = latent_report(vae.model, vae.guide, X, num_samples=400, progress=False)
    terms: Any = vae.q(X).log_prob
    z = vae.q(X).sample((400,))
    log_ratio = terms(z) - vae.model.prior().log_prob(z)
    for kl in (evaluation.kl.mean, sampled.kl.mean().item(), report.kl.sum().item()):
        # The error of a difference of estimates, where the one with 50 samples is less certain.
        assert_unbiased(log_ratio.mean(1), torch.tensor(kl), sigmas=4.5 * (1 + 400 / 50) ** 0.5)


@pytest.mark.parametrize("kind", ["low rank", "spline"])
def test_autocast_does_not_reduce_the_precision_of_densities(kind: str) -> None:
    vae = small_vae(kind)
    with torch.autocast("cpu", torch.bfloat16):
        q: Any = vae.q(X.float() if X.dtype != torch.float32 else X)
        z = q.rsample()
        own, recomputed = q.log_prob(z), q.log_prob(z.clone())
    torch.testing.assert_close(own, recomputed, rtol=1e-3, atol=1e-3)
