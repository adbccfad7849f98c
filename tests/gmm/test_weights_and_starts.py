"""Weights of data, starts that are given, and criteria, against repeated data and scikit-learn."""

import numpy as np
import pandas as pd
import pytest
import torch
from sklearn.mixture import GaussianMixture as Theirs

from pyrovae import InputError
from pyrovae.gmm import BayesianGaussianMixture, GaussianMixture

from .data import TYPES, points, start

X = points("toy").numpy()
ESTIMATORS = [GaussianMixture, BayesianGaussianMixture]
WEIGHTS = np.random.default_rng(0).integers(0, 4, size=len(X))


def inverses(mixture, kind):
    covariances = mixture.covariances.numpy()
    return np.linalg.inv(covariances) if kind in ("full", "tied") else 1 / covariances


@pytest.mark.parametrize("kind", TYPES)
@pytest.mark.parametrize("estimator", ESTIMATORS)
def test_weights_are_repetitions(estimator, kind):
    options = {"covariance_type": kind, "init": start("toy", kind), "max_iter": 500, "tol": 1e-9}
    weighted = estimator(3, **options).fit(X, sample_weight=WEIGHTS)
    repeated = estimator(3, **options).fit(np.repeat(X, WEIGHTS, axis=0))
    np.testing.assert_allclose(weighted.means_, repeated.means_, rtol=1e-6, atol=1e-6)
    np.testing.assert_allclose(weighted.covariances_, repeated.covariances_, rtol=1e-5, atol=1e-6)
    np.testing.assert_allclose(weighted.lower_bound_, repeated.lower_bound_, rtol=1e-9)
    many = np.repeat(X, WEIGHTS, axis=0)
    np.testing.assert_allclose(weighted.score(X, sample_weight=WEIGHTS), weighted.score(many))
    if estimator is GaussianMixture:
        np.testing.assert_allclose(weighted.bic(X, sample_weight=WEIGHTS), weighted.bic(many))
        np.testing.assert_allclose(weighted.aic(X, sample_weight=WEIGHTS), weighted.aic(many))


def test_weights_of_data_with_missing_entries_are_repetitions():
    x = X.copy()
    x[::5, 0] = np.nan
    options = {"init": start("toy", "full"), "max_iter": 100, "tol": 1e-6}
    weighted = GaussianMixture(3, **options).fit(x, sample_weight=WEIGHTS)
    repeated = GaussianMixture(3, **options).fit(np.repeat(x, WEIGHTS, axis=0))
    np.testing.assert_allclose(weighted.means_, repeated.means_, rtol=1e-6, atol=1e-6)


def test_starts_by_k_means_see_the_weights():
    """Points of weight zero change nothing, wherever they are."""
    x, weights = np.r_[X, X[:50] + 100], np.r_[np.ones(len(X)), np.zeros(50)]
    plain = GaussianMixture(3, random_state=0).fit(X, sample_weight=np.ones(len(X)))
    padded = GaussianMixture(3, random_state=0).fit(x, sample_weight=weights)
    np.testing.assert_allclose(padded.means_, plain.means_)


@pytest.mark.parametrize("kind", TYPES)
def test_given_starts_agree_with_scikit_learn(kind):
    first = start("toy", kind)
    given = {
        "weights_init": np.array([0.2, 0.5, 0.3]),
        "means_init": first.locs.numpy() + 0.1,
        "precisions_init": inverses(first, kind),
        "covariance_type": kind,
        "max_iter": 30,
        "tol": 0.0,
    }
    with pytest.warns(UserWarning, match="did not converge"):
        theirs = Theirs(3, reg_covar=0.0, **given).fit(X)
    with pytest.warns(UserWarning, match="did not converge"):
        ours = GaussianMixture(3, covariance_floor=1e-12, **given).fit(X)
    np.testing.assert_allclose(ours.means_, theirs.means_, rtol=1e-6, atol=1e-8)
    np.testing.assert_allclose(ours.covariances_, theirs.covariances_, rtol=1e-6, atol=1e-8)
    np.testing.assert_allclose(ours.bic(X), theirs.bic(X), rtol=1e-9)
    np.testing.assert_allclose(ours.aic(X), theirs.aic(X), rtol=1e-9)


@pytest.mark.parametrize("estimator", ESTIMATORS)
@pytest.mark.parametrize("convert", [list, pd.DataFrame, torch.tensor, np.asarray])
def test_given_means_order_the_components(estimator, convert):
    """Components stay in the order of the means that they started from."""
    fitted = estimator(3, random_state=0, max_iter=500).fit(X)
    means = fitted.means_[[2, 0, 1]]
    again = estimator(3, means_init=convert(means), max_iter=500).fit(X)
    np.testing.assert_allclose(again.means_, means, atol=0.2)


def test_a_given_mean_without_points_starts_with_an_equal_share():
    means = np.array([[0.0, 0.0], [3.0, 2.0], [500.0, 500.0]])
    fitted = GaussianMixture(3, means_init=means, max_iter=1, tol=1e9).fit(X)
    np.testing.assert_allclose(fitted.means_.sum(), means.sum(), rtol=1.0)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"means_init": [[0.0, 0.0]]}, r"means_init has shape \(1, 2\); 3 components.*\(3, 2\)"),
        ({"means_init": "far"}, "means_init is 'far'; it must be a tensor"),
        ({"means_init": [[0.0, np.nan]] * 3}, "means_init holds NaN or infinite"),
        ({"means_init": [[True, False]] * 3}, "means_init holds truth values"),
        ({"weights_init": [0.5, 0.5, 0.5]}, r"weights_init is \[0.5, 0.5, 0.5\]; weights must be"),
        ({"weights_init": [1.0, 0.5, -0.5]}, "weights must be positive and sum to one"),
        ({"weights_init": [1.0]}, r"weights_init has shape \(1,\)"),
        ({"precisions_init": np.ones((3, 2))}, r"precisions_init has shape \(3, 2\).*\(3, 2, 2\)"),
        (
            {"precisions_init": -np.ones((3, 2, 2))},
            "precisions_init must be symmetric and positive",
        ),
        (
            {"init": start("toy", "full"), "means_init": X[:3]},
            "init is a whole start, so means_init",
        ),
    ],
)
def test_bad_starts_are_refused(settings, message):
    with pytest.raises(InputError, match=message):
        GaussianMixture(3, **settings).fit(X)


@pytest.mark.parametrize("estimator", ESTIMATORS)
@pytest.mark.parametrize(
    ("weights", "message"),
    [
        (np.ones(3), r"sample_weight has shape \(3,\).*must be \(400,\)"),
        (np.ones((400, 1)), r"sample_weight has shape \(400, 1\)"),
        (-np.ones(400), "sample_weight holds -1; weights must be finite, and 0 or more"),
        (np.r_[np.nan, np.ones(399)], "sample_weight holds nan"),
        (np.r_[np.inf, np.ones(399)], "sample_weight holds inf"),
        (np.zeros(400), "sample_weight is zero for all data"),
        (np.ones(400, dtype=bool), "sample_weight holds truth values"),
        ("many", "sample_weight is 'many'; it must be a tensor"),
        (3.0, r"sample_weight has shape \(\)"),
    ],
)
def test_bad_weights_are_refused(estimator, weights, message):
    with pytest.raises(InputError, match=message):
        estimator(3).fit(X, sample_weight=weights)
