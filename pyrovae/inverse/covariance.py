"""The covariance of y given z: diagonal, or a full matrix."""

from abc import ABC, abstractmethod
from typing import Any, ClassVar

import torch
from jaxtyping import Float
from pyro.distributions import MultivariateNormal, Normal, TorchDistribution
from torch import Tensor
from torch.distributions import constraints

__all__ = ["Covariance", "Diagonal", "Full"]


class Covariance(ABC):
    """The covariance of y given z."""

    @abstractmethod
    def add_variance(self, variance: Float[Tensor, "rows ..."]) -> "Covariance":
        """Add a variance to each entry of y."""

    @abstractmethod
    def add_factor(self, factor: Float[Tensor, "rows columns *seen"]) -> "Full":
        """Add W W', where the columns of W are given for each row."""

    @abstractmethod
    def make_normal(self, mean: Float[Tensor, "rows *seen"]) -> Any:
        """The normal distribution with this mean and covariance."""

    @abstractmethod
    def solve(self, residual: Float[Tensor, "rows *seen"]) -> Float[Tensor, "rows *seen"]:
        """S^-1 times the residual, where S is this covariance."""


class Diagonal(Covariance):
    """The covariance of independent entries.

    Arguments:
        variance: variance of each entry.
    """

    def __init__(self, variance: Float[Tensor, "rows *seen"]) -> None:
        self._variance = variance

    def add_variance(self, variance: Float[Tensor, "rows ..."]) -> "Diagonal":
        return Diagonal(self._variance + variance)

    def add_factor(self, factor: Float[Tensor, "rows columns *seen"]) -> "Full":
        return Full(torch.diag_embed(self._variance.flatten(1))).add_factor(factor)

    def make_normal(self, mean: Float[Tensor, "rows *seen"]) -> Any:
        return Normal(mean, self._variance.sqrt()).to_event(mean.ndim - 1)

    def solve(self, residual: Float[Tensor, "rows *seen"]) -> Float[Tensor, "rows *seen"]:
        return residual / self._variance


class Full(Covariance):
    """A covariance matrix for each row, or one for all rows.

    Arguments:
        covariance: matrix over the flattened entries of y.
    """

    def __init__(self, covariance: Float[Tensor, "rows seen seen"]) -> None:
        self._covariance = covariance
        self._factor: Tensor | None = None

    def add_variance(self, variance: Float[Tensor, "rows ..."]) -> "Full":
        flat = variance.flatten()
        if bool((flat == flat[0]).all()):
            flat = flat[:1]
        eye = torch.eye(self._covariance.shape[-1], dtype=flat.dtype, device=flat.device)
        return Full(self._covariance + flat[:, None, None] * eye)

    def add_factor(self, factor: Float[Tensor, "rows columns *seen"]) -> "Full":
        flat = factor.flatten(2)
        if bool((flat == flat[:1]).all()):
            flat = flat[:1]
        return Full(self._covariance + flat.mT @ flat)

    def make_normal(self, mean: Float[Tensor, "rows *seen"]) -> Any:
        return _FlatNormal(mean, self._cholesky())

    def solve(self, residual: Float[Tensor, "rows *seen"]) -> Float[Tensor, "rows *seen"]:
        rows = residual.flatten(1).unsqueeze(-1)
        factor = self._cholesky()
        if len(factor) == 1:  # one factor serves all rows
            return torch.cholesky_solve(rows.squeeze(-1).mT, factor[0]).mT.reshape(residual.shape)
        return torch.cholesky_solve(rows, factor).reshape(residual.shape)

    def _cholesky(self) -> Tensor:
        if self._factor is None:
            factor, info = torch.linalg.cholesky_ex(self._covariance)
            # A row whose scales have overflowed gets a density of NaN instead of an error.
            self._factor = torch.where(info.view(-1, 1, 1) == 0, factor, torch.nan)
        return self._factor


class _FlatNormal(TorchDistribution):
    """A multivariate normal over the flattened entries of y."""

    arg_constraints: ClassVar[dict[str, Any]] = {}
    support = constraints.real

    def __init__(self, mean: Tensor, factor: Float[Tensor, "rows seen seen"]) -> None:
        self._mean, self._factor = mean, factor
        super().__init__(mean.shape[:1], mean.shape[1:], validate_args=False)

    def log_prob(self, value: Tensor) -> Tensor:
        flat = MultivariateNormal(self._mean.flatten(1), scale_tril=self._factor)
        log_prob: Tensor = flat.log_prob(value.flatten(1))
        return log_prob
