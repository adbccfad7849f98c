"""Mixtures as scikit-learn estimators, which work in its pipelines and searches."""

from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
from torch import Tensor

from ..arguments import as_instance
from .bayesian.conjugate import Posterior, Prior
from .bayesian.coordinate_ascent import rounds
from .em import iterations
from .estimator_base import DegenerateComponentWarning, Estimator, FitResult
from .mixture import CovarianceType, Mixture
from .points import as_weights

__all__ = ["BayesianGaussianMixture", "DegenerateComponentWarning", "GaussianMixture"]


class GaussianMixture(Estimator):
    """A Gaussian mixture fitted by EM, to a maximum of its likelihood.

    EM processes data in chunks, so it never holds an array of n x K. With several starts it keeps
    the best, and prefers one without degenerate components.

    Arguments:
        n_components: K.
        covariance_type: full, tied, diag or spherical.
        tol: stop when a round raises the log-likelihood by less than this, in nats per datum.
        max_iter: most rounds to run.
        n_init: number of k-means++ starts.
        covariance_floor: smallest variance allowed in any direction, as a fraction of that of the
            data. It has no effect on larger variances (scikit-learn adds ``reg_covar`` to all).
        init: a mixture to start from instead of k-means++.
        weights_init: mixing weights to start from, in place of those of k-means++.
        means_init: means to start from. Weights and covariances then come from the points that are
            nearest to each, unless these are given too.
        precisions_init: inverses of the covariances to start from, in the shape of
            ``covariances_``.
        random_state: seed of the starts and of draws.
        device: where to compute.

    Example:
        >>> from pyrovae.gmm import GaussianMixture, toy
        >>> x, z = toy(400)
        >>> mixture = GaussianMixture(3, random_state=0).fit(x)
        >>> round(mixture.score(x), 2)
        -3.16
    """

    def __init__(
        self,
        n_components: int = 1,
        *,
        covariance_type: CovarianceType = "full",
        tol: float = 1e-3,
        max_iter: int = 100,
        n_init: int = 1,
        covariance_floor: float = 1e-6,
        init: Mixture | None = None,
        weights_init: Any = None,
        means_init: Any = None,
        precisions_init: Any = None,
        random_state: int | np.random.RandomState | None = None,
        device: str = "cpu",
    ) -> None:
        self.n_components = n_components
        self.covariance_type = covariance_type
        self.tol = tol
        self.max_iter = max_iter
        self.n_init = n_init
        self.covariance_floor = covariance_floor
        self.init = init
        self.weights_init = weights_init
        self.means_init = means_init
        self.precisions_init = precisions_init
        self.random_state = random_state
        self.device = device

    def bic(self, X: Any, sample_weight: Any = None) -> float:
        """-2 log p(X) + log(n) times the number of parameters (Schwarz 1978); lower is better.

        log p(X) is that of the entries that are not NaN. If points have weights, n is their sum.
        """
        total, log_p = self._total(X, sample_weight)
        return -2 * log_p + self.mixture_.num_parameters * float(np.log(total))

    def aic(self, X: Any, sample_weight: Any = None) -> float:
        """-2 log p(X) + 2 times the number of parameters (Akaike 1974); lower is better."""
        return -2 * self._total(X, sample_weight)[1] + 2.0 * self.mixture_.num_parameters

    def _total(self, X: Any, sample_weight: Any) -> tuple[float, float]:
        """The number of data and log p(X), both with weights."""
        log_prob = self.score_samples(X)
        weights = as_weights(sample_weight, len(log_prob))
        if weights is None:
            return float(len(log_prob)), float(log_prob.sum())
        return float(weights.sum()), float(weights.numpy() @ log_prob)

    def _fit_once(
        self,
        x: Tensor,
        weights: Tensor | None,
        start: Mixture,
        floor: Tensor,
        on_step: Callable[[], None],
    ) -> FitResult:
        degenerate: tuple[int, ...] = ()
        highest = float("-inf")
        total = len(x) if weights is None else weights.sum().item()
        for number, step in enumerate(iterations(x, start, floor, weights)):
            bound = step.statistics.log_normaliser.item() / total
            converged = bound - highest < self.tol
            result = FitResult(step.before, bound, number, converged, degenerate)
            if converged or number == self.max_iter:
                break
            highest, degenerate = bound, step.degenerate
            on_step()
        return result

    def _assignment_mixture(self) -> Mixture:
        return self.mixture_

    def _log_prob(self, x: Tensor) -> Tensor:
        return self.mixture_.log_prob(x)


class BayesianGaussianMixture(Estimator):
    """A Gaussian mixture with a posterior of its parameters, by mean-field coordinate ascent.

    ``score_samples`` gives the posterior predictive density. ``lower_bound_`` is a bound on the
    evidence log p(X) per datum with all its constants, so you can compare it between covariance
    types. To compare numbers of components, add log(K!) / n, because q covers only one of the K!
    orders of the components (Bishop 2006, sec. 10.2.4).

    Arguments:
        n_components: K.
        covariance_type: full, tied, diag or spherical covariances of the model (in scikit-learn it
            restricts q, and the model stays full).
        prior: attributes of :class:`Prior` that replace those of the weak prior derived from the
            data, as in ``{"concentration": 0.01}``.
        tol: stop when a round raises the bound by less than this, in nats per datum.
        max_iter: most rounds to run.
        n_init: number of k-means++ starts.
        covariance_floor: smallest variance allowed in the start, as a fraction of that of the data.
        init: a mixture to start from instead of k-means++.
        means_init: means to start from. Weights and covariances then come from the points that are
            nearest to each.
        random_state: seed of the starts and of draws.
        device: where to compute.

    Attributes:
        posterior_: q(weights) q(locs, Lambda); ``mixture_`` is its mean.
    """

    posterior_: Posterior

    def __init__(
        self,
        n_components: int = 1,
        *,
        covariance_type: CovarianceType = "full",
        prior: Mapping[str, Any] | None = None,
        tol: float = 1e-3,
        max_iter: int = 100,
        n_init: int = 1,
        covariance_floor: float = 1e-6,
        init: Mixture | None = None,
        means_init: Any = None,
        random_state: int | np.random.RandomState | None = None,
        device: str = "cpu",
    ) -> None:
        self.n_components = n_components
        self.covariance_type = covariance_type
        self.prior = prior
        self.tol = tol
        self.max_iter = max_iter
        self.n_init = n_init
        self.covariance_floor = covariance_floor
        self.init = init
        self.means_init = means_init
        self.random_state = random_state
        self.device = device

    def _check_settings(self) -> None:
        super()._check_settings()
        as_instance("prior", self.prior, (Mapping, type(None)), "a mapping of attributes, or None")

    def _fit_once(
        self,
        x: Tensor,
        weights: Tensor | None,
        start: Mixture,
        floor: Tensor,
        on_step: Callable[[], None],
    ) -> FitResult:
        kind = self.covariance_type
        prior = Prior.of(x, self.n_components, kind, weights, **(self.prior or {}))
        highest = float("-inf")
        num = len(x) if weights is None else weights.sum().item()
        steps = rounds(x, start, prior, weights=weights)
        for number, (posterior, total) in enumerate(steps, start=1):
            bound = total.item() / num
            converged = bound - highest < self.tol
            result = FitResult(posterior.mean, bound, number, converged, posterior=posterior)
            if converged or number == self.max_iter:
                break
            highest = bound
            on_step()
        return result

    def _assignment_mixture(self) -> Mixture:
        return self.posterior_.expected_log_joint()

    def _log_prob(self, x: Tensor) -> Tensor:
        return self.posterior_.predictive(x)
