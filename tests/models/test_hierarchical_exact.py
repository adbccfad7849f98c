"""The hierarchical VAE against exact answers: with linear maps its latents and x are Gaussian."""

from typing import Any

import pytest
import torch
from pyro import poutine
from pyro.distributions import Normal
from pyro.infer import Trace_ELBO
from torch.distributions import MultivariateNormal, kl_divergence
from torch.distributions import Normal as TorchNormal

from pyrovae import importance_sample
from pyrovae.models.ladder import precision_weighted
from tests.models.hierarchical import (
    SCALE,
    each_guide,
    exact_log_p,
    exact_posterior,
    guide_distribution,
    in_double,
    joint_moments,
    linear_normal,
    log_weights,
    make_linear_vae,
    make_wide_guide_vae,
    sample_data,
    set_to_exact_posterior,
    unlinked,
)
from tests.pairs import assert_unbiased


@in_double
@each_guide
def test_elbo_is_log_p_minus_the_kl_to_the_posterior(guide: str) -> None:
    vae = make_linear_vae(guide)
    x = sample_data(vae, 10)
    gap = kl_divergence(guide_distribution(vae, x), exact_posterior(vae, x))
    assert (gap > 0.01).all()
    assert_unbiased(log_weights(vae, x, 2000), exact_log_p(vae, x) - gap)


@in_double
@each_guide
@pytest.mark.parametrize("dims", [(3, 2), (4, 3, 2)])
def test_importance_sampling_matches_the_exact_log_p(guide: str, dims: tuple[int, ...]) -> None:
    vae = make_wide_guide_vae(guide, dims)
    x = sample_data(vae, 25)
    got = importance_sample(
        vae.model, vae.guide, x, num_samples=3000, compile=False, progress=False
    )
    off = (got.log_likelihood - exact_log_p(vae, x)).abs()
    known = got.pareto_k < 0.7
    assert known.double().mean() > 0.5
    assert (off < 4.5 * got.standard_error)[known].all()


@in_double
@pytest.mark.parametrize("dims", [(3,), (3, 2), (4, 3, 2)])
def test_the_ladder_reaches_the_exact_posterior(dims: tuple[int, ...]) -> None:
    vae = make_linear_vae("top_down", dims)
    set_to_exact_posterior(vae)
    x = sample_data(vae, 20)
    weights, exact = log_weights(vae, x, 30), exact_log_p(vae, x)
    assert (weights - exact).abs().max() < 1e-9
    of_q, of_p = guide_distribution(vae, x), exact_posterior(vae, x)
    torch.testing.assert_close(of_q.mean, of_p.mean)
    torch.testing.assert_close(of_q.covariance_matrix, of_p.covariance_matrix)
    torch.testing.assert_close(torch.cat(vae.means(x), -1), of_p.mean)
    torch.testing.assert_close(vae.embed(x), of_p.mean[:, -dims[-1] :])
    mean, covariance = joint_moments(vae)
    gain = covariance[-5:, :-5] @ covariance[:-5, :-5].inverse()
    expected = mean[-5:] + (of_p.mean - mean[:-5]) @ gain.T
    torch.testing.assert_close(vae.reconstruct(x, num_samples=0), expected)


@in_double
def test_precision_weighted_is_the_product_of_two_normals() -> None:
    p = Normal(torch.randn(4, 1, 3), torch.rand(4, 1, 3) + 0.1).to_event(1)
    q = Normal(torch.randn(5, 3), torch.rand(5, 3) + 0.1).to_event(1)
    product = precision_weighted(p, q)
    z = torch.randn(100, 4, 5, 3)
    excess = p.log_prob(z) + q.log_prob(z) - product.log_prob(z)
    torch.testing.assert_close(excess, excess[:1].expand_as(excess), rtol=1e-9, atol=1e-9)
    (m_p, s_p), (m_q, s_q) = ((each.mean, each.stddev) for each in (p, q))
    evidence = TorchNormal(m_p, (s_p**2 + s_q**2).sqrt()).log_prob(m_q).sum(-1)
    torch.testing.assert_close(excess[0], evidence)


def test_precision_weighted_is_accurate_for_very_narrow_and_wide_normals() -> None:
    for scales in ((1e-7, 1e5), (1e5, 1e-7), (1e-7, 1e-7), (1e30, 1e30)):
        s_p, s_q = (torch.tensor([scale], requires_grad=True) for scale in scales)
        product = precision_weighted(
            Normal(torch.zeros(1), s_p).to_event(1), Normal(torch.ones(1), s_q).to_event(1)
        )
        both = (1 / scales[0] ** 2 + 1 / scales[1] ** 2) ** -0.5
        assert product.base_dist.scale.item() == pytest.approx(both, rel=1e-5)
        share = 1 / (1 + (scales[1] / scales[0]) ** 2)
        assert product.mean.item() == pytest.approx(share, rel=1e-5, abs=1e-30)
        for gradient in torch.autograd.grad(product.mean.sum() + product.stddev.sum(), [s_p, s_q]):
            assert gradient.isfinite().all()


@in_double
@each_guide
def test_layer_kl_sums_to_the_exact_rate(guide: str) -> None:
    vae = make_linear_vae(guide)
    x = sample_data(vae, 8)
    mean, covariance = joint_moments(vae)
    prior = MultivariateNormal(mean[:-5], covariance[:-5, :-5])
    exact = kl_divergence(guide_distribution(vae, x), prior).mean()
    estimates = torch.stack([vae.layer_kl(x) for _ in range(100)])
    assert estimates.shape == (100, 3)
    assert_unbiased(estimates.sum(1), exact)
    q_top = guide_distribution(vae, x)
    at = slice(-2, None)
    if guide == "top_down":
        top = MultivariateNormal(q_top.mean[:, at], q_top.covariance_matrix[:, at, at])
        standard = MultivariateNormal(torch.zeros(2), torch.eye(2))
        torch.testing.assert_close(estimates[0, -1], kl_divergence(top, standard).mean())
        with torch.no_grad():
            for parameter in vae.guide.upward[-1].layers[-1].parameters():
                parameter.zero_()
            vae.guide.upward[-1].layers[-1].bias[2:] = unlinked(torch.ones(2))
    else:
        standard = linear_normal(torch.zeros(2, 2), torch.zeros(2), torch.ones(2))
        vae.guide.conditionals[-1].network = standard
    collapsed = vae.layer_kl(x)
    assert collapsed[-1].abs() < 1e-9
    assert collapsed.sum() > 0.1


@in_double
@each_guide
def test_draws_have_the_moments_of_the_model(guide: str) -> None:
    vae = make_linear_vae(guide)
    mean, covariance = joint_moments(vae)
    code, eta = vae.draw(40_000)
    assert code.shape == (40_000, 2)
    assert eta.shape == (40_000, 1, 5)
    got = torch.cat([code, eta[:, 0]], 1).detach()
    at = [5, 6, *range(7, 12)]
    assert_unbiased(got, mean[at])
    exact = covariance[at][:, at] - SCALE**2 * torch.diag(torch.tensor([0.0] * 2 + [1.0] * 5))
    centred = got - mean[at]
    assert_unbiased((centred[:, :, None] * centred[:, None]).flatten(1), exact.flatten())
    x = vae.sample(4)
    assert x.shape == (4, 5)


@in_double
@each_guide
def test_missing_entries_do_not_contribute(guide: str) -> None:
    vae = make_linear_vae(guide, missing=True)
    x = sample_data(vae, 20)
    present = torch.rand(20, 5) > 0.3
    assert not present.all()
    x = torch.where(present, x, torch.nan)
    q: Any = poutine.trace(vae.guide).get_trace(x)
    p: Any = poutine.trace(poutine.replay(vae.model, trace=q)).get_trace(x)
    p.compute_log_prob()
    loc = vae.model.decoder(q.nodes["z1"]["value"])[:, 0]
    of_each = TorchNormal(loc, SCALE).log_prob(torch.where(present, x, 0.0)) * present
    torch.testing.assert_close(p.nodes["x"]["log_prob"], of_each.sum(1))
    loss = Trace_ELBO().differentiable_loss(vae.model, vae.guide, x)
    gradients = torch.autograd.grad(loss, list(vae.parameters()), allow_unused=True)
    assert all(g.isfinite().all() for g in gradients if g is not None)
    got = importance_sample(vae.model, vae.guide, x, num_samples=20, compile=False, progress=False)
    assert got.log_likelihood.isfinite().all()
