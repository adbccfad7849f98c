"""Densities and draws of the mixture against scikit-learn and Pyro."""

import numpy as np
import pytest
import torch
from sklearn.mixture import GaussianMixture as Theirs

from pyrovae import InputError
from pyrovae.gmm import Mixture
from pyrovae.gmm.program import component

from .data import TYPES, random_mixture

POINTS = torch.randn(50, 2, generator=torch.Generator().manual_seed(1)).double() * 3


def as_scikit_learn(mixture: Mixture) -> Theirs:
    """The estimator of scikit-learn with the same parameters."""
    kind = mixture.covariance_type
    estimator = Theirs(len(mixture.weights), covariance_type=kind)
    covariances = mixture.covariances.numpy()
    if kind in ("full", "tied"):
        factors = np.linalg.cholesky(np.linalg.inv(covariances))
    else:
        factors = 1 / np.sqrt(covariances)
    estimator.weights_, estimator.means_ = mixture.weights.numpy(), mixture.locs.numpy()
    estimator.precisions_cholesky_ = factors
    estimator.covariances_ = covariances
    return estimator


@pytest.mark.parametrize("kind", TYPES)
def test_densities_agree_with_scikit_learn(kind):
    mixture = random_mixture(kind)
    reference = as_scikit_learn(mixture)
    np.testing.assert_allclose(
        mixture.log_prob(POINTS), reference.score_samples(POINTS.numpy()), rtol=1e-11
    )
    np.testing.assert_allclose(
        mixture.log_responsibilities(POINTS).exp(),
        reference.predict_proba(POINTS.numpy()),
        rtol=1e-9,
    )
    assert mixture.num_parameters == reference._n_parameters()


@pytest.mark.parametrize("kind", TYPES)
def test_components_agree_with_pyro(kind):
    mixture = random_mixture(kind)
    expected = component(mixture).log_prob(POINTS.unsqueeze(1))
    torch.testing.assert_close(mixture.log_density(POINTS), expected)
    joint = expected + mixture.weights.log()
    torch.testing.assert_close(mixture.log_joint(POINTS), joint)


@pytest.mark.parametrize("kind", TYPES)
def test_draws_have_the_moments_of_their_components(kind):
    mixture = random_mixture(kind)
    n = 200_000
    x, z = mixture.sample(n, torch.Generator().manual_seed(0))
    full = mixture.matrices
    for k in range(3):
        own = x[z == k]
        error = (mixture.weights[k] * (1 - mixture.weights[k]) / n).sqrt()
        assert abs(len(own) / n - mixture.weights[k]) < 4.5 * error
        deviation = full[k].diagonal().sqrt()
        assert ((own.mean(0) - mixture.locs[k]).abs() < 4.5 * deviation / len(own) ** 0.5).all()
        # The variance of an entry of a sample covariance is (s_ii s_jj + s_ij^2) / n.
        spread = (torch.outer(deviation**2, deviation**2) + full[k] ** 2) / len(own)
        assert ((torch.cov(own.T) - full[k]).abs() < 4.5 * spread.sqrt()).all()


@pytest.mark.parametrize("kind", TYPES)
def test_densities_are_accurate_far_from_the_origin(kind):
    mixture = random_mixture(kind)
    far = Mixture(mixture.log_weights, mixture.locs + 1e6, mixture.scales, kind)
    # Points at 1e6 are themselves rounded to 1e-10.
    torch.testing.assert_close(
        far.log_prob(POINTS + 1e6), mixture.log_prob(POINTS), rtol=1e-8, atol=0
    )


@pytest.mark.parametrize("kind", TYPES)
def test_gradients_reach_every_parameter(kind):
    mixture = random_mixture(kind)
    leaves = [
        t.clone().requires_grad_() for t in (mixture.log_weights, mixture.locs, mixture.scales)
    ]
    x = POINTS[:3]

    def log_joint(log_weights, locs, scales):
        scales = scales.tril() if kind in ("full", "tied") else scales
        return Mixture(log_weights, locs, scales, kind).log_joint(x)

    assert torch.autograd.gradcheck(log_joint, leaves)


def test_log_prob_does_not_depend_on_chunks():
    mixture = random_mixture("full", k=8, d=4)
    x = mixture.sample(3 * mixture.chunk_size + 7, torch.Generator().manual_seed(0))[0]
    torch.testing.assert_close(mixture.log_prob(x), mixture.log_joint(x).logsumexp(1))


@pytest.mark.parametrize(
    ("weights", "locs", "covariances", "kind", "message"),
    [
        ([0.5, 0.6], [[0.0], [1.0]], [1.0, 1.0], "spherical", "sum to one"),
        (
            [0.5, 0.5],
            [[0.0], [1.0]],
            [1.0, -1.0],
            "spherical",
            "variances must be positive; got -1",
        ),
        ([0.5, 0.5], [[0.0], [1.0]], [[1.0]], "diag", r"shape \(2, 1\); got \(1, 1\)"),
        ([1.0], [[0.0], [1.0]], [1.0], "spherical", r"got \(1,\) and \(2, 1\)"),
        ([1.0], [[0.0, 0.0]], [[1.0, 2.0], [2.0, 1.0]], "tied", "positive definite"),
        ([1.0], [[0.0, 0.0]], [[1.0, 0.5], [0.0, 1.0]], "tied", "symmetric and positive definite"),
        ([1.0], [[float("nan")]], [1.0], "spherical", "finite"),
    ],
)
def test_bad_parameters_are_refused(weights, locs, covariances, kind, message):
    with pytest.raises(InputError, match=message):
        Mixture.of(weights, locs, covariances, kind)
