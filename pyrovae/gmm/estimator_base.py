"""What both estimators share: settings, the starts of a fit, predictions and draws."""

import warnings
from collections.abc import Callable
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

from ..arguments import as_real, as_text, as_whole, describe
from ..device import find_device
from ..errors import InputError
from ..progress import LateProgress
from .bayesian.conjugate import Posterior
from .em import floor_of
from .matrices import root_of_inverse
from .mixture import Mixture, check_covariance_type
from .points import as_double, as_points, as_weights, check_fittable
from .start import k_means_plus_plus, start_at

__all__ = ["DegenerateComponentWarning", "Estimator", "FitResult"]


class DegenerateComponentWarning(UserWarning):
    """A component ended at the covariance floor, or without data."""


@dataclass(frozen=True)
class FitResult:
    """The result of the fit from one start."""

    mixture: Mixture
    bound: float
    num_iterations: int
    converged: bool
    degenerate: tuple[int, ...] = ()
    posterior: Posterior | None = None


class Estimator(DensityMixin, BaseEstimator):  # type: ignore[misc]
    """The base class of both estimators.

    Entries of the data that are NaN are missing: fits and scores are those of the other entries,
    with the missing ones integrated out (missing at random).

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
    n_components: Any
    covariance_type: Any
    tol: Any
    max_iter: Any
    n_init: Any
    covariance_floor: Any
    init: Any
    means_init: Any
    random_state: Any
    device: Any

    def fit(self, X: Any, y: Any = None, sample_weight: Any = None) -> Any:
        """Fit to the points in the rows of X; y is not used.

        Arguments:
            X: points, with NaN for missing entries.
            y: ignored.
            sample_weight: how many times each point counts; once unless given. Points of weight
                zero are left out.

        Raises:
            InputError: if a mixture cannot be fitted to these points, or a setting is out of range.
        """
        self._check_settings()
        x = self._as_tensor(X, reset=True)
        weights = as_weights(sample_weight, len(x), x.device)
        if weights is not None:
            x, weights = x[weights > 0], weights[weights > 0]
        check_fittable(x, self.n_components)
        given = self._given_start(x.shape[1])
        random = _random_state(self.random_state)
        floor = floor_of(x, self.covariance_floor, weights)
        best = None
        is_fixed = self.init is not None or "locs" in given
        num_starts = 1 if is_fixed else self.n_init
        with LateProgress("fit", num_starts * (self.max_iter + 1)) as bar:
            for number in range(num_starts):
                start = self._start(x, weights, floor, random, given)
                result = self._fit_once(x, weights, start, floor, bar.advance)
                bar.finish((number + 1) * (self.max_iter + 1))
                if best is None or self._rank(result) > self._rank(best):
                    best = result
        assert best is not None
        self._store_result(best)
        return self

    def fit_predict(self, X: Any, y: Any = None, sample_weight: Any = None) -> NDArray[Any]:
        """Fit, and return the most probable component of each point."""
        labels: NDArray[Any] = self.fit(X, sample_weight=sample_weight).predict(X)
        return labels

    def predict(self, X: Any) -> NDArray[Any]:
        """The most probable component of each point."""
        return self._apply_in_chunks(lambda mixture, x: mixture.log_joint(x).argmax(1), X)

    def predict_proba(self, X: Any) -> NDArray[Any]:
        """p(z = k | x) of each point, shape (n, K)."""
        return self._apply_in_chunks(lambda mixture, x: mixture.log_responsibilities(x).exp(), X)

    def score_samples(self, X: Any) -> NDArray[Any]:
        """log p(x) of each point, in nats; of its entries that are not NaN."""
        return self._apply_in_chunks(lambda _, x: self._log_prob(x), X)

    def score(self, X: Any, y: Any = None, sample_weight: Any = None) -> float:
        """The mean of log p(x), in nats per datum."""
        log_prob = self.score_samples(X)
        weights = as_weights(sample_weight, len(log_prob))
        return float(np.average(log_prob, weights=None if weights is None else weights.numpy()))

    def sample(self, n_samples: int = 1) -> tuple[NDArray[Any], NDArray[Any]]:
        """Draw points from ``mixture_``, and the component of each."""
        check_is_fitted(self)
        n_samples = as_whole("n_samples", n_samples, 1)
        seed = int(_random_state(self.random_state).randint(2**31))
        generator = torch.Generator(self.mixture_.locs.device).manual_seed(seed)
        x, z = self.mixture_.sample(n_samples, generator)
        return x.cpu().numpy(), z.cpu().numpy()

    def __sklearn_tags__(self) -> Any:
        tags = super().__sklearn_tags__()
        tags.input_tags.allow_nan = True
        return tags

    def _fit_once(
        self,
        x: Tensor,
        weights: Tensor | None,
        start: Mixture,
        floor: Tensor,
        on_step: Callable[[], None],
    ) -> FitResult:
        raise NotImplementedError

    def _log_prob(self, x: Tensor) -> Tensor:
        raise NotImplementedError

    def _assignment_mixture(self) -> Mixture:
        """The mixture whose responsibilities are the p(z | x) of the estimator."""
        raise NotImplementedError

    def _store_result(self, result: FitResult) -> None:
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
    def _rank(result: FitResult) -> tuple[bool, float]:
        """Rank fits without degenerate components first: only their likelihood is meaningful."""
        return not result.degenerate, result.bound

    def _start(
        self,
        x: Tensor,
        weights: Tensor | None,
        floor: Tensor,
        random: np.random.RandomState,
        given: dict[str, Tensor],
    ) -> Mixture:
        """The start that is given; or k-means++, with the parameters that are given replaced."""
        if self.init is not None:
            shape = tuple(self.init.locs.shape), self.init.covariance_type
            expected = (self.n_components, x.shape[1]), self.covariance_type
            if shape != expected:
                raise InputError(
                    f"init has locs of shape {shape[0]} and {shape[1]} covariances; expected "
                    f"{expected[0]} and {expected[1]}"
                )
            init: Mixture = self.init
            return init.to(x.device)
        given = {name: value.to(x.device) for name, value in given.items()}
        kind = self.covariance_type
        if "locs" in given:
            start = start_at(x, given["locs"], kind, floor, weights)
        else:
            start = k_means_plus_plus(x, self.n_components, kind, floor, random, weights)
        return Mixture(
            given.get("log_weights", start.log_weights),
            given.get("locs", start.locs),
            given.get("scales", start.scales),
            kind,
        )

    def _given_start(self, num_columns: int) -> dict[str, Tensor]:
        """The parameters of the start that ``weights_init`` and the like give."""
        names = ("weights_init", "means_init", "precisions_init")
        values = {name: getattr(self, name, None) for name in names}
        listed = [name for name, value in values.items() if value is not None]
        if self.init is not None and listed:
            raise InputError(f"init is a whole start, so {listed[0]} cannot be given as well")
        k, d, kind = self.n_components, num_columns, self.covariance_type
        given = {}
        for name in listed:
            value = as_double(name, values[name])
            shapes = {"full": (k, d, d), "tied": (d, d), "diag": (k, d), "spherical": (k,)}
            expected: tuple[int, ...] = {
                "weights_init": (k,),
                "means_init": (k, d),
                "precisions_init": shapes[kind],
            }[name]
            if tuple(value.shape) != expected:
                raise InputError(
                    f"{name} has shape {tuple(value.shape)}; {k} components with {kind} "
                    f"covariances in {d} dimensions need {expected}"
                )
            if not value.isfinite().all():
                raise InputError(f"{name} holds NaN or infinite values; all must be finite")
            given[name] = value
        start = {}
        if "means_init" in given:
            start["locs"] = given["means_init"]
        if "weights_init" in given:
            weights = given["weights_init"]
            if not (weights > 0).all() or abs(weights.sum().item() - 1) > 1e-5:
                raise InputError(
                    f"weights_init is {describe(weights.tolist())}; weights must be positive and "
                    "sum to one"
                )
            start["log_weights"] = (weights / weights.sum()).log()
        if "precisions_init" in given:
            start["scales"] = _scales_of_precisions(given["precisions_init"], kind)
        return start

    def _check_settings(self) -> None:
        check_covariance_type(self.covariance_type)
        for name in ("n_components", "max_iter", "n_init"):
            as_whole(name, getattr(self, name), 1)
        as_real("covariance_floor", self.covariance_floor, 1e-12, below=1.0)
        as_real("tol", self.tol, 0.0)
        as_text("device", self.device)
        if not (self.init is None or isinstance(self.init, Mixture)):
            raise InputError(
                f"init must be a Mixture, or None for k-means++; got {describe(self.init)}"
            )

    def _as_tensor(self, X: Any, *, reset: bool = False) -> Tensor:
        if isinstance(X, Tensor):
            X = X.detach().cpu().numpy()
        if getattr(X, "dtype", None) == np.bool_:
            raise InputError("the data must be real numbers; got truth values (bool)")
        try:
            array = validate_data(
                self,
                X,
                reset=reset,
                dtype=[np.float64, np.float32],
                ensure_all_finite="allow-nan",
            )
        except ValueError as error:
            message = " ".join(str(error).split())
            if "1D array" in message:
                message = (
                    "Expected 2D array, got 1D array: Reshape your data to have one point in each "
                    "row; for one column, use x.reshape(-1, 1)"
                )
            raise InputError(message) from None
        points = as_points(np.ascontiguousarray(array), missing=True)
        return points.to(find_device(self.device))

    def _apply_in_chunks(
        self, function: Callable[[Mixture, Tensor], Tensor], X: Any
    ) -> NDArray[Any]:
        check_is_fitted(self)
        mixture = self._assignment_mixture()
        chunks = self._as_tensor(X).split(mixture.chunk_size)
        return (
            torch.cat([function(mixture, c.to(mixture.locs.dtype)) for c in chunks]).cpu().numpy()
        )


def _random_state(seed: Any) -> np.random.RandomState:
    try:
        if isinstance(seed, bool):
            raise ValueError
        random: np.random.RandomState = check_random_state(seed)
    except ValueError:
        raise InputError(
            f"random_state is {describe(seed)}; it must be a whole number from 0 to 2^32 - 1, a "
            "numpy.random.RandomState, or None"
        ) from None
    return random


def _scales_of_precisions(precisions: Tensor, covariance_type: str) -> Tensor:
    if covariance_type not in ("full", "tied"):
        if not (precisions > 0).all():
            raise InputError(
                f"precisions_init holds {precisions.min().item():g}; precisions must be positive"
            )
        return precisions.rsqrt()
    is_symmetric = torch.allclose(precisions, precisions.mT, rtol=1e-6, atol=0)
    if not is_symmetric or torch.linalg.cholesky_ex(precisions).info.any():
        raise InputError("precisions_init must be symmetric and positive definite")
    return root_of_inverse(precisions)
