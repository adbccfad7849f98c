"""Probabilistic PCA against the full covariance and scikit-learn, and as a maximum."""

import copy
from typing import Any

import pyro
import pytest
import torch
from pyro.infer import SVI, Trace_ELBO
from sklearn import decomposition
from torch import Tensor
from torch.distributions import MultivariateNormal, Normal

from pyrovae import InputError, fit, importance_sample
from pyrovae.models.pca import ProbabilisticPCA

pytestmark = pytest.mark.usefixtures("float64")


def make_table(num: int = 300, num_features: int = 6, rank: int = 3) -> Tensor:
    """Rows with a few strong directions, far from zero."""
    generator = torch.Generator().manual_seed(0)
    mixing = torch.randn(rank, num_features, generator=generator)
    strength = torch.linspace(3.0, 1.0, rank).unsqueeze(1)
    z = torch.randn(num, rank, generator=generator)
    noise = torch.randn(num, num_features, generator=generator)
    return 50.0 + 10 * (z @ (strength * mixing) + 0.5 * noise)


def remove_entries(x: Tensor, share: float = 0.2) -> Tensor:
    gone = torch.rand(x.shape, generator=torch.Generator().manual_seed(1)) < share
    return x.masked_fill(gone, torch.nan)


def fit_ppca(x: Tensor, latent_dim: int = 2, **settings: Any) -> ProbabilisticPCA:
    ppca = ProbabilisticPCA(x.shape[1:], latent_dim, missing=bool(x.isnan().any()))
    ppca.fit(x, **settings)
    return ppca


def marginal(ppca: ProbabilisticPCA) -> MultivariateNormal:
    """p(x) with its full covariance matrix."""
    weight = ppca.loadings.flatten(0, -2)
    covariance = weight @ weight.T + ppca.scale**2 * torch.eye(len(weight))
    return MultivariateNormal(ppca.loc.flatten(), covariance)


def test_log_prob_matches_the_full_covariance() -> None:
    x = make_table()
    for ppca in (ProbabilisticPCA((6,), 2), fit_ppca(x)):
        torch.testing.assert_close(ppca.log_prob(x), marginal(ppca).log_prob(x))
        torch.testing.assert_close(ppca.log_prob(x[:6].view(2, 3, 6))[1, 2], ppca.log_prob(x[5]))


def test_log_prob_matches_scikit_learn_at_its_parameters() -> None:
    x = make_table()
    pca = decomposition.PCA(2).fit(x)
    ppca = ProbabilisticPCA((6,), 2)
    length = (pca.explained_variance_ - pca.noise_variance_) ** 0.5
    with torch.no_grad():
        linear: Any = ppca.model.decoder.layers[0]
        linear.weight.copy_(torch.as_tensor(pca.components_.T * length))
        linear.bias.copy_(torch.as_tensor(pca.mean_))
        ppca.likelihood.get_parameter("unlinked_scale").fill_(pca.noise_variance_**0.5).log_()
    expected = torch.as_tensor(pca.score_samples(x))
    torch.testing.assert_close(ppca.log_prob(x), expected)
    assert ppca.log_prob(x).mean().item() == pytest.approx(pca.score(x))


def test_closed_form_matches_scikit_learn_up_to_degrees_of_freedom() -> None:
    x = make_table()
    ppca, pca = fit_ppca(x), decomposition.PCA(2).fit(x)
    covariance = marginal(ppca).covariance_matrix * len(x) / (len(x) - 1)
    torch.testing.assert_close(covariance, torch.as_tensor(pca.get_covariance()))
    torch.testing.assert_close(ppca.loc, x.mean(0))


def test_closed_form_is_a_local_maximum() -> None:
    x = make_table()
    ppca = fit_ppca(x).double()
    best = ppca.log_prob(x).mean()
    gradients = torch.autograd.grad(best, list(ppca.parameters()))
    assert len(gradients) == 3
    assert max(g.abs().max().item() for g in gradients) < 1e-10
    for _ in range(20):
        near = copy.deepcopy(ppca)
        with torch.no_grad():
            for p in near.parameters():
                p.add_(0.01 * torch.randn_like(p))
        assert near.log_prob(x).mean() < best


@pytest.mark.parametrize("shape", [(300, 6), (20, 50)], ids=["N > D", "D > N"])
def test_em_converges_to_the_closed_form(shape: tuple[int, int]) -> None:
    x = make_table(*shape)
    ppca = ProbabilisticPCA(x.shape[1:], 2)
    (best,) = ppca.fit(x)
    assert best == pytest.approx(ppca.log_prob(x).mean().item())
    exact = marginal(ppca).covariance_matrix
    history = ppca.fit(x, method="em", tol=1e-12)
    assert len(history) > 4
    rises = torch.tensor(history).diff()
    assert rises[0] > 0.1
    assert rises.min() > -1e-11
    assert history[-1] == pytest.approx(best, abs=1e-9)
    assert history[-1] == pytest.approx(ppca.log_prob(x).mean().item())
    torch.testing.assert_close(marginal(ppca).covariance_matrix, exact, rtol=1e-4, atol=1e-3)


def test_em_handles_missing_entries_exactly() -> None:
    """log p of the observed entries matches the marginals, never falls, and ends stationary."""
    x = remove_entries(make_table(200))
    ppca = fit_ppca(x, method="em", max_iter=1)
    history = ppca.fit(x, method="em", tol=1e-13)
    assert torch.tensor(history).diff().min() > -1e-11
    log_prob = ppca.log_prob(x)
    assert history[-1] == pytest.approx(log_prob.mean().item())
    p = marginal(ppca)
    for row, value in zip(x[:20], log_prob, strict=False):
        present = ~row.isnan()
        marginal_p = MultivariateNormal(p.loc[present], p.covariance_matrix[present][:, present])
        torch.testing.assert_close(marginal_p.log_prob(row[present]), value)
    gradients = torch.autograd.grad(log_prob.mean(), list(ppca.parameters()))
    assert max(g.abs().max().item() for g in gradients) < 1e-5


def test_em_with_an_empty_row_matches_em_without_it() -> None:
    """A row without observed entries adds nothing, so both variants of EM agree."""
    x = make_table(100)
    ppca = ProbabilisticPCA((6,), 2, missing=True)
    complete = ppca.fit(x, method="em")[-1]
    more = ppca.fit(torch.cat([x, torch.full((1, 6), torch.nan)]), method="em")[-1]
    assert more * 101 / 100 == pytest.approx(complete, abs=1e-6)


@pytest.mark.parametrize("gaps", [False, True])
def test_the_guide_is_the_exact_posterior(gaps: bool) -> None:
    """Compare with conditioning the joint normal of (z, x), an independent derivation."""
    x = remove_entries(make_table(40)) if gaps else make_table(40)
    ppca = fit_ppca(x, method="em")
    weight, noise = ppca.loadings, ppca.scale**2
    q: Any = ppca.q(x)
    for n in range(5):
        present = ~x[n].isnan()
        w = weight[present]
        gain = w.T @ (w @ w.T + noise * torch.eye(len(w))).inverse()
        torch.testing.assert_close(q.mean[n], gain @ (x[n] - ppca.loc)[present])
        torch.testing.assert_close(q.covariance_matrix[n], torch.eye(2) - gain @ w)
    torch.testing.assert_close(ppca.embed(x), q.mean)
    torch.testing.assert_close(ppca.reconstruct(x), q.mean @ weight.T + ppca.loc)


def test_reconstruction_equals_pca_as_noise_vanishes() -> None:
    x = make_table()
    ppca, pca = fit_ppca(x), decomposition.PCA(2).fit(x)
    with torch.no_grad():
        ppca.likelihood.get_parameter("unlinked_scale").fill_(-12.0)
    projected = torch.as_tensor(pca.inverse_transform(pca.transform(x)))
    torch.testing.assert_close(ppca.reconstruct(x), projected)


@pytest.mark.parametrize("gaps", [False, True])
def test_each_sample_gives_log_p_without_noise(gaps: bool) -> None:
    x = remove_entries(make_table(60)) if gaps else make_table(60)
    ppca = fit_ppca(x, method="em", max_iter=3)
    exact = ppca.log_prob(x)
    loss = Trace_ELBO().loss(ppca.model, ppca.guide, x)
    assert loss == pytest.approx(-exact.sum().item())
    found = importance_sample(ppca.model, ppca.guide, x, num_samples=20, progress=False)
    torch.testing.assert_close(found.log_likelihood, exact)
    assert found.standard_error.max() < 1e-6


@pytest.mark.slow
def test_pyrovae_fit_reaches_the_same_maximum() -> None:
    x = make_table()
    ppca = ProbabilisticPCA((6,), 2)
    (best,) = copy.deepcopy(ppca).fit(x)
    ppca.standardise(x)
    settings: Any = {"batch_size": len(x), "epochs": 120, "lr": 0.1, "schedule": "cosine"}
    history = fit(ppca.model, ppca.guide, x, compile=False, progress=False, **settings)
    assert ppca.log_prob(x).mean().item() == pytest.approx(best, abs=1e-3)
    assert history.epochs[-1].loss == pytest.approx(-best, abs=1e-3)


def test_pyro_svi_raises_the_likelihood() -> None:
    x = make_table()
    ppca = ProbabilisticPCA((6,), 2)
    ppca.standardise(x)
    svi = SVI(ppca.model, ppca.guide, pyro.optim.Adam({"lr": 3e-2}), Trace_ELBO())
    losses = [svi.step(x) for _ in range(30)]
    assert max(torch.tensor(losses).diff().tolist()) < 0


def test_fit_takes_images_in_single_precision() -> None:
    images = make_table(100, 16).float().view(100, 1, 4, 4)
    ppca = ProbabilisticPCA((1, 4, 4), 3).float()
    (best,) = ppca.fit(images)
    assert ppca.loadings.shape == (1, 4, 4, 3)
    assert ppca.log_prob(images).dtype == torch.float32
    assert ppca.log_prob(images).mean().item() == pytest.approx(best, rel=1e-4)
    assert ppca.reconstruct(images).shape == images.shape
    z, eta = ppca.draw(7)
    assert (z.shape, eta.shape) == ((7, 3), (7, 1, 1, 4, 4))


def test_samples_have_the_moments_of_p() -> None:
    x, num = make_table(), 20_000
    ppca = fit_ppca(x)
    samples = ppca.sample(num)
    p = marginal(ppca)
    variance = p.covariance_matrix.diagonal()
    off = (samples.mean(0) - p.loc) / (variance / num).sqrt()
    assert off.abs().max() < 4.5
    # The covariance of normals has the variance (c_ii c_jj + c_ij^2) / num.
    c = p.covariance_matrix
    error = ((variance.outer(variance) + c.square()) / num).sqrt()
    assert ((samples.T.cov() - c) / error).abs().max() < 4.5


def test_loadings_are_orthogonal_with_fixed_signs() -> None:
    x = make_table()
    exact = fit_ppca(x).loadings
    gram = exact.T @ exact
    torch.testing.assert_close(gram, gram.diagonal().diag())
    assert gram[0, 0] > gram[1, 1]
    by_em = fit_ppca(x, method="em", tol=1e-13).loadings
    torch.testing.assert_close(by_em, exact, rtol=1e-4, atol=1e-3)


def test_copies_and_state_dicts_keep_everything() -> None:
    x = make_table(50)
    ppca = fit_ppca(x)
    expected = ppca.log_prob(x)
    other = copy.deepcopy(ppca)
    with torch.no_grad():
        ppca.likelihood.get_parameter("unlinked_scale").add_(1.0)
    torch.testing.assert_close(other.log_prob(x), expected)
    assert (ppca.log_prob(x) - expected).abs().min() > 1e-6
    fresh = ProbabilisticPCA((6,), 2)
    fresh.load_state_dict(other.state_dict())
    torch.testing.assert_close(fresh.log_prob(x), expected)
    tensors = [t.data_ptr() for t in other.state_dict().values()]
    assert len(set(tensors)) == len(tensors)
    assert not list(other.guide.parameters())


def test_posterior_has_the_interface_of_other_posteriors() -> None:
    ppca = fit_ppca(make_table(50))
    posterior: Any = ppca.guide.posterior
    h = ppca.guide.h(make_table(50))
    assert h.shape[1:] == posterior.in_shape
    torch.testing.assert_close(posterior.centre(h), ppca.embed(make_table(50)))
    z = torch.zeros(2)
    torch.testing.assert_close(posterior.prior()().log_prob(z), Normal(z, 1).log_prob(z).sum())


def test_invalid_arguments_are_refused() -> None:
    x = make_table(20)
    ppca = ProbabilisticPCA((6,), 2)
    with pytest.raises(InputError, match="from 1 to 5"):
        ProbabilisticPCA((6,), 6)
    with pytest.raises(InputError, match="did you mean 'exact'"):
        ppca.fit(x, method="exakt")
    with pytest.raises(InputError, match="max_iter is 0"):
        ppca.fit(x, method="em", max_iter=0)
    with pytest.raises(InputError, match="missing=True"):
        ppca.fit(remove_entries(x))
    with pytest.raises(InputError, match="method='em'"):
        ProbabilisticPCA((6,), 2, missing=True).fit(remove_entries(x))
    empty = x.index_fill(1, torch.tensor([1]), torch.nan)
    with pytest.raises(InputError, match="missing in all"):
        ProbabilisticPCA((6,), 2, missing=True).fit(empty, method="em")
    with pytest.raises(InputError, match="4 data or more"):
        ppca.fit(x[:3])
    flat = torch.randn(20, 2) @ torch.randn(2, 6)
    for method in ("exact", "em"):
        with pytest.raises(InputError, match="no maximum"):
            ppca.fit(flat, method=method)
    with pytest.raises(InputError, match="expects"):
        ppca.log_prob(x[:, :5])
