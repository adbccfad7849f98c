"""Linear observations, exact under normal likelihoods."""

from abc import abstractmethod
from collections.abc import Sequence
from math import prod
from typing import Any, ClassVar, NamedTuple

import torch
from jaxtyping import Float, Num
from pyro.distributions import Normal, TorchDistribution
from torch import Tensor
from torch.distributions import constraints

from ..arguments import TensorLike, as_shape, as_tensor
from ..distributions import MultivariateNormal, as_joint_normal, features
from ..errors import InputError
from .covariance import Covariance, Full
from .operators import Additive

__all__ = ["Linear", "LinearMap"]


class LinearMap(Additive):
    """y = A x + s e. Under a normal likelihood, x ~ Normal(m, V) given z, and

        p(y | z) = Normal(A m, S),   S = A V A^T + s^2 I
        p(x | y, z) = Normal(m + V A^T S^-1 (y - A m), V - V A^T S^-1 A V)

    V is diagonal, or diagonal plus a product W W' (LowRankNormal, MultivariateNormal). For other
    likelihoods, observe the mean instead of x (``of="mean"``).
    """

    @abstractmethod
    def adjoint(self, y: Float[Tensor, "*batch_seen"]) -> Float[Tensor, "*batch_event"]:
        """A^T y."""

    @abstractmethod
    def gram(self, variance: Float[Tensor, "rows *event"]) -> Covariance:
        """A V A^T, where V is diagonal."""

    @abstractmethod
    def least(self, y: Float[Tensor, "data *seen"]) -> Float[Tensor, "data *event"]:
        """The shortest x for which A x is y, or as near to y as possible."""

    def check(self, y: Num[Tensor, "..."], event_shape: Sequence[int]) -> None:
        """As for other operators; in addition, y must be complete."""
        super().check(y, event_shape)
        if bool(y.isnan().any()):
            raise InputError(
                f"the observations have missing (NaN) values, which {type(self).__name__} does not "
                "accept; use Linear(matrix, ...) with a row for each entry that was observed"
            )

    def start(
        self, y: Num[Tensor, "data *seen"], centre: Float[Tensor, "*event"]
    ) -> Float[Tensor, "data *event"]:
        """The datum nearest to ``centre`` whose observation is y."""
        y = y.to(centre.dtype)
        typical = centre.expand(len(y), *centre.shape)
        return typical + self.least(y - self.apply(typical))

    def seen_of_datum(self, p: Any, y: Num[Tensor, "rows *seen"], noise: Tensor) -> Any:
        """Normal(A m, A V A^T + s^2 I)."""
        normal = self._as_normal(p)
        return self._covariance_of(normal, noise).make_normal(self.apply(normal.loc))

    def restored_datum(self, p: Any, y: Num[Tensor, "rows *seen"], noise: Tensor) -> Any:
        """The normal of x given y."""
        return _RestoredNormal(self, self._as_normal(p), y, noise)

    def _covariance_of(self, normal: "_Normal", noise: Tensor) -> Covariance:
        """A V A^T + s^2 I."""
        covariance = self.gram(normal.variance)
        if normal.factor is not None:
            covariance = covariance.add_factor(self.apply(normal.factor))
        return covariance.add_variance(noise.square())

    def _as_normal(self, p: Any) -> "_Normal":
        joint = as_joint_normal(p)
        if isinstance(joint, MultivariateNormal):
            return _Normal(joint, joint.loc, torch.zeros_like(joint.loc), joint.scale_tril.mT)
        if joint is not None:
            return _Normal(joint, joint.loc, joint.cov_diag, joint.cov_factor.mT)
        p0 = features(p)
        if not isinstance(p0, torch.distributions.Normal):
            raise InputError(
                f"{type(self).__name__} has no density in closed form under a "
                f"{type(p0).__name__} likelihood; observe the mean, with of='mean' and noise above "
                "0, or use a Normal likelihood"
            )
        return _Normal(p, p0.loc, p0.scale.square(), None)


class _Normal(NamedTuple):
    """A normal likelihood of x with covariance diag(variance) + W W'.

    Attributes:
        p: the distribution, with a datum in each row.
        loc: its mean.
        variance: the diagonal part of its covariance.
        factor: the columns of W, if there are any.
    """

    p: Any
    loc: Float[Tensor, "rows *event"]
    variance: Float[Tensor, "rows *event"]
    factor: Float[Tensor, "rows columns *event"] | None


class Linear(LinearMap):
    """y = A x + s e for any matrix A, where x is a datum, flattened.

    Arguments:
        matrix: A, with a row for each number that is observed.
        noise: the standard deviation s, in units of y; None if it is not known.
        of: ``"datum"`` or ``"mean"``; see :class:`~pyrovae.inverse.operators.Additive`.
        event_shape: shape of a datum; one dimension, of the size of a row of A, unless given.

    Raises:
        InputError: if A is not a matrix of finite numbers, or does not fit the shape of a datum; or
            if there is no noise, and its rows are linearly dependent.

    Example:
        >>> total = Linear(torch.ones(1, 3), noise=0.1)
        >>> total.observe(torch.ones(5, 3)).shape
        torch.Size([5, 1])
    """

    def __init__(
        self,
        matrix: TensorLike,
        noise: float | None,
        of: str = "datum",
        event_shape: Sequence[int] | None = None,
    ) -> None:
        super().__init__(noise, of)
        if event_shape is not None:
            event_shape = as_shape("event_shape", event_shape)
        self.matrix = as_tensor("matrix", matrix)
        if self.matrix.dtype not in (torch.float32, torch.float64):
            raise InputError("matrix must be a tensor of type float32 or float64; convert it")
        finite = bool(self.matrix.isfinite().all())
        if self.matrix.ndim != 2 or not self.matrix.numel() or not finite:
            raise InputError(
                f"matrix has shape {tuple(self.matrix.shape)}; it needs a row for each number "
                "observed and a column for each feature, with finite entries"
            )
        num_rows = len(self.matrix)
        if noise == 0 and int(torch.linalg.matrix_rank(self.matrix)) < num_rows:
            raise InputError(
                f"the {num_rows} rows of the matrix are linearly dependent, so y has no density "
                "without noise; set noise above 0, or leave rows out"
            )
        self.event_shape = tuple(event_shape or self.matrix.shape[1:])
        self.shape(self.event_shape)
        self._inverse: Tensor | None = None

    def shape(self, event_shape: Sequence[int]) -> tuple[int, ...]:
        """One number for each row of the matrix."""
        if tuple(event_shape) != self.event_shape or prod(event_shape) != self.matrix.shape[1]:
            raise InputError(
                f"the matrix has {self.matrix.shape[1]} columns, for data of shape "
                f"{self.event_shape}; these have shape {tuple(event_shape)}: set event_shape=..."
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
        """The pseudo-inverse of A times y."""
        if self._inverse is None:
            self._inverse = torch.linalg.pinv(self.matrix)
        flat: Tensor = y @ self._inverse.to(y).mT
        return flat.reshape(len(y), *self.event_shape)

    def gram(self, variance: Float[Tensor, "rows *event"]) -> Covariance:
        """A V A^T; one matrix for all rows if V is the same for all."""
        matrix = self._matrix(variance)
        variance = variance.flatten(1)
        if bool((variance == variance[:1]).all()):
            variance = variance[:1]
        return Full((matrix * variance.unsqueeze(1)) @ matrix.mT)

    def _matrix(self, like: Tensor) -> Tensor:
        dtype = like.dtype if like.is_floating_point() else self.matrix.dtype
        return self.matrix.to(like.device, dtype)


class _RestoredNormal(TorchDistribution):
    """p(x | y, z) under a normal likelihood.

    To sample, draw x and its observation, then correct x by V A^T S^-1 (y - that observation).
    """

    arg_constraints: ClassVar[dict[str, Any]] = {}
    support = constraints.real

    def __init__(self, operator: LinearMap, p: _Normal, y: Tensor, noise: Tensor) -> None:
        self._operator, self._p, self._y, self._noise = operator, p, y, noise
        self._covariance = operator._covariance_of(p, noise)
        super().__init__(p.loc.shape[:1], p.loc.shape[1:], validate_args=False)

    @property
    def mean(self) -> Tensor:
        return self._shift_by_residual(self._p.loc, self._operator.apply(self._p.loc))

    def sample(self, sample_shape: Any = ()) -> Tensor:
        assert not sample_shape
        with torch.no_grad():
            x = self._p.p.sample()
            clean = self._operator.apply(x)
            return self._shift_by_residual(x, clean + self._noise * torch.randn_like(clean))

    def log_prob(self, value: Tensor) -> Tensor:
        """By Bayes' rule, which needs noise."""
        if not bool((self._noise > 0).all()):
            raise InputError(
                "x given y has no density without noise, because y determines part of x"
            )
        dims = self._y.ndim - 1
        clean = self._operator.apply(value)
        log_noise = Normal(clean, self._noise.expand(clean.shape)).to_event(dims).log_prob(self._y)
        log_x = self._p.p.log_prob(value)
        log_y = self._covariance.make_normal(self._operator.apply(self._p.loc)).log_prob(self._y)
        log_prob: Tensor = log_x + log_noise - log_y
        return log_prob

    def _shift_by_residual(self, x: Tensor, y: Tensor) -> Tensor:
        pulled = self._operator.adjoint(self._covariance.solve(self._y - y))
        shift: Tensor = self._p.variance * pulled
        factor = self._p.factor
        if factor is not None:  # for data of one dimension
            weights = (factor @ pulled.unsqueeze(-1)).mT
            shift = shift + (weights @ factor).squeeze(-2)
        return x + shift
