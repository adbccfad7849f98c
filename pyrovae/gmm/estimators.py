"""Mixtures with the conventions of scikit-learn: they work in its pipelines and searches."""

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
    """A component ended on the floor of the covariances, or without data."""


@dataclass(frozen=True)
class _Outcome:
    """Where one start ended."""

    mixture: Mixture
    bound: float
    num_iterations: int
    converged: bool
    degenerate: tuple[int, ...] = ()
    posterior: Posterior | None = None


class _Estimator(DensityMixin, BaseEstimator):  # type: ignore[misc]
    """What both estimators do once they are fitted.

    Attributes:
        mixture_: the fitted parameters; where these have a posterior, its mean.
        weights_: mixing weights, shape (K,).
        means_: means, shape (K, d).
        covariances_: covariances, shaped by their type as scikit-learn has them.
        n_iter_: rounds that the best start took.
        converged_: whether it converged.
        lower_bound_: the bound that it reached, in nats per datum.
        degenerate_: components on the floor of the covariances, or without data.
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
            InputError: if these points or settings have no fit.
        """
        self._check_settings()
        x = self._points(X, reset=True)
        check_fittable(x, self.n_components)
        random = check_random_state(self.random_state)
        floor = floor_of(x, self.covariance_floor)
        best = None
        num_starts = 1 if self.init is not None else self.n_init
        with LateProgress("fit", num_starts * (self.max_iter + 1)) as bar:
            for number in range(num_starts):
                outcome = self._climb(x, self._start(x, floor, random), floor, bar.advance)
                bar.finish((number + 1) * (self.max_iter + 1))
                if best is None or self._rank(outcome) > self._rank(best):
                    best = outcome
        assert best is not None
        self._keep(best)
        return self

    def fit_predict(self, X: Any, y: Any = None) -> NDArray[Any]:
        """Fit, then the most probable component of each point."""
        labels: NDArray[Any] = self.fit(X).predict(X)
        return labels

    def predict(self, X: Any) -> NDArray[Any]:
        """The most probable component of each point."""
        return self._of_rows(lambda shape, x: shape.log_joint(x).argmax(1), X)

    def predict_proba(self, X: Any) -> NDArray[Any]:
        """p(z = k | x) of each point, shape (n, K)."""
        return self._of_rows(lambda shape, x: shape.log_responsibilities(x).exp(), X)

    def score_samples(self, X: Any) -> NDArray[Any]:
        """log p(x) of each point, in nats."""
        return self._of_rows(lambda _, x: self._log_prob(x), X)

    def score(self, X: Any, y: Any = None) -> float:
        """The mean of log p(x), in nats per datum."""
        return float(self.score_samples(X).mean())

    def sample(self, n_samples: int = 1) -> tuple[NDArray[Any], NDArray[Any]]:
        """Draw points under ``mixture_``, and the component of each."""
        check_is_fitted(self)
        if n_samples < 1:
            raise InputError(f"n_samples is {n_samples}; it must be 1 or more")
        seed = int(check_random_state(self.random_state).randint(2**31))
        generator = torch.Generator(self.mixture_.locs.device).manual_seed(seed)
        x, z = self.mixture_.sample(n_samples, generator)
        return x.cpu().numpy(), z.cpu().numpy()

    def _climb(
        self, x: Tensor, start: Mixture, floor: Tensor, on_step: Callable[[], None]
    ) -> "_Outcome":
        raise NotImplementedError

    def _log_prob(self, x: Tensor) -> Tensor:
        raise NotImplementedError

    def _shape(self) -> Mixture:
        """The mixture whose posterior over z is the estimator's."""
        raise NotImplementedError

    def _keep(self, outcome: "_Outcome") -> None:
        self.mixture_ = outcome.mixture
        if outcome.posterior is not None:
            self.posterior_ = outcome.posterior
        self.weights_ = outcome.mixture.weights.cpu().numpy()
        self.means_ = outcome.mixture.locs.cpu().numpy()
        self.covariances_ = outcome.mixture.covariances.cpu().numpy()
        self.n_iter_ = outcome.num_iterations
        self.converged_ = outcome.converged
        self.lower_bound_ = outcome.bound
        self.degenerate_ = outcome.degenerate
        if not outcome.converged:
            warnings.warn(
                f"the best start had not converged to tol {self.tol:g} after {self.max_iter} "
                "rounds; raise max_iter or tol",
                ConvergenceWarning,
                stacklevel=3,
            )
        if outcome.degenerate:
            named = ", ".join(map(str, outcome.degenerate))
            warnings.warn(
                f"degenerate components: {named}. Each has no data, or has a variance at the "
                f"floor ({self.covariance_floor:g} of that of the data), so that the likelihood "
                "says little: use fewer components, another covariance_type, or more starts "
                "(n_init)",
                DegenerateComponentWarning,
                stacklevel=3,
            )

    @staticmethod
    def _rank(outcome: "_Outcome") -> tuple[bool, float]:
        """Fits without degenerate components first, whose likelihood means something."""
        return not outcome.degenerate, outcome.bound

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
                raise InputError(f"{name} is {value!r}; it must be a whole number from {least} on")
        if not 1e-12 <= self.covariance_floor < 1:
            raise InputError(
                f"covariance_floor is {self.covariance_floor}; it must be from 1e-12 to 1"
            )
        if not (isinstance(self.tol, int | float) and self.tol >= 0):
            raise InputError(f"tol is {self.tol}; it must be 0 or more")
        if not (self.init is None or isinstance(self.init, Mixture)):
            raise InputError(f"init is a Mixture, or None for k-means++; got {self.init!r}")

    def _points(self, X: Any, *, reset: bool = False) -> Tensor:
        array = validate_data(self, X, reset=reset, dtype=[np.float64, np.float32])
        return as_points(np.ascontiguousarray(array)).to(find_device(self.device))

    def _of_rows(self, function: Callable[[Mixture, Tensor], Tensor], X: Any) -> NDArray[Any]:
        check_is_fitted(self)
        shape = self._shape()
        chunks = self._points(X).split(shape.chunk_size)
        return torch.cat([function(shape, c.to(shape.locs.dtype)) for c in chunks]).cpu().numpy()


class GaussianMixture(_Estimator):
    """A Gaussian mixture fitted by EM, to the maximum of its likelihood.

    Data pass in chunks: no array of n x K is held. Of several starts the best is
    kept, one without degenerate components before one with.

    Arguments:
        n_components: K.
        covariance_type: full, tied, diag or spherical.
        tol: stop when a round raises the log-likelihood by less than this, in nats per datum.
        max_iter: rounds at most.
        n_init: k-means++ starts.
        covariance_floor: least variance in any direction, as a part of that of the data; where it
            is not reached it has no effect (scikit-learn adds its ``reg_covar`` everywhere).
        init: a mixture to start from instead of k-means++.
        random_state: seed of starts and draws.
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

    def _climb(
        self, x: Tensor, start: Mixture, floor: Tensor, on_step: Callable[[], None]
    ) -> _Outcome:
        degenerate: tuple[int, ...] = ()
        highest = float("-inf")
        for number, step in enumerate(iterations(x, start, floor)):
            bound = step.statistics.log_normaliser.item() / len(x)
            converged = bound - highest < self.tol
            outcome = _Outcome(step.before, bound, number, converged, degenerate)
            if converged or number == self.max_iter:
                break
            highest, degenerate = bound, step.degenerate
            on_step()
        return outcome

    def _shape(self) -> Mixture:
        return self.mixture_

    def _log_prob(self, x: Tensor) -> Tensor:
        return self.mixture_.log_prob(x)


class BayesianGaussianMixture(_Estimator):
    """A Gaussian mixture whose parameters have a posterior, by mean-field coordinate ascent.

    ``score_samples`` gives the posterior predictive density, ``lower_bound_`` a bound on the
    evidence log p(X) per datum, all constants included, so that it may be compared between
    covariance types, and between numbers of components if log(K!) / n is added: q keeps to one of
    the K! orders of the components (Bishop 2006, sec. 10.2.4).

    Arguments:
        n_components: K.
        covariance_type: full, tied, diag or spherical; that of the model (in scikit-learn it
            restricts q while the model stays full).
        prior: attributes of :class:`Prior` to have in place of the weak ones that follow from the
            data, as in ``{"concentration": 0.01}``.
        tol: stop when a round raises the bound by less than this, in nats per datum.
        max_iter: rounds at most.
        n_init: k-means++ starts.
        covariance_floor: least variance of the start.
        init: a mixture to start from instead of k-means++.
        random_state: seed of starts and draws.
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

    def _climb(
        self, x: Tensor, start: Mixture, floor: Tensor, on_step: Callable[[], None]
    ) -> _Outcome:
        prior = Prior.of(x, self.n_components, self.covariance_type, **(self.prior or {}))
        highest = float("-inf")
        for number, (posterior, total) in enumerate(rounds(x, start, prior), start=1):
            bound = total.item() / len(x)
            converged = bound - highest < self.tol
            outcome = _Outcome(posterior.mean, bound, number, converged, posterior=posterior)
            if converged or number == self.max_iter:
                break
            highest = bound
            on_step()
        return outcome

    def _shape(self) -> Mixture:
        return self.posterior_.expected_log_joint()

    def _log_prob(self, x: Tensor) -> Tensor:
        return self.posterior_.predictive(x)
