"""Mixtures as scikit-learn estimators, which work in its pipelines and searches."""

import warnings
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from sklearn.base import BaseEstimator, DensityMixin
from sklearn.exceptions import ConvergenceWarning
from sklearn.utils import check_random_state
from sklearn.utils.validation import check_is_fitted, validate_data
from torch import Tensor

from ..device import find_device
from ..errors import InputError
from ..progress import LateProgress
from .bayesian.conjugate import Posterior, Prior
from .bayesian.coordinate_ascent import rounds
from .em import floor_of, iterations
from .mixture import CovarianceType, Mixture, check_covariance_type
from .points import as_points, check_fittable
from .start import k_means_plus_plus

__all__ = ["BayesianGaussianMixture", "DegenerateComponentWarning", "GaussianMixture"]


class DegenerateComponentWarning(UserWarning):
    """A component ended at the covariance floor, or without data."""


@dataclass(frozen=True)
class _FitResult:
    """The result of the fit from one start."""

    mixture: Mixture
    bound: float
    num_iterations: int
    converged: bool
    degenerate: tuple[int, ...] = ()
    posterior: Posterior | None = None


class _Estimator(DensityMixin, BaseEstimator):  # type: ignore[misc]
    """The base class of both estimators.

    Attributes:
        mixture_: the fitted parameters; if they have a posterior, its mean.
        weights_: mixing weights, shape (K,).
        means_: means, shape (K, d).
        covariances_: covariances, with the same shapes as in scikit-learn.
        n_iter_: rounds that the best start took.
        converged_: whether the best start converged.
        lower_bound_: the bound that the best start reached, in nats per datum.
        degenerate_: components at the covariance floor, or without data.
    """

    mixture_: Mixture

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
        self.random_state = random_state
        self.device = device

    def fit(self, X: Any, y: Any = None) -> Any:
        """Fit to the points in the rows of X; y is not used.

        Raises:
            InputError: if a mixture cannot be fitted to these points, or a setting is out of range.
        """
        self._check_settings()
        x = self._as_tensor(X, reset=True)
        check_fittable(x, self.n_components)
        random = check_random_state(self.random_state)
        floor = floor_of(x, self.covariance_floor)
        best = None
        num_starts = 1 if self.init is not None else self.n_init
        with LateProgress("fit", num_starts * (self.max_iter + 1)) as bar:
            for number in range(num_starts):
                result = self._fit_once(x, self._start(x, floor, random), floor, bar.advance)
                bar.finish((number + 1) * (self.max_iter + 1))
                if best is None or self._rank(result) > self._rank(best):
                    best = result
        assert best is not None
        self._store_result(best)
        return self

    def fit_predict(self, X: Any, y: Any = None) -> NDArray[Any]:
        """Fit, and return the most probable component of each point."""
        labels: NDArray[Any] = self.fit(X).predict(X)
        return labels

    def predict(self, X: Any) -> NDArray[Any]:
        """The most probable component of each point."""
        return self._apply_in_chunks(lambda mixture, x: mixture.log_joint(x).argmax(1), X)

    def predict_proba(self, X: Any) -> NDArray[Any]:
        """p(z = k | x) of each point, shape (n, K)."""
        return self._apply_in_chunks(lambda mixture, x: mixture.log_responsibilities(x).exp(), X)

    def score_samples(self, X: Any) -> NDArray[Any]:
        """log p(x) of each point, in nats."""
        return self._apply_in_chunks(lambda _, x: self._log_prob(x), X)

    def score(self, X: Any, y: Any = None) -> float:
        """The mean of log p(x), in nats per datum."""
        return float(self.score_samples(X).mean())

    def sample(self, n_samples: int = 1) -> tuple[NDArray[Any], NDArray[Any]]:
        """Draw points from ``mixture_``, and the component of each."""
        check_is_fitted(self)
        if n_samples < 1:
            raise InputError(f"n_samples is {n_samples}; it must be 1 or more")
        seed = int(check_random_state(self.random_state).randint(2**31))
        generator = torch.Generator(self.mixture_.locs.device).manual_seed(seed)
        x, z = self.mixture_.sample(n_samples, generator)
        return x.cpu().numpy(), z.cpu().numpy()

    def _fit_once(
        self, x: Tensor, start: Mixture, floor: Tensor, on_step: Callable[[], None]
    ) -> "_FitResult":
        raise NotImplementedError

    def _log_prob(self, x: Tensor) -> Tensor:
        raise NotImplementedError

    def _assignment_mixture(self) -> Mixture:
        """The mixture whose responsibilities are the p(z | x) of the estimator."""
        raise NotImplementedError

    def _store_result(self, result: "_FitResult") -> None:
        self.mixture_ = result.mixture
        if result.posterior is not None:
            self.posterior_ = result.posterior
        self.weights_ = result.mixture.weights.cpu().numpy()
        self.means_ = result.mixture.locs.cpu().numpy()
        self.covariances_ = result.mixture.covariances.cpu().numpy()
        self.n_iter_ = result.num_iterations
        self.converged_ = result.converged
        self.lower_bound_ = result.bound
        self.degenerate_ = result.degenerate
        if not result.converged:
            warnings.warn(
                f"the best start did not converge to tol {self.tol:g} in {self.max_iter} rounds; "
                "raise max_iter or tol",
                ConvergenceWarning,
                stacklevel=3,
            )
        if result.degenerate:
            listed = ", ".join(map(str, result.degenerate))
            warnings.warn(
                f"degenerate components: {listed}. Each has no data, or a variance at the floor "
                f"({self.covariance_floor:g} times that of the data), so the likelihood means "
                "little: use fewer components, another covariance_type, or more starts (n_init)",
                DegenerateComponentWarning,
                stacklevel=3,
            )

    @staticmethod
    def _rank(result: "_FitResult") -> tuple[bool, float]:
        """Rank fits without degenerate components first: only their likelihood is meaningful."""
        return not result.degenerate, result.bound

    def _start(self, x: Tensor, floor: Tensor, random: np.random.RandomState) -> Mixture:
        if self.init is None:
            return k_means_plus_plus(x, self.n_components, self.covariance_type, floor, random)
        given = tuple(self.init.locs.shape), self.init.covariance_type
        expected = (self.n_components, x.shape[1]), self.covariance_type
        if given != expected:
            raise InputError(
                f"init has locs of shape {given[0]} and {given[1]} covariances; expected "
                f"{expected[0]} and {expected[1]}"
            )
        return self.init.to(x.device)

    def _check_settings(self) -> None:
        check_covariance_type(self.covariance_type)
        for name, least in (("n_components", 1), ("max_iter", 1), ("n_init", 1)):
            value = getattr(self, name)
            if not isinstance(value, int | np.integer) or value < least:
                raise InputError(f"{name} is {value!r}; it must be a whole number, {least} or more")
        if not 1e-12 <= self.covariance_floor < 1:
            raise InputError(
                f"covariance_floor is {self.covariance_floor}; it must be from 1e-12 to 1"
            )
        if not (isinstance(self.tol, int | float) and self.tol >= 0):
            raise InputError(f"tol is {self.tol}; it must be 0 or more")
        if not (self.init is None or isinstance(self.init, Mixture)):
            raise InputError(f"init must be a Mixture, or None for k-means++; got {self.init!r}")

    def _as_tensor(self, X: Any, *, reset: bool = False) -> Tensor:
        array = validate_data(self, X, reset=reset, dtype=[np.float64, np.float32])
        return as_points(np.ascontiguousarray(array)).to(find_device(self.device))

    def _apply_in_chunks(
        self, function: Callable[[Mixture, Tensor], Tensor], X: Any
    ) -> NDArray[Any]:
        check_is_fitted(self)
        mixture = self._assignment_mixture()
        chunks = self._as_tensor(X).split(mixture.chunk_size)
        return (
            torch.cat([function(mixture, c.to(mixture.locs.dtype)) for c in chunks]).cpu().numpy()
        )


class GaussianMixture(_Estimator):
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
        random_state: seed of the starts and of draws.
        device: where to compute.

    Example:
        >>> from pyrovae.gmm import GaussianMixture, toy
        >>> x, z = toy(400)
        >>> mixture = GaussianMixture(3, random_state=0).fit(x)
        >>> round(mixture.score(x), 2)
        -3.16
    """

    def bic(self, X: Any) -> float:
        """-2 log p(X) + log(n) times the number of parameters (Schwarz 1978); lower is better."""
        n = len(X)
        return -2 * n * self.score(X) + self.mixture_.num_parameters * float(np.log(n))

    def aic(self, X: Any) -> float:
        """-2 log p(X) + 2 times the number of parameters (Akaike 1974); lower is better."""
        return -2 * len(X) * self.score(X) + 2.0 * self.mixture_.num_parameters

    def _fit_once(
        self, x: Tensor, start: Mixture, floor: Tensor, on_step: Callable[[], None]
    ) -> _FitResult:
        degenerate: tuple[int, ...] = ()
        highest = float("-inf")
        for number, step in enumerate(iterations(x, start, floor)):
            bound = step.statistics.log_normaliser.item() / len(x)
            converged = bound - highest < self.tol
            result = _FitResult(step.before, bound, number, converged, degenerate)
            if converged or number == self.max_iter:
                break
            highest, degenerate = bound, step.degenerate
            on_step()
        return result

    def _assignment_mixture(self) -> Mixture:
        return self.mixture_

    def _log_prob(self, x: Tensor) -> Tensor:
        return self.mixture_.log_prob(x)


class BayesianGaussianMixture(_Estimator):
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
        random_state: int | np.random.RandomState | None = None,
        device: str = "cpu",
    ) -> None:
        super().__init__(
            n_components,
            covariance_type=covariance_type,
            tol=tol,
            max_iter=max_iter,
            n_init=n_init,
            covariance_floor=covariance_floor,
            init=init,
            random_state=random_state,
            device=device,
        )
        self.prior = prior

    def _fit_once(
        self, x: Tensor, start: Mixture, floor: Tensor, on_step: Callable[[], None]
    ) -> _FitResult:
        prior = Prior.of(x, self.n_components, self.covariance_type, **(self.prior or {}))
        highest = float("-inf")
        for number, (posterior, total) in enumerate(rounds(x, start, prior), start=1):
            bound = total.item() / len(x)
            converged = bound - highest < self.tol
            result = _FitResult(posterior.mean, bound, number, converged, posterior=posterior)
            if converged or number == self.max_iter:
                break
            highest = bound
            on_step()
        return result

    def _assignment_mixture(self) -> Mixture:
        return self.posterior_.expected_log_joint()

    def _log_prob(self, x: Tensor) -> Tensor:
        return self.posterior_.predictive(x)
