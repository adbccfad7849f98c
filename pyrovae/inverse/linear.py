"""Linear observations: any matrix, and what normal likelihoods make of it."""

from abc import abstractmethod
from collections.abc import Sequence
from math import prod
from typing import Any, ClassVar

import torch
from jaxtyping import Float, Num
from pyro.distributions import Normal, TorchDistribution
from torch import Tensor
from torch.distributions import constraints

from ..distributions import features
from ..errors import InputError
from .covariance import Covariance, Full
from .operators import Additive

__all__ = ["Linear", "LinearMap"]


class LinearMap(Additive):
    """y = A x + s e under normal likelihoods, x ~ Normal(m, V) with V diagonal given z:

        p(y | z) = Normal(A m, S),   S = A V A^T + s^2 I
        p(x | y, z) = Normal(m + V A^T S^-1 (y - A m), V - V A^T S^-1 A V)

    Other likelihoods are seen through their mean (``of="mean"``).
    """

    @abstractmethod
    def adjoint(self, y: Float[Tensor, "*batch_seen"]) -> Float[Tensor, "*batch_event"]:
        """A^T y."""

    @abstractmethod
    def gram(self, variance: Float[Tensor, "rows *event"]) -> Covariance:
        """A V A^T, V being diagonal."""

    @abstractmethod
    def least(self, y: Float[Tensor, "data *seen"]) -> Float[Tensor, "data *event"]:
        """The least x with A x = y, or nearest to it."""

    def check(self, y: Num[Tensor, "..."], event_shape: Sequence[int]) -> None:
        """As other operators; and y must be complete."""
        super().check(y, event_shape)
        if bool(y.isnan().any()):
            raise InputError(
                f"the observations hold missing (NaN) values, which {type(self).__name__} does not "
                "take; use Linear(matrix, ...) with a row for each number that was observed"
            )

    def start(
        self, y: Num[Tensor, "data *seen"], centre: Float[Tensor, "*event"]
    ) -> Float[Tensor, "data *event"]:
        """The datum nearest to a typical one that looks like y."""
        y = y.to(centre.dtype)
        typical = centre.expand(len(y), *centre.shape)
        return typical + self.least(y - self.apply(typical))

    def seen_of_datum(self, p: Any, y: Num[Tensor, "rows *seen"], noise: Tensor) -> Any:
        """Normal(A m, A V A^T + s^2 I)."""
        p0 = self._normal(p)
        return self.gram(p0.scale.square()).plus(noise.square()).normal(self.apply(p0.loc))

    def restored_datum(self, p: Any, y: Num[Tensor, "rows *seen"], noise: Tensor) -> Any:
        """The normal of x given y."""
        return _RestoredNormal(self, self._normal(p), y, noise)

    def _normal(self, p: Any) -> Any:
        p0 = features(p)
        if not isinstance(p0, torch.distributions.Normal):
            raise InputError(
                f"{type(self).__name__} of a {type(p0).__name__} likelihood has no density in "
                "closed form; let it be of the mean, with of='mean' and some noise, or use a "
                "Normal likelihood"
            )
        return p0


class Linear(LinearMap):
    """y = A x + s e for any matrix A, in the features of a datum in their order.

    Arguments:
        matrix: A, a row for each number that is observed.
        noise: s, in units of y; None if it is not known.
        of: ``"datum"`` or ``"mean"``, as :class:`~pyrovae.inverse.operators.Additive` tells.
        event_shape: shape of a datum; a row of as many features as A has columns unless given.

    Raises:
        InputError: if A is no matrix of finite numbers, or not of such data; or if there is no
            noise, and its rows depend on one another.

    Example:
        >>> total = Linear(torch.ones(1, 3), noise=0.1)
        >>> total.observe(torch.ones(5, 3)).shape
        torch.Size([5, 1])
    """

    def __init__(
        self,
        matrix: Float[Tensor, "seen features"],
        noise: float | None,
        of: str = "datum",
        event_shape: Sequence[int] | None = None,
    ) -> None:
        super().__init__(noise, of)
        if not isinstance(matrix, Tensor) or matrix.dtype not in (torch.float32, torch.float64):
            raise InputError("matrix is a tensor of type float32 or float64; convert it")
        if matrix.ndim != 2 or not bool(matrix.isfinite().all()):
            raise InputError(
                f"matrix has shape {tuple(matrix.shape)}; it needs a row for each number observed "
                "and a column for each feature, all of them finite"
            )
        if noise == 0 and int(torch.linalg.matrix_rank(matrix)) < len(matrix):
            raise InputError(
                f"the {len(matrix)} rows of the matrix depend on one another, so that y without "
                "noise has no density; give it some noise, or leave rows out"
            )
        self.matrix = matrix
        self.event_shape = tuple(event_shape or matrix.shape[1:])
        self.shape(self.event_shape)
        self._inverse: Tensor | None = None

    def shape(self, event_shape: Sequence[int]) -> tuple[int, ...]:
        """One number for each row of the matrix."""
        if tuple(event_shape) != self.event_shape or prod(event_shape) != self.matrix.shape[1]:
            raise InputError(
                f"the matrix has {self.matrix.shape[1]} columns, for data of shape "
                f"{self.event_shape}; these have shape {tuple(event_shape)}: say event_shape=..."
            )
        return (self.matrix.shape[0],)

    def apply(self, x: Num[Tensor, "*batch_event"]) -> Float[Tensor, "*batch_seen"]:
        """A x."""
        matrix = self._matrix(x)
        seen: Tensor = x.flatten(-len(self.event_shape)).to(matrix.dtype) @ matrix.mT
        return seen

    def adjoint(self, y: Float[Tensor, "*batch_seen"]) -> Float[Tensor, "*batch_event"]:
        """A^T y."""
        flat: Tensor = y @ self._matrix(y)
        return flat.reshape(*y.shape[:-1], *self.event_shape)

    def least(self, y: Float[Tensor, "data *seen"]) -> Float[Tensor, "data *event"]:
        """By the pseudo-inverse."""
        if self._inverse is None:
            self._inverse = torch.linalg.pinv(self.matrix)
        flat: Tensor = y @ self._inverse.to(y).mT
        return flat.reshape(*y.shape[:-1], *self.event_shape)

    def gram(self, variance: Float[Tensor, "rows *event"]) -> Covariance:
        """A V A^T; one for all rows where V is."""
        matrix = self._matrix(variance)
        variance = variance.flatten(1)
        if bool((variance == variance[:1]).all()):
            variance = variance[:1]
        return Full((matrix * variance.unsqueeze(1)) @ matrix.mT)

    def _matrix(self, like: Tensor) -> Tensor:
        dtype = like.dtype if like.is_floating_point() else self.matrix.dtype
        return self.matrix.to(like.device, dtype)


class _RestoredNormal(TorchDistribution):
    """p(x | y, z): a draw of x and of the y that it would give, moved by what y says beyond it."""

    arg_constraints: ClassVar[dict[str, Any]] = {}
    support = constraints.real

    def __init__(self, of: LinearMap, p: Any, y: Tensor, noise: Tensor) -> None:
        self._of, self._p, self._y, self._noise = of, p, y, noise
        self._variance = p.scale.square()
        self._covariance = of.gram(self._variance).plus(noise.square())
        super().__init__(p.batch_shape[:1], p.batch_shape[1:], validate_args=False)

    @property
    def mean(self) -> Tensor:
        return self._moved(self._p.loc, self._of.apply(self._p.loc))

    def sample(self, sample_shape: Any = ()) -> Tensor:
        assert not sample_shape
        with torch.no_grad():
            x = self._p.sample()
            clean = self._of.apply(x)
            return self._moved(x, clean + self._noise * torch.randn_like(clean))

    def log_prob(self, value: Tensor) -> Tensor:
        """By Bayes' rule, where there is noise."""
        if not bool((self._noise > 0).all()):
            raise InputError("without noise x given y has no density: y fixes some of it")
        dims = self._y.ndim - 1
        clean = self._of.apply(value)
        log_noise = Normal(clean, self._noise.expand(clean.shape)).to_event(dims).log_prob(self._y)
        log_x = self._p.to_event(len(self.event_shape)).log_prob(value)
        log_y = self._covariance.normal(self._of.apply(self._p.loc)).log_prob(self._y)
        log_prob: Tensor = log_x + log_noise - log_y
        return log_prob

    def _moved(self, x: Tensor, y: Tensor) -> Tensor:
        moved: Tensor = self._variance * self._of.adjoint(self._covariance.solve(self._y - y))
        return x + moved
