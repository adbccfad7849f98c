"""Features seen through normal noise: y = x + s e, with e ~ Normal(0, 1), x ~ p."""

from typing import Any, ClassVar

import torch
from jaxtyping import Float, Num
from pyro.distributions import Categorical, MixtureSameFamily, Normal, TorchDistribution
from torch import Tensor
from torch.distributions import constraints

from ..errors import InputError
from .features import features

__all__ = ["denoised", "noisy"]

Scale = Float[Tensor, "*batch_event"]


def noisy(p: Any, scale: Scale) -> Any:
    """p(y), of the event shape of p: exact.

    A normal and a mixture of normals become wider; a distribution of finitely many values becomes
    a mixture of as many normals.

    Arguments:
        p: of independent features.
        scale: s.

    Raises:
        InputError: if p has neither form.
    """
    p0 = features(p)
    if _is_normal(p0):
        seen: Any = _wider(p0, scale)
    elif _is_mixture(p0):
        wider = _wider(p0.component_distribution, scale.unsqueeze(-1))
        seen = MixtureSameFamily(p0.mixture_distribution, wider)
    else:
        values, log_probs = _finite(p0)
        normals = Normal(values, scale.unsqueeze(-1).expand(log_probs.shape))
        seen = MixtureSameFamily(Categorical(logits=log_probs), normals)
    return seen.to_event(len(p.event_shape))


def denoised(p: Any, y: Num[Tensor, "*batch_event"], scale: Scale) -> Any:
    """p(x | y), of the event shape of p, where y is not NaN; p itself where it is.

    Raises:
        InputError: as :func:`noisy`.
    """
    p0 = features(p)
    if _is_normal(p0):
        given: Any = _narrower(p0, y, scale)
    elif _is_mixture(p0):
        normals = p0.component_distribution
        y, scale = y.unsqueeze(-1), scale.unsqueeze(-1)
        evidence = _log_evidence(_wider(normals, scale), y)
        weights = Categorical(logits=p0.mixture_distribution.logits + evidence)
        given = MixtureSameFamily(weights, _narrower(normals, y, scale))
    else:
        values, log_probs = _finite(p0)
        evidence = _log_evidence(Normal(values, scale.unsqueeze(-1)), y.unsqueeze(-1))
        given = _Finite(values, log_probs + evidence)
    return given.to_event(len(p.event_shape))


class _Finite(TorchDistribution):
    """A value out of finitely many, the same for the whole batch."""

    arg_constraints: ClassVar[dict[str, Any]] = {}
    support = constraints.real

    def __init__(self, values: Float[Tensor, "values"], logits: Float[Tensor, "..."]) -> None:
        self._values = values
        self._number = Categorical(logits=logits)
        super().__init__(logits.shape[:-1], validate_args=False)

    def expand(self, batch_shape: Any, _instance: Any = None) -> "_Finite":
        return _Finite(self._values, self._number.expand(batch_shape).logits)

    @property
    def mean(self) -> Tensor:
        mean: Tensor = self._number.probs @ self._values
        return mean

    def sample(self, sample_shape: Any = ()) -> Tensor:
        return self._values[self._number.sample(sample_shape)]

    def log_prob(self, value: Tensor) -> Tensor:
        is_value = value.unsqueeze(-1) == self._values
        return torch.where(is_value, self._number.logits, -torch.inf).logsumexp(-1)


def _is_normal(p: Any) -> bool:
    return isinstance(p, torch.distributions.Normal)


def _is_mixture(p: Any) -> bool:
    is_mixture = isinstance(p, torch.distributions.MixtureSameFamily)
    return is_mixture and _is_normal(p.component_distribution)


def _wider(p: Any, scale: Tensor) -> Any:
    return Normal(p.loc, (p.scale.square() + scale.square()).sqrt())


def _narrower(p: Any, y: Tensor, scale: Tensor) -> Any:
    gain = p.scale.square() / (p.scale.square() + scale.square())
    gain = torch.where(y.isnan(), 0.0, gain)
    residual = torch.where(y.isnan(), 0.0, y - p.loc)
    # Not 1 - gain, which is lost beside one where there is little noise.
    left = scale / (p.scale.square() + scale.square()).sqrt()
    return Normal(p.loc + gain * residual, p.scale * torch.where(y.isnan(), 1.0, left))


def _log_evidence(p: Any, y: Tensor) -> Tensor:
    """log p(y), zero where y is missing."""
    filled = torch.where(y.isnan(), 0.0, y)
    log_prob: Tensor = p.log_prob(filled)
    return torch.where(y.isnan(), 0.0, log_prob)


def _finite(p: Any) -> tuple[Float[Tensor, "values"], Float[Tensor, "*batch_event values"]]:
    """All values, and the log-probability of each."""
    if not p.has_enumerate_support:
        raise InputError(
            f"noise on top of {type(p).__name__} has no density in closed form; let it be noise on "
            "the mean, with of='mean', or use a likelihood that is Normal or of a few values"
        )
    if hasattr(p, "total_count"):  # which each datum may have its own of
        total = p.total_count
        values = torch.arange(int(total.max()) + 1, dtype=total.dtype, device=total.device)
        column = values.reshape(-1, *[1] * len(p.batch_shape))
        log_probs = p.log_prob(torch.minimum(column, total))
        log_probs = torch.where(column <= total, log_probs, -torch.inf).movedim(0, -1)
        return values.to(log_probs.dtype), log_probs
    values = p.enumerate_support(expand=False)
    log_probs = p.log_prob(values).movedim(0, -1)
    return values.flatten().to(log_probs.dtype), log_probs
