"""The estimators: conventions of scikit-learn, bad input, and degenerate fits."""

import warnings

import numpy as np
import pytest
import torch
from sklearn.base import clone
from sklearn.datasets import load_wine
from sklearn.exceptions import ConvergenceWarning
from sklearn.mixture import GaussianMixture as Theirs
from sklearn.model_selection import GridSearchCV
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler
from sklearn.utils.estimator_checks import parametrize_with_checks

from pyrovae import InputError
from pyrovae.gmm import (
    BayesianGaussianMixture,
    DegenerateComponentWarning,
    GaussianMixture,
    as_points,
    toy,
)

from .data import TYPES, points

ESTIMATORS = [GaussianMixture, BayesianGaussianMixture]
X = points("toy").numpy()


@parametrize_with_checks(
    [GaussianMixture(), BayesianGaussianMixture()],
    expected_failed_checks=lambda _: {
        "check_do_not_raise_errors_in_init_or_set_params": "the tests check types of arguments"
    },
)
def test_estimators_pass_the_checks_of_scikit_learn(estimator, check):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DegenerateComponentWarning)
        check(estimator)


@pytest.mark.parametrize("kind", TYPES)
def test_scores_and_criteria_agree_with_scikit_learn(kind):
    ours = GaussianMixture(3, covariance_type=kind, tol=1e-8, max_iter=2000, random_state=0).fit(X)
    theirs = Theirs(
        3,
        covariance_type=kind,
        tol=1e-8,
        max_iter=2000,
        reg_covar=0.0,
        weights_init=ours.weights_,
        means_init=ours.means_,
    ).fit(X)
    assert ours.converged_
    assert abs(ours.score(X) - theirs.score(X)) < 1e-5
    assert abs(ours.lower_bound_ - ours.score(X)) < 1e-12
    assert abs(ours.bic(X) - theirs.bic(X)) < 2 * len(X) * 1e-5
    assert abs(ours.aic(X) - theirs.aic(X)) < 2 * len(X) * 1e-5
    assert (ours.predict(X) == theirs.predict(X)).mean() > 0.99
    np.testing.assert_allclose(ours.predict_proba(X).sum(1), 1)


def test_fit_does_not_depend_on_units():
    units = np.array([1e-4, 1e5])
    one, other = (GaussianMixture(3, random_state=0).fit(x) for x in (X, X * units))
    np.testing.assert_allclose(other.means_, one.means_ * units, rtol=1e-6)
    np.testing.assert_allclose(other.covariances_, one.covariances_ * np.outer(units, units))
    assert abs(other.score(X * units) + np.log(units).sum() - one.score(X)) < 1e-8


def test_restarts_keep_the_best():
    fits = [GaussianMixture(4, n_init=n, random_state=3, max_iter=300).fit(X) for n in (1, 8)]
    assert fits[1].lower_bound_ >= fits[0].lower_bound_
    starts = np.random.RandomState(3)
    singles = [GaussianMixture(4, random_state=starts, max_iter=300).fit(X) for _ in range(8)]
    assert abs(max(f.lower_bound_ for f in singles) - fits[1].lower_bound_) < 1e-12


def test_fits_are_repeatable():
    one, other = (GaussianMixture(3, random_state=5).fit(X) for _ in range(2))
    np.testing.assert_array_equal(one.means_, other.means_)
    np.testing.assert_array_equal(one.sample(5)[0], other.sample(5)[0])


def test_init_is_used_and_checked():
    fitted = GaussianMixture(3, random_state=0, tol=1e-9, max_iter=1000).fit(X)
    again = GaussianMixture(3, init=fitted.mixture_, tol=1e-6).fit(X)
    assert again.n_iter_ <= 2
    with pytest.raises(InputError, match=r"init has locs of shape \(3, 2\) and full covariances"):
        GaussianMixture(2, init=fitted.mixture_).fit(X)
    assert clone(again).init.locs.shape == (3, 2)


def test_estimators_work_in_pipelines_and_searches():
    search = GridSearchCV(
        make_pipeline(StandardScaler(), GaussianMixture(random_state=0, max_iter=500)),
        {"gaussianmixture__n_components": [1, 3]},
        cv=3,
    ).fit(X)
    assert search.best_params_ == {"gaussianmixture__n_components": 3}


@pytest.mark.slow
def test_bayesian_bound_finds_the_number_of_components():
    bounds = {
        k: BayesianGaussianMixture(k, random_state=0, n_init=3, max_iter=500, tol=1e-6)
        .fit(X)
        .lower_bound_
        for k in (1, 2, 3, 5)
    }
    assert max(bounds, key=bounds.get) == 3


def test_attributes_of_the_prior_are_given_by_name():
    sparse = BayesianGaussianMixture(
        8, prior={"concentration": 1e-3}, random_state=0, max_iter=1000, tol=1e-8
    ).fit(X)
    assert (sparse.weights_ > 0.01).sum() == 3
    assert sparse.posterior_.prior.concentration == 1e-3
    with pytest.raises(InputError, match="concentration of a full prior must be a number above 0"):
        BayesianGaussianMixture(3, prior={"concentration": -1.0}).fit(X)
    with pytest.raises(InputError, match=r"no attribute 'alpha': .*concentration"):
        BayesianGaussianMixture(3, prior={"alpha": 1.0}).fit(X)


@pytest.mark.parametrize("estimator", ESTIMATORS)
@pytest.mark.parametrize(
    ("x", "message"),
    [
        (X[:2], "3 components cannot be fitted to 2 points; use at most 2"),
        (np.ones((10, 2)), r"column 0 is constant \(1\)"),
        (np.c_[X, np.full(len(X), 7.0)], r"column 2 is constant \(7\).*leave it out"),
        (np.c_[X, 1e8 + 1e-7 * X[:, 0]], "column 2 is constant"),
        (np.repeat(X[:2], 20, axis=0), "only 2 of the 40 points are distinct.*use at most 2"),
        (np.repeat(np.c_[X, X**2][:2], 20, axis=0), "only 2 of the 40 points are distinct"),
        (np.c_[X, np.full(len(X), np.nan)], r"column 2 has no values \(all are NaN\)"),
        (np.where(X[3, 1] == X, np.inf, X), "infinity"),
        (X[:, 0], "Expected 2D array, got 1D array"),
        (X[:0], "0 sample"),
    ],
)
def test_bad_data_are_refused(estimator, x, message):
    with pytest.raises(ValueError, match=message):
        estimator(3).fit(x)


@pytest.mark.parametrize("estimator", ESTIMATORS)
@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"covariance_type": "diagonal"}, "did you mean 'diag'"),
        ({"n_components": 0}, "n_components is 0"),
        ({"max_iter": 0}, "max_iter is 0"),
        ({"n_init": 0.5}, "n_init is 0.5"),
        ({"covariance_floor": 0.0}, "covariance_floor is 0.0"),
        ({"covariance_floor": float("inf")}, "covariance_floor is inf"),
        ({"tol": float("nan")}, "tol is nan"),
        ({"init": "kmeans"}, "init must be a Mixture, or None"),
        ({"device": "gpu"}, "device 'gpu' cannot be used on this machine"),
    ],
)
def test_bad_settings_are_refused(estimator, settings, message):
    with pytest.raises(InputError, match=message):
        estimator(3).set_params(**settings).fit(X)


@pytest.mark.parametrize("kind", TYPES)
def test_duplicated_data_have_the_same_fit(kind):
    """All data given twice have the same fit as the data given once."""
    once = GaussianMixture(3, covariance_type=kind, random_state=0, tol=1e-10, max_iter=3000).fit(X)
    twice = GaussianMixture(
        3, covariance_type=kind, init=once.mixture_, tol=1e-10, max_iter=3000
    ).fit(np.r_[X, X])
    np.testing.assert_allclose(twice.means_, once.means_, atol=1e-4)
    assert abs(twice.score(X) - once.score(X)) < 1e-8


def test_a_pile_of_duplicates_is_reported():
    x = np.r_[X, np.full((30, 2), 9.0)]
    with pytest.warns(DegenerateComponentWarning, match="degenerate components: .*n_init"):
        fitted = GaussianMixture(4, random_state=0, max_iter=500).fit(x)
    assert len(fitted.degenerate_) == 1
    assert np.isfinite(fitted.score(x))
    pile = fitted.degenerate_[0]
    np.testing.assert_allclose(fitted.means_[pile], 9.0)
    np.testing.assert_allclose(fitted.weights_[pile], 30 / len(x), rtol=1e-6)


@pytest.mark.parametrize("kind", ["full", "tied"])
def test_bayesian_fit_accepts_linearly_dependent_columns(kind):
    for x in (np.c_[X, X.sum(1)], np.random.default_rng(0).normal(size=(10, 20))):
        fitted = BayesianGaussianMixture(2, covariance_type=kind, max_iter=500).fit(x)
        assert np.isfinite(fitted.lower_bound_)
        assert np.isfinite(fitted.score(x))


@pytest.mark.parametrize("estimator", ESTIMATORS)
@pytest.mark.parametrize("unit", [1e160, 1e-160])
def test_units_beyond_double_precision_are_refused(estimator, unit):
    with pytest.raises(InputError, match=r"column 0 has a standard deviation of .*; rescale it"):
        estimator(3).fit(X * unit)


@pytest.mark.parametrize("kind", ["full", "tied"])
def test_linearly_dependent_columns_are_reported(kind):
    x = np.c_[X, X.sum(1)]
    with pytest.warns(DegenerateComponentWarning):
        fitted = GaussianMixture(2, covariance_type=kind, random_state=0, max_iter=500).fit(x)
    assert np.isfinite(fitted.score(x))


def test_a_fit_that_did_not_converge_warns():
    with pytest.warns(
        ConvergenceWarning, match="the best start did not converge to tol .* raise max_iter"
    ):
        fitted = GaussianMixture(3, max_iter=1, tol=1e-12, random_state=0).fit(X)
    assert not fitted.converged_
    assert fitted.n_iter_ == 1


def test_components_of_wine_match_its_classes():
    from sklearn.metrics import adjusted_rand_score

    x, y = load_wine(return_X_y=True)
    fitted = GaussianMixture(3, covariance_type="diag", random_state=0, n_init=5).fit(x)
    assert adjusted_rand_score(y, fitted.predict(x)) > 0.8


def test_predictions_need_the_columns_of_the_fit():
    fitted = GaussianMixture(2, random_state=0).fit(X)
    with pytest.raises(ValueError, match="3 features"):
        fitted.predict(np.c_[X, X[:, 0]])
    with pytest.raises(InputError, match="n_samples is 0"):
        fitted.sample(0)


@pytest.mark.parametrize(
    ("x", "message"),
    [
        (np.arange(3.0), r"shape \(n, d\), one point in each row; got \(3,\).*reshape"),
        (np.array([[1.0, np.nan]]), "column 1 holds nan in 1 of 1 rows"),
        (np.array([["a", "b"]]), "the data holds <U1; it must hold real numbers"),
        (np.array([[True, False]]), r"truth values \(bool\); it must hold real"),
    ],
)
def test_as_points_refuses_bad_input(x, message):
    with pytest.raises(InputError, match=message):
        as_points(x)


def test_as_points_keeps_floats_and_converts_integers():
    assert as_points(np.ones((2, 2), dtype=np.float32)).dtype == torch.float32
    assert as_points([[1, 2], [3, 4]]).dtype == torch.float64
    x = toy(10)[0]
    assert as_points(x) is x
