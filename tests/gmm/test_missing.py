"""Data with missing entries: densities, EM, the variational bound, and what is refused."""

import warnings

import numpy as np
import pytest
import torch
from scipy import stats
from torch import Tensor

from pyrovae import InputError
from pyrovae.gmm import (
    BayesianGaussianMixture,
    GaussianMixture,
    Mixture,
    Prior,
    amortised_vi,
    bayesian_svi,
    coordinate_ascent,
    em,
    floor_of,
    free_vi,
    k_means_plus_plus,
    monte_carlo_em,
    nuts,
    record,
)
from pyrovae.gmm.bayesian.coordinate_ascent import rounds, update
from pyrovae.gmm.em import mean_and_covariance
from pyrovae.gmm.missing import complete
from pyrovae.gmm.moments import expectation

from .data import TYPES, points, random_mixture

NAN = float("nan")


def with_holes(x: Tensor, share: float = 0.3, seed: int = 0) -> Tensor:
    """The same data, with a share of the entries missing; one row misses all."""
    generator = torch.Generator().manual_seed(seed)
    x = x.clone()
    x[torch.rand(x.shape, generator=generator) < share] = NAN
    x[3] = NAN
    return x


def some_data(kind: str, num: int = 60, d: int = 3) -> tuple[Mixture, Tensor]:
    mixture = random_mixture(kind, 3, d)
    return mixture, with_holes(mixture.sample(num, torch.Generator().manual_seed(1))[0])


@pytest.mark.parametrize("kind", TYPES)
def test_densities_are_the_marginals_of_what_is_present(kind):
    mixture, x = some_data(kind)
    expected = torch.empty(len(x), 3).double()
    for i, row in enumerate(x):
        here = ~row.isnan()
        for k in range(3):
            loc, covariance = mixture.locs[k][here], mixture.matrices[k][here][:, here]
            expected[i, k] = (
                stats.multivariate_normal.logpdf(row[here], loc, covariance) if here.any() else 0.0
            )
    torch.testing.assert_close(mixture.log_density(x), expected)
    joint = expected + mixture.log_weights
    torch.testing.assert_close(mixture.log_joint(x), joint)
    torch.testing.assert_close(mixture.log_prob(x), joint.logsumexp(1))
    torch.testing.assert_close(mixture.log_responsibilities(x), joint.log_softmax(1))
    torch.testing.assert_close(mixture.log_responsibilities(x)[3], mixture.log_weights)


@pytest.mark.parametrize("kind", TYPES)
def test_completed_entries_are_conditional_expectations(kind):
    mixture, x = some_data(kind, 12)
    for part in complete(x, mixture, torch.zeros(3).double()):
        for i, row in enumerate(part.rows.tolist()):
            here = ~x[row].isnan()
            for k in range(3):
                full, loc = mixture.matrices[k], mixture.locs[k]
                gain = full[:, here] @ torch.linalg.inv(full[here][:, here])
                expected = loc + gain @ (x[row][here] - loc[here])
                torch.testing.assert_close(part.differences[i, k], expected)


@pytest.mark.parametrize("kind", TYPES)
def test_statistics_are_those_of_filled_data_and_conditional_covariances(kind):
    mixture, x = some_data(kind)
    q = mixture.log_responsibilities(x).exp()
    first, second = torch.zeros(3, 3).double(), torch.zeros(3, 3, 3).double()
    for i, row in enumerate(x):
        here = ~row.isnan()
        for k in range(3):
            full, loc = mixture.matrices[k], mixture.locs[k]
            gain = full[:, here] @ torch.linalg.inv(full[here][:, here])
            filled = loc + gain @ (row[here] - loc[here])
            spread = full - gain @ full[here]
            first[k] += q[i, k] * filled
            second[k] += q[i, k] * (torch.outer(filled, filled) + spread)
    means = first / q.sum(0).unsqueeze(1)
    scatter = second - q.sum(0).view(-1, 1, 1) * means.unsqueeze(2) * means.unsqueeze(1)
    expected = {
        "full": scatter,
        "tied": scatter.sum(0),
        "diag": scatter.diagonal(dim1=1, dim2=2),
        "spherical": scatter.diagonal(dim1=1, dim2=2).sum(1),
    }[kind]
    found = expectation(x, mixture)
    torch.testing.assert_close(found.counts, q.sum(0))
    torch.testing.assert_close(found.means, means)
    torch.testing.assert_close(found.scatters, expected)
    torch.testing.assert_close(found.log_normaliser, mixture.log_prob(x).sum())


@pytest.mark.parametrize("kind", TYPES)
def test_em_raises_the_likelihood_of_what_is_present_to_a_maximum(kind):
    x = with_holes(points("iris"))
    floor = floor_of(x, 1e-6)
    start = k_means_plus_plus(x, 2, kind, floor)
    climb = record(em(x, start, floor, max_iter=3000, tol=1e-13), x)
    assert (np.diff(climb.log_likelihood) > -1e-11).all()
    np.testing.assert_allclose(climb.log_likelihood, np.add(climb.elbo, climb.kl), atol=1e-9)
    assert climb.log_likelihood[-1] > climb.log_likelihood[0] + 0.1
    best = climb.last.mixture
    leaves = [t.clone().requires_grad_() for t in (best.log_weights, best.locs, best.scales)]
    logits, locs, scales = leaves
    scales = scales.tril() if kind in ("full", "tied") else scales
    Mixture(logits.log_softmax(0), locs, scales, kind).log_joint(x).logsumexp(1).mean().backward()
    # EM converges linearly, so the gradient is small, not zero.
    for leaf in leaves:
        assert leaf.grad.abs().max() < 1e-4


def test_the_mean_and_covariance_of_a_monotone_pattern_have_a_closed_form():
    """If only y misses entries, the regression of y on x is that of the complete rows."""
    generator = np.random.default_rng(0)
    x = generator.normal(size=200)
    y = 2.0 + 0.7 * x + 0.5 * generator.normal(size=200)
    data = np.c_[x, np.where(np.arange(200) < 80, np.nan, y)]
    mean, covariance = mean_and_covariance(torch.from_numpy(data))
    slope, constant = np.polyfit(x[80:], y[80:], 1)
    residual = np.mean((y[80:] - constant - slope * x[80:]) ** 2)
    np.testing.assert_allclose(mean, [x.mean(), constant + slope * x.mean()], atol=1e-5)
    expected = np.var(x) * np.array([[1, slope], [slope, slope**2]]) + np.diag([0, residual])
    np.testing.assert_allclose(covariance, expected * 200 / 199, atol=1e-4)
    complete = torch.from_numpy(np.c_[x, y])
    torch.testing.assert_close(mean_and_covariance(complete)[1], torch.cov(complete.T))


@pytest.mark.parametrize("kind", TYPES)
def test_the_variational_bound_rises_and_bounds_the_evidence(kind):
    x = with_holes(points("iris")[:, :3])
    prior = Prior.of(x, 2, kind)
    start = k_means_plus_plus(x, 2, kind, floor_of(x, 1e-6))
    bounds = [
        bound.item() for _, (_, bound) in zip(range(60), rounds(x, start, prior), strict=False)
    ]
    assert (np.diff(bounds) > -1e-9).all()
    climb = record(coordinate_ascent(x, start, prior, max_iter=60), x)
    assert abs(climb.elbo[-1] * len(x) - bounds[-1]) < 1e-3 * abs(bounds[-1])


def test_the_variational_bound_of_one_component_is_below_the_exact_evidence():
    """Rows that miss entries of diagonal covariances: each column is a conjugate normal."""
    x = with_holes(points("toy")[:30], 0.2)
    prior = Prior.of(x, 1, "diag")
    exact = 0.0
    for j in range(2):
        own = x[~x[:, j].isnan(), j]
        n, centred = len(own), own - own.mean()
        precision, df = prior.precision + n, torch.tensor(prior.df).double()
        scatter = prior.scatter[j] + centred.square().sum()
        scatter += prior.precision * n / precision * (own.mean() - prior.loc[j]) ** 2
        exact += (
            torch.lgamma((df + n) / 2)
            - torch.lgamma(df / 2)
            + df / 2 * prior.scatter[j].log()
            - (df + n) / 2 * scatter.log()
            + 0.5 * (prior.precision / torch.tensor(precision)).log()
            - n / 2 * np.log(np.pi)
        ).item()
    *_, last = zip(
        range(200),
        rounds(x, Mixture.of([1.0], [[0.0, 0.0]], [[1.0, 1.0]], "diag"), prior),
        strict=False,
    )
    bound = last[1][1].item()
    assert exact - 1.0 < bound < exact


@pytest.mark.parametrize("kind", TYPES)
def test_predictive_densities_are_marginals(kind):
    """Integrated over a missing entry on a fine grid."""
    x = points("toy")
    prior = Prior.of(x, 2, kind)
    q = random_mixture(kind, 2).log_responsibilities(x).exp()
    first = random_mixture(kind, 2)
    posterior = update(expectation(x, first), prior)
    assert q.shape == (len(x), 2)
    grid = torch.linspace(-400, 400, 800_001).double()
    for value in (-1.0, 2.0):
        pair = torch.stack([torch.full_like(grid, value), grid], 1)
        density = posterior.predictive(pair).exp()
        total = torch.trapezoid(density, grid)
        got = posterior.predictive(torch.tensor([[value, NAN], [NAN, NAN]]).double()).exp()
        torch.testing.assert_close(got[0], total, rtol=1e-5, atol=0)
        torch.testing.assert_close(got[1], torch.ones(()).double())


@pytest.mark.parametrize("kind", TYPES)
@pytest.mark.parametrize("estimator", [GaussianMixture, BayesianGaussianMixture])
def test_estimators_take_missing_values(estimator, kind):
    x = with_holes(points("iris"), 0.1).numpy()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        fitted = estimator(3, covariance_type=kind, random_state=0, max_iter=300).fit(x)
    assert np.isfinite(fitted.score(x))
    assert fitted.predict(x).shape == (150,)
    np.testing.assert_allclose(fitted.predict_proba(x).sum(1), 1)
    np.testing.assert_allclose(fitted.score_samples(x)[3], 0, atol=1e-12)
    if estimator is GaussianMixture:
        assert abs(fitted.score(x) - fitted.lower_bound_) < 1e-9


def test_missing_values_are_recovered_better_than_by_dropping_rows():
    """The fit to data with holes is nearer to the truth than that to complete rows only."""
    truth = random_mixture("full", 2, 4)
    x = truth.sample(1500, torch.Generator().manual_seed(3))[0]
    holes = with_holes(x, 0.3)
    rows = holes[~holes.isnan().any(1)]
    fits = [
        GaussianMixture(2, init=truth, max_iter=500, tol=1e-6).fit(data) for data in (holes, rows)
    ]
    scores = [fit.score(x) for fit in fits]
    assert scores[0] > scores[1]


def test_methods_that_need_every_value_refuse():
    x = with_holes(points("toy"))
    floor = floor_of(x, 1e-6)
    first, prior = k_means_plus_plus(x, 2, "full", floor), Prior.of(x, 2)
    for run in (
        lambda: next(monte_carlo_em(x, first, floor)),
        lambda: next(free_vi(x, first, floor)),
        lambda: next(amortised_vi(x, first, floor)),
        lambda: next(bayesian_svi(x, first, prior)),
        lambda: nuts(x, first, prior),
    ):
        with pytest.raises(InputError, match=r"entries of the data are missing \(NaN\).*use em"):
            run()
