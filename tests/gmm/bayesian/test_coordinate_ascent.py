"""Variational Bayes against scikit-learn, exact evidences and Monte Carlo."""

import warnings
from dataclasses import replace
from math import lgamma, log, pi

import numpy as np
import pytest
import torch
from sklearn.mixture import BayesianGaussianMixture as Theirs
from torch.distributions import Dirichlet, kl_divergence
from torch.distributions import Wishart as TorchWishart

from pyrovae import InputError
from pyrovae.gmm import Mixture, Prior, coordinate_ascent, log_evidence, record
from pyrovae.gmm.bayesian.coordinate_ascent import evidence_bound, restrict, rounds
from pyrovae.gmm.bayesian.program import locs_given_precision, make_mixture, wishart

from ..data import NAMES, TYPES, points, start


def full(mixture: Mixture) -> Mixture:
    """Convert to a mixture with full covariances."""
    return Mixture.of(mixture.weights, mixture.locs, mixture.matrices)


class StartingAt(Theirs):
    """The estimator of scikit-learn, started from given responsibilities."""

    def _initialize_parameters(self, X, random_state, xp=None):
        self._initialize(X, self.responsibilities)


@pytest.mark.parametrize("kind", TYPES)
@pytest.mark.parametrize("name", NAMES)
def test_coordinate_ascent_agrees_with_scikit_learn(name, kind):
    """Its covariance types restrict q in the full model; its bound leaves out the constants

        -n d / 2 log(2 pi) + log C(concentration) + K (d / 2 log(precision) - log Z'(df, scatter))

    with C and Z' the normalisers of the prior, the latter without its power of pi.
    """
    x, first, num_rounds = points(name), full(start(name, kind)), 25
    n, d = x.shape
    theirs = StartingAt(
        n_components=3,
        covariance_type=kind,
        weight_concentration_prior_type="dirichlet_distribution",
        reg_covar=0.0,
        tol=0.0,
        max_iter=num_rounds,
    )
    theirs.responsibilities = first.log_responsibilities(x).exp().numpy()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        theirs.fit(x.numpy())

    prior = Prior.of(x, 3)
    variances = prior.scatter.diagonal()
    scatter = {"diag": variances.diag(), "spherical": variances.mean() * torch.eye(d).double()}
    prior = replace(prior, scatter=scatter.get(kind, prior.scatter))
    states = coordinate_ascent(
        x, first, prior, restrict_to=kind, max_iter=num_rounds + 1, tol=-float("inf")
    )
    ours = [state for state in states if state.phase == "M"][-1]

    half = torch.tensor(prior.df).double() / 2
    normaliser = half * (d * log(2) - torch.logdet(prior.scatter)) + torch.mvlgamma(half, d)
    without_pi = normaliser - d * (d - 1) / 4 * log(pi)
    dirichlet = lgamma(3 * prior.concentration) - 3 * lgamma(prior.concentration)
    constant = dirichlet - n * d / 2 * log(2 * pi)
    constant += 3 * (d / 2 * log(prior.precision) - without_pi.item())
    expected = np.asarray(theirs.lower_bound_).item() + constant
    assert abs(ours.evidence_bound.item() - expected) < 1e-9 * abs(expected) + 1e-8
    np.testing.assert_allclose(ours.posterior.locs, theirs.means_, rtol=1e-7)
    np.testing.assert_allclose(
        full(ours.posterior.mean).covariances,
        full(Mixture.of(theirs.weights_, theirs.means_, theirs.covariances_, kind)).covariances,
        rtol=1e-7,
        atol=1e-10,
    )


@pytest.mark.slow
@pytest.mark.parametrize("kind", TYPES)
@pytest.mark.parametrize("name", NAMES)
def test_bound_never_falls(name, kind):
    x = points(name)
    climb = record(coordinate_ascent(x, start(name, kind), Prior.of(x, 3, kind)), x)
    assert (np.diff(climb.elbo) > -1e-12 * np.abs(climb.elbo).max()).all()
    assert np.isnan(climb.kl).all()
    assert np.isfinite(climb.log_likelihood).all()


@pytest.mark.parametrize("kind", TYPES)
def test_bound_from_chunks_equals_the_recorded_bound(kind):
    x, first, prior = points("iris"), start("iris", kind), Prior.of(points("iris"), 3, kind)
    states = [s for s in coordinate_ascent(x, first, prior, max_iter=5) if s.phase == "E"]
    streamed = [total for _, (_, total) in zip(range(5), rounds(x, first, prior), strict=False)]
    torch.testing.assert_close(
        torch.stack([s.evidence_bound for s in states]), torch.stack(streamed)
    )


@pytest.mark.parametrize("kind", ["full", "tied"])
def test_bound_is_the_evidence_with_one_component(kind):
    """The posterior is then exact, and log p(x) is known for the normal-inverse-Wishart prior."""
    x = points("iris")
    n, d = x.shape
    prior = Prior.of(x, 1, kind, precision=0.3, df=6.5)
    climb = record(coordinate_ascent(x, start("iris", kind, 1), prior), x)
    mean, precision, df = x.mean(0), prior.precision + n, prior.df + n
    centred = x - mean
    shift = (mean - prior.loc).unsqueeze(1)
    scatter = (
        prior.scatter + centred.T @ centred + prior.precision * n / precision * shift @ shift.T
    )

    def gamma(value):
        return torch.mvlgamma(torch.tensor(value / 2).double(), d).item()

    expected = (
        -n * d / 2 * log(pi)
        + gamma(df)
        - gamma(prior.df)
        + prior.df / 2 * torch.logdet(prior.scatter).item()
        - df / 2 * torch.logdet(scatter).item()
        + d / 2 * log(prior.precision / precision)
    )
    assert abs(climb.elbo[-1] * n - expected) < 1e-8


@pytest.mark.slow
@pytest.mark.parametrize("kind", TYPES)
def test_evidence_estimate_is_unbiased(kind):
    """With one component the evidence is known; with more, it is above the bound."""
    x = points("toy")[:200]
    prior = Prior.of(x, 1, kind)
    exact = record(coordinate_ascent(x, start("toy", kind, 1), prior), x)
    estimate = log_evidence(x, exact.last.posterior)
    assert abs(estimate.log_evidence - exact.elbo[-1] * len(x)) < 4.5 * estimate.standard_error
    assert estimate.standard_error < 0.05
    prior = Prior.of(x, 3, kind)
    climb = record(coordinate_ascent(x, start("toy", kind), prior), x)
    estimate = log_evidence(x, climb.last.posterior)
    assert estimate.effective_samples > 50
    # The K! orders alone add log K!.
    assert estimate.log_evidence > climb.elbo[-1] * len(x) + log(6) - 4.5 * estimate.standard_error
    again = climb.with_evidence(estimate.log_evidence / len(x))
    np.testing.assert_allclose(
        np.array(again.kl) + again.elbo, estimate.log_evidence / len(x), rtol=1e-12
    )


@pytest.mark.slow
@pytest.mark.parametrize("kind", TYPES)
def test_bound_is_the_mean_of_its_terms_over_draws_of_theta(kind):
    """E_q[log p(x, z, theta) - log q(z) - log q(theta)], with theta drawn from q."""
    x = points("toy")[:50]
    prior = Prior.of(x, 3, kind, concentration=2.0, df=5.0, precision=0.5)
    log_q = torch.randn(len(x), 3, generator=torch.Generator().manual_seed(0)).double()
    log_q = log_q.log_softmax(1)
    climb = coordinate_ascent(x, start("toy", kind), prior)
    posterior = [state for _, state in zip(range(3), climb, strict=False)][-1].posterior
    num = 4000
    weights = Dirichlet(posterior.concentration).sample((num,))
    precision_distribution = wishart(posterior.df, posterior.scatter, kind)
    precision = precision_distribution.sample((num,))
    wide = precision.unsqueeze(1) if kind == "tied" else precision
    of_locs = locs_given_precision(posterior.locs, posterior.precision, wide, kind)
    locs = of_locs.sample()
    ones = torch.ones(3).double()
    prior_precision = wishart(prior.df * ones[0], prior.scatter, kind)
    prior_locs = locs_given_precision(prior.loc, prior.precision * ones, wide, kind)

    def total(terms):
        return terms.reshape(num, -1).sum(1)

    log_ratio = (
        Dirichlet(prior.concentration * ones).log_prob(weights)
        - Dirichlet(posterior.concentration).log_prob(weights)
        + total(prior_precision.log_prob(precision) - precision_distribution.log_prob(precision))
        + total(prior_locs.log_prob(locs) - of_locs.log_prob(locs))
    )
    expected_log_joint = torch.stack(
        [
            (log_q.exp() * (make_mixture(w, m, p, kind).log_joint(x) - log_q)).sum()
            for w, m, p in zip(weights, locs, precision, strict=True)
        ]
    )
    drawn = log_ratio + expected_log_joint
    error = drawn.std() / num**0.5
    assert abs(drawn.mean() - evidence_bound(x, log_q, posterior)) < 4.5 * error
    assert abs(log_ratio.mean() + posterior.kl()) < 4.5 * log_ratio.std() / num**0.5
    # The predictive density is such a mean, too.
    log_prob = torch.stack(
        [
            make_mixture(w, m, p, kind).log_prob(x[:5])
            for w, m, p in zip(weights, locs, precision, strict=True)
        ]
    )
    density = log_prob.exp()
    error = density.std(0) / num**0.5
    assert ((density.mean(0) - posterior.predictive(x[:5]).exp()).abs() < 4.5 * error).all()


def test_kl_of_wishart_factors_agrees_with_torch():
    x = points("iris")
    prior = Prior.of(x, 3, df=7.0)
    posterior = next(rounds(x, start("iris", "full"), prior))[0]
    theirs = TorchWishart(torch.tensor(prior.df).double(), precision_matrix=prior.scatter)
    factors = [
        TorchWishart(df, precision_matrix=scatter)
        for df, scatter in zip(posterior.df, posterior.scatter, strict=True)
    ]
    kl_precision = sum(kl_divergence(factor, theirs) for factor in factors)
    kl_weights = kl_divergence(
        Dirichlet(posterior.concentration), Dirichlet(torch.full((3,), 1 / 3).double())
    )
    # The expected KL over Lambda between the normal distributions of locs.
    ratio = prior.precision / posterior.precision
    shift = posterior.locs - prior.loc
    expected = posterior.df.view(-1, 1, 1) * torch.linalg.inv(posterior.scatter)
    distance = torch.einsum("ki,kij,kj->k", shift, expected, shift)
    kl_locs = 0.5 * (4 * (ratio - 1 - ratio.log()) + prior.precision * distance).sum()
    torch.testing.assert_close(
        posterior.kl(), kl_precision + kl_weights + kl_locs, rtol=1e-6, atol=0
    )


@pytest.mark.slow
def test_a_sparse_prior_empties_components_that_are_not_needed():
    x = points("toy")
    prior = Prior.of(x, 8, "full", concentration=1e-3)
    climb = record(coordinate_ascent(x, start("toy", "full", 8), prior, max_iter=1000), x)
    weights = climb.last.mixture.weights
    assert (weights > 0.01).sum() == 3
    assert np.isfinite(climb.elbo).all()


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"df": 1.0}, "df of a full prior must be a number above 1; got 1.0"),
        ({"concentration": 0.0}, "concentration of a full prior must be a number above 0"),
        ({"precision": float("nan")}, "precision of a full prior must be a number above 0"),
        ({"scatter": torch.ones(2).double()}, r"must have shape \(2, 2\); got \(2,\)"),
        ({"scatter": [[1.0, 2.0], [2.0, 1.0]]}, "symmetric and positive definite"),
        ({"loc": [0.0, 1.0, 2.0]}, r"loc of a prior in 2 dimensions must have shape \(2,\)"),
        ({"df": float("inf")}, "df of a full prior must be a number above 1; got inf"),
    ],
)
def test_bad_priors_are_refused(given, message):
    with pytest.raises(InputError, match=message):
        Prior.of(points("toy"), 3, "full", **given)


@pytest.mark.parametrize("scatter", [[1.0, -1.0], [0.0, 1.0]])
def test_every_variance_of_a_prior_must_be_positive(scatter):
    with pytest.raises(InputError, match=r"scatter of a diag prior must be .* positive definite"):
        Prior.of(points("toy"), 3, "diag", scatter=scatter)


@pytest.mark.slow
@pytest.mark.parametrize("kind", TYPES)
def test_evidence_does_not_depend_on_the_origin(kind):
    x = points("toy")[:100]
    estimates = []
    for far in (0.0, 1e6):
        moved = x + far
        first = start("toy", kind)
        first = Mixture(first.log_weights, first.locs + far, first.scales, kind)
        climb = record(coordinate_ascent(moved, first, Prior.of(moved, 3, kind)), moved)
        estimates.append(log_evidence(moved, climb.last.posterior, num_samples=500).log_evidence)
    # Points at 1e6 are rounded to 1e-10, and so is the bound; the draws are the same.
    assert abs(estimates[0] - estimates[1]) < 1e-3


def test_bad_combinations_of_covariance_types_are_refused():
    x = points("toy")
    with pytest.raises(InputError, match="the start has diag covariances, the prior full ones"):
        next(coordinate_ascent(x, start("toy", "diag"), Prior.of(x, 3)))
    posterior = next(rounds(x, start("toy", "diag"), Prior.of(x, 3, "diag")))[0]
    with pytest.raises(InputError, match="these are diag"):
        restrict(posterior, "spherical")
    many = next(rounds(x, start("toy", "full", 8), Prior.of(x, 8)))[0]
    with pytest.raises(InputError, match="orders of 8 components; use 7 at most"):
        log_evidence(x, many)
