"""Normal posteriors against closed forms and exact posteriors."""

from functools import partial
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.autograd.functional import jacobian
from torch.distributions import MultivariateNormal, Normal, kl_divergence
from torch.nn.functional import softplus

from pyrovae import VAE, InputError, evaluate, importance_sample
from pyrovae.infer import inference_gap
from pyrovae.nn import MLP
from pyrovae.posteriors import DiagonalNormal, FullRankNormal, LowRankNormal
from tests.pairs import assert_unbiased, exact_log_evidence

pytestmark = pytest.mark.usefixtures("float64")

X = torch.randn(10, 3, generator=torch.Generator().manual_seed(0), dtype=torch.double)
SCALE = 0.6


def test_full_rank_reads_its_parameters_from_h_by_rows() -> None:
    h = torch.tensor([1.0, 2.0, 3.0, -1.0, 0.0, 1.0, 0.1, 0.2, 0.3])
    q = FullRankNormal(3)(h)
    torch.testing.assert_close(q.mean, h[:3])
    expected = torch.tensor([[0.0, 0, 0], [0.1, 0, 0], [0.2, 0.3, 0]])
    torch.testing.assert_close(q.scale_tril.tril(-1), expected)
    torch.testing.assert_close(q.scale_tril.diagonal(), softplus(h[3:6]) + 1e-7)
    assert not q.scale_tril.triu(1).any()


@pytest.mark.parametrize("latent_dim", [1, 3])
def test_full_rank_density_matches_the_change_of_variables_formula(latent_dim: int) -> None:
    posterior = FullRankNormal(latent_dim)
    q = posterior(torch.randn(posterior.in_shape))
    torch.manual_seed(1)
    z = q.rsample()
    torch.manual_seed(1)
    eps = torch.randn(latent_dim)

    def draw(eps: Tensor) -> Tensor:
        return q.loc + q.scale_tril @ eps

    torch.testing.assert_close(z, draw(eps))
    log_det = torch.linalg.slogdet(jacobian(draw, eps)).logabsdet
    expected = Normal(0.0, 1.0).log_prob(eps).sum() - log_det
    torch.testing.assert_close(q.log_prob(z), expected)
    torch.testing.assert_close(log_det, q.scale_tril.diagonal().log().sum())


@pytest.mark.parametrize("posterior", [FullRankNormal(3), LowRankNormal(3)], ids=["full", "low"])
def test_samples_have_the_moments_of_q(posterior: Any) -> None:
    q = posterior(torch.randn(posterior.in_shape))
    z = q.sample((20_000,))
    torch.testing.assert_close(posterior.centre(torch.zeros(posterior.in_shape)), torch.zeros(3))
    assert_unbiased(z, q.mean)
    centred = z - q.mean
    assert_unbiased(centred[:, :, None] * centred[:, None, :], q.covariance_matrix)


def test_low_rank_density_equals_the_dense_normal() -> None:
    posterior = LowRankNormal(4, rank=2)
    h = torch.randn(5, *posterior.in_shape)
    q = posterior(h)
    factor, scale = h[:, 2:].mT, softplus(h[:, 1])
    covariance = factor @ factor.mT + torch.diag_embed(scale**2)
    torch.testing.assert_close(q.covariance_matrix, covariance, rtol=1e-5, atol=1e-5)
    z = q.sample((3,))
    # q.covariance_matrix includes the millionth that is added to the diagonal.
    dense = MultivariateNormal(h[:, 0], q.covariance_matrix)
    torch.testing.assert_close(q.log_prob(z), dense.log_prob(z))
    standard = MultivariateNormal(torch.zeros(4), torch.eye(4))
    torch.testing.assert_close(kl_divergence(q, standard), kl_divergence(dense, standard))


def test_low_rank_is_finite_in_single_precision_for_equal_columns_and_tiny_scales() -> None:
    posterior = LowRankNormal(4)
    h = torch.ones(1, *posterior.in_shape, dtype=torch.float32)
    h[:, 1] = -30.0
    h[:, 2:] = 50.0
    h.requires_grad_()
    q = posterior(h)
    density = q.log_prob(q.rsample())
    density.sum().backward()
    assert h.grad is not None
    assert density.isfinite().all()
    assert h.grad.isfinite().all()


@pytest.mark.parametrize("posterior", [FullRankNormal(3), LowRankNormal(3)], ids=["full", "low"])
def test_kl_to_the_standard_normal_matches_its_formula(posterior: Any) -> None:
    """1/2 [tr S + m'm - D - log det S]."""
    h = torch.randn(posterior.in_shape)
    q, p = posterior(h), posterior.prior()()
    trace = q.covariance_matrix.trace()
    exact = (trace + q.mean @ q.mean - 3 - q.covariance_matrix.logdet()) / 2
    standard = MultivariateNormal(torch.zeros(3), torch.eye(3))
    torch.testing.assert_close(kl_divergence(q, standard), exact)
    z = q.sample((20_000,))
    assert_unbiased(q.log_prob(z) - p.log_prob(z), exact)


def exact_pair(posterior: Any) -> tuple[VAE, Tensor]:
    """A linear-Gaussian VAE with the best guide of its family, and the precision of p(z | x).

    The posterior is Normal(P^-1 W'(x - b) / s^2, P^-1) with P = I + W'W / s^2.
    """
    torch.manual_seed(3)
    body = partial(MLP, hidden=())
    likelihood = {"family": "Normal", "scale": SCALE}
    vae = VAE((3,), 2, likelihood, posterior=posterior, encoder=body, decoder=body)
    decoder, encoder = vae.model.decoder.layers[0], vae.guide.encoder.layers[0]
    with torch.no_grad():
        decoder.weight.copy_(torch.tensor([[1.2, 0.7], [0.6, 0.9], [0.5, -0.4]]))
        precision = torch.eye(2) + decoder.weight.T @ decoder.weight / SCALE**2
        to_loc = precision.inverse() @ decoder.weight.T / SCALE**2
        encoder.weight.zero_()
        encoder.weight[:2] = to_loc
        encoder.bias[:2] = -to_loc @ decoder.bias
        full = torch.linalg.cholesky(precision.inverse())
        diagonal = isinstance(posterior, DiagonalNormal)
        scale = precision.diagonal().rsqrt() if diagonal else full.diagonal()
        encoder.bias[2:4] = (scale - 1e-7).expm1().log()
        if not diagonal:
            encoder.bias[4] = full[1, 0]
    return vae, precision


def test_a_full_rank_posterior_closes_the_gap() -> None:
    """Where q is p(z | x), log p(x, z) - log q(z | x) is log p(x) at every z."""
    vae, _ = exact_pair(FullRankNormal(2))
    found = importance_sample(vae.model, vae.guide, X, num_samples=20, compile=False)
    exact = exact_log_evidence(vae, X, SCALE)
    torch.testing.assert_close(found.elbo, exact)
    torch.testing.assert_close(found.standard_error, torch.zeros(10), rtol=0, atol=1e-6)


def test_a_diagonal_posterior_leaves_the_known_gap() -> None:
    """Its best variances are 1 / P_jj, so that tr(P D) = dim and
    KL(Normal(m, D) || Normal(m, P^-1)) = 1/2 [sum_j log P_jj - log det P].
    """
    vae, precision = exact_pair(DiagonalNormal(2))
    gap = (precision.diagonal().log().sum() - precision.logdet()) / 2
    assert gap > 0.1
    particles = 4000
    q = vae.q(X)
    z = q.sample((particles,))
    elbos = vae.decode(z).log_prob(X) + vae.model.prior().log_prob(z) - q.log_prob(z)
    assert_unbiased(elbos, exact_log_evidence(vae, X, SCALE) - gap)
    evaluation = evaluate(vae.model, vae.guide, X, num_particles=100, compile=False)
    error = 4.5 * (elbos.var(0).mean().item() / (100 * 10)) ** 0.5
    expected = (exact_log_evidence(vae, X, SCALE).mean() - gap).item()
    assert evaluation.elbo.mean == pytest.approx(expected, abs=error)


@pytest.mark.slow
@pytest.mark.parametrize("posterior", [FullRankNormal(2), LowRankNormal(2)], ids=["full", "low"])
def test_inference_gap_finds_no_approximation_gap(posterior: Any) -> None:
    """Either family contains p(z | x), so optimising q for each datum leaves no approximation gap.

    Any covariance of two dimensions is W W' + D with one column in W.
    """
    if isinstance(posterior, FullRankNormal):
        vae, _ = exact_pair(posterior)
    else:
        body = partial(MLP, hidden=())
        vae = VAE((3,), 2, {"family": "Normal"}, posterior=posterior, encoder=body, decoder=body)
    gap = inference_gap(vae.model, vae.guide, X, num_samples=1000, progress=False)
    assert gap.pareto_k.max() < 0.5
    # A chi-square with 6 degrees of freedom exceeds 28 in 1 of 10,000 cases. Steps are noisy, over
    # 16 samples each.
    short = 2 * 28 / (2 * 16 * 250)
    error = short + 4.5 * (2 * short / 1000) ** 0.5 + 4.5 * gap.standard_error
    assert (gap.approximation_gap.abs() < error).all()


def test_invalid_arguments_are_refused() -> None:
    with pytest.raises(InputError, match="rank is 0"):
        LowRankNormal(3, rank=0)
