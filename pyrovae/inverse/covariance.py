"""The covariance of an observation given z, in one of two forms."""

from abc import ABC, abstractmethod
from typing import Any, ClassVar

import torch
from jaxtyping import Float
from pyro.distributions import MultivariateNormal, Normal, TorchDistribution
from torch import Tensor
from torch.distributions import constraints

__all__ = ["Covariance", "Diagonal", "Full"]


class Covariance(ABC):
    """The covariance of y given z, in one of two forms."""

    @abstractmethod
    def plus(self, variance: Float[Tensor, "rows ..."]) -> "Covariance":
        """With that variance added to each number of y."""

    @abstractmethod
    def normal(self, mean: Float[Tensor, "rows *seen"]) -> Any:
        """The normal of that mean."""

    @abstractmethod
    def solve(self, residual: Float[Tensor, "rows *seen"]) -> Float[Tensor, "rows *seen"]:
        """S^-1 times the residual."""


class Diagonal(Covariance):
    """Of numbers that are independent.

    Arguments:
        variance: of each number.
    """

    def __init__(self, variance: Float[Tensor, "rows *seen"]) -> None:
        self._variance = variance

    def plus(self, variance: Float[Tensor, "rows ..."]) -> "Diagonal":
        return Diagonal(self._variance + variance)

    def normal(self, mean: Float[Tensor, "rows *seen"]) -> Any:
        return Normal(mean, self._variance.sqrt()).to_event(mean.ndim - 1)

    def solve(self, residual: Float[Tensor, "rows *seen"]) -> Float[Tensor, "rows *seen"]:
        return residual / self._variance


class Full(Covariance):
    """Any matrix, one for each row or one for all.

    Arguments:
        covariance: over the numbers of y in their order.
    """

    def __init__(self, covariance: Float[Tensor, "rows seen seen"]) -> None:
        self._covariance = covariance
        self._factor: Tensor | None = None

    def plus(self, variance: Float[Tensor, "rows ..."]) -> "Full":
        flat = variance.flatten()
        if bool((flat == flat[0]).all()):
            flat = flat[:1]
        eye = torch.eye(self._covariance.shape[-1], dtype=flat.dtype, device=flat.device)
        return Full(self._covariance + flat[:, None, None] * eye)

    def normal(self, mean: Float[Tensor, "rows *seen"]) -> Any:
        return _FlatNormal(mean, self._cholesky())

    def solve(self, residual: Float[Tensor, "rows *seen"]) -> Float[Tensor, "rows *seen"]:
        rows = residual.flatten(1).unsqueeze(-1)
        factor = self._cholesky()
        if len(factor) == 1:  # all rows at once
            return torch.cholesky_solve(rows.squeeze(-1).mT, factor[0]).mT.reshape(residual.shape)
        return torch.cholesky_solve(rows, factor).reshape(residual.shape)

    def _cholesky(self) -> Tensor:
        if self._factor is None:
            factor, info = torch.linalg.cholesky_ex(self._covariance)
            # Of a row whose scales have overflowed: a density that is not a number, not an end.
            self._factor = torch.where(info.view(-1, 1, 1) == 0, factor, torch.nan)
        return self._factor


class _FlatNormal(TorchDistribution):
    """A multivariate normal over the numbers of y, whatever its shape."""

    arg_constraints: ClassVar[dict[str, Any]] = {}
    support = constraints.real

    def __init__(self, mean: Tensor, factor: Float[Tensor, "rows seen seen"]) -> None:
        self._mean, self._factor = mean, factor
        super().__init__(mean.shape[:1], mean.shape[1:], validate_args=False)

    def log_prob(self, value: Tensor) -> Tensor:
        flat = MultivariateNormal(self._mean.flatten(1), scale_tril=self._factor)
        log_prob: Tensor = flat.log_prob(value.flatten(1))
        return log_prob
