"""Distributions of the missing entries of a datum, given its observed entries."""

from typing import Any, ClassVar

import torch
from jaxtyping import Bool, Float, Num
from pyro.distributions import TorchDistribution
from torch import Tensor
from torch.distributions import Gamma, constraints

from ..errors import InputError
from .features import expectation, features
from .joint import Dirichlet, OneHotCategorical, possible_classes
from .vectors import Blocks, as_joint_normal

__all__ = ["completed", "marginal"]


def marginal(p: Any, observed: Bool[Tensor, "*batch_event"]) -> Any:
    """The distribution of the observed entries of x.

    To evaluate its density, fill the other entries with any value in the support.
    """
    if isinstance(p, Blocks):
        parts = zip(p.parts, observed.split(p.widths, -1), strict=True)
        return Blocks([marginal(part, mask) for part, mask in parts])
    p = as_joint_normal(p) or p
    if hasattr(p, "marginal"):
        return p.marginal(observed)
    return features(p).mask(observed).to_event(len(p.event_shape))


def completed(p: Any, y: Num[Tensor, "*batch_event"]) -> Any:
    """The distribution of x ~ p, given the entries of y that are not NaN.

    Its density is the density of the missing entries only. Samples and the mean contain the
    observed entries unchanged.

    Raises:
        InputError: if p is a joint distribution over all features without known conditionals.
    """
    if isinstance(p, Blocks):
        parts = zip(p.parts, y.split(p.widths, -1), strict=True)
        return Blocks([completed(part, y_part) for part, y_part in parts])
    joint = as_joint_normal(p)
    if joint is not None:
        return _CompletedNormal(joint, y)
    if isinstance(p, Dirichlet):
        return _CompletedShares(p, y)
    if isinstance(p, OneHotCategorical):
        return _CompletedClass(p, y)
    if hasattr(p, "marginal"):
        raise InputError(
            f"{type(p).__name__} is a joint distribution over all features of a datum, and the "
            "conditional of some features given others is not implemented; use a likelihood of "
            "independent features, or MultivariateNormal"
        )
    return _CompletedFeatures(p, y)


class _Completed(TorchDistribution):
    arg_constraints: ClassVar[dict[str, Any]] = {}
    support = constraints.real

    def __init__(self, p: Any, y: Tensor) -> None:
        shape = torch.broadcast_shapes(p.batch_shape + p.event_shape, y.shape)
        batch_shape = shape[: len(shape) - len(p.event_shape)]
        # If one p applies to many y, each of them needs its own samples.
        self.p = p if p.batch_shape == batch_shape else p.expand(batch_shape)
        self.observed = ~y.isnan().expand(shape)
        self.y = y.expand(shape)
        super().__init__(batch_shape, p.event_shape, validate_args=False)

    def _with_observed(self, x: Tensor) -> Tensor:
        return torch.where(self.observed, self.y, x.to(self.y.dtype))


class _CompletedFeatures(_Completed):
    """The distribution for independent features."""

    @property
    def mean(self) -> Tensor:
        return self._with_observed(expectation(features(self.p)))

    def sample(self, sample_shape: Any = ()) -> Tensor:
        with torch.no_grad():
            return self._with_observed(features(self.p).sample(sample_shape))

    def log_prob(self, value: Tensor) -> Tensor:
        missing = marginal(self.p, ~self.observed)
        log_prob: Tensor = missing.log_prob(value)
        return log_prob


class _CompletedNormal(_Completed):
    """The distribution for a normal over all features.

        E[x | y] = loc + C O (O C O + I - O)^-1 (y - loc),

    where C is the covariance, and O the diagonal matrix with 1 for observed entries, else 0.
    """

    @property
    def mean(self) -> Tensor:
        return self._condition(self.p.loc)

    def sample(self, sample_shape: Any = ()) -> Tensor:
        with torch.no_grad():  # a sample of x, corrected for its residual y - x
            return self._condition(self.p.sample(sample_shape))

    def log_prob(self, value: Tensor) -> Tensor:
        value = self._with_observed(value)
        return _log_quotient(self.p, value, self.observed)

    def _condition(self, x: Float[Tensor, "..."]) -> Float[Tensor, "..."]:
        """x + C O (O C O + I - O)^-1 (y - x)."""
        observed = self.observed.to(x.dtype)
        covariance = self.p.covariance_matrix
        observed_block = covariance * observed.unsqueeze(-1) * observed.unsqueeze(-2)
        factor = torch.linalg.cholesky(observed_block + torch.diag_embed(1 - observed))
        residual = torch.where(self.observed, self.y - x, 0.0).unsqueeze(-1)
        weights = torch.cholesky_solve(residual, factor).squeeze(-1) * observed
        return self._with_observed(x + (covariance @ weights.unsqueeze(-1)).squeeze(-1))


class _CompletedShares(_Completed):
    """The distribution for shares x ~ Dirichlet(a).

    Divided by their sum, which y determines, the missing shares are Dirichlet(a_missing).
    """

    @property
    def mean(self) -> Tensor:
        return self._divide_rest(self.p.concentration)

    def sample(self, sample_shape: Any = ()) -> Tensor:
        with torch.no_grad():
            shape = torch.Size(sample_shape) + self.p.concentration.shape
            gammas = Gamma(self.p.concentration.expand(shape), 1.0).sample()
            return self._divide_rest(gammas.clamp_min(torch.finfo(gammas.dtype).tiny))

    def log_prob(self, value: Tensor) -> Tensor:
        return _log_quotient(self.p, self._with_observed(value), self.observed)

    def _divide_rest(self, weights: Tensor) -> Tensor:
        """Share what y leaves of 1 among the missing entries, by their weights."""
        rest = (1 - self.y.nansum(-1, keepdim=True)).clamp_min(0.0)
        weights = torch.where(self.observed, 0.0, weights)
        total = weights.sum(-1, keepdim=True)
        return self._with_observed(rest * weights / torch.where(total > 0, total, 1.0))


class _CompletedClass(_Completed):
    """The distribution for one-hot vectors: the classes that y leaves possible."""

    @property
    def mean(self) -> Tensor:
        return self._with_observed(self._possible().probs)

    def sample(self, sample_shape: Any = ()) -> Tensor:
        with torch.no_grad():
            return self._with_observed(self._possible().sample(sample_shape))  # type: ignore[no-untyped-call]

    def log_prob(self, value: Tensor) -> Tensor:
        return _log_quotient(self.p, self._with_observed(value), self.observed)

    def _possible(self) -> OneHotCategorical:
        possible = possible_classes(self.y.nan_to_num(0.0), self.observed)
        lowest = torch.finfo(self.p.logits.dtype).min / 4
        return OneHotCategorical(logits=self.p.logits.masked_fill(~possible, lowest))


def _log_quotient(p: Any, value: Tensor, observed: Tensor) -> Tensor:
    """log p(x) - log p(observed entries of x)."""
    of_observed = marginal(p, observed).log_prob(torch.where(observed, value, 0.0))
    log_prob: Tensor = p.log_prob(value) - of_observed
    return log_prob
