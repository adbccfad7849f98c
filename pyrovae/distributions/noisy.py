"""Features with additive normal noise: y = x + s e, where e ~ Normal(0, 1) and x ~ p."""

from typing import Any, ClassVar

import torch
from jaxtyping import Float, Num
from pyro.distributions import Categorical, MixtureSameFamily, Normal, TorchDistribution
from torch import Tensor
from torch.distributions import constraints

from ..errors import InputError
from .features import features
from .vectors import Blocks, as_joint_normal

__all__ = ["denoised", "noisy"]

Scale = Float[Tensor, "*batch_event"]


def noisy(p: Any, scale: Scale) -> Any:
    """The exact distribution p(y), with the event shape of p.

    Normals, also those over all features, and mixtures of normals become wider; a distribution of
    finitely many values becomes a mixture of as many normals.

    Arguments:
        p: a distribution of independent features, or a joint normal, or blocks of these.
        scale: s, of the shape of x.

    Raises:
        InputError: if p has none of these forms.
    """
    if isinstance(p, Blocks):
        blocks = zip(p.parts, scale.split(p.widths, -1), strict=True)
        return Blocks([noisy(part, s) for part, s in blocks])
    joint = as_joint_normal(p)
    if joint is not None:
        return joint.with_noise(scale)
    p0 = features(p)
    if _is_normal(p0):
        marginal: Any = _add_noise(p0, scale)
    elif _is_mixture(p0):
        noisy_components = _add_noise(p0.component_distribution, scale.unsqueeze(-1))
        marginal = MixtureSameFamily(p0.mixture_distribution, noisy_components)
    else:
        values, log_probs = _enumerate(p0)
        normals = Normal(values, scale.unsqueeze(-1).expand(log_probs.shape))
        marginal = MixtureSameFamily(Categorical(logits=log_probs), normals)
    return marginal.to_event(len(p.event_shape))


def denoised(p: Any, y: Num[Tensor, "*batch_event"], scale: Scale) -> Any:
    """The exact posterior p(x | y), with the event shape of p; where y is NaN, it is p.

    Raises:
        InputError: as :func:`noisy`.
    """
    if isinstance(p, Blocks):
        blocks = zip(p.parts, y.split(p.widths, -1), scale.split(p.widths, -1), strict=True)
        return Blocks([denoised(*block) for block in blocks])
    joint = as_joint_normal(p)
    if joint is not None:
        return _DenoisedNormal(joint, y, scale)
    p0 = features(p)
    if _is_normal(p0):
        posterior: Any = _condition(p0, y, scale)
    elif _is_mixture(p0):
        normals = p0.component_distribution
        y, scale = y.unsqueeze(-1), scale.unsqueeze(-1)
        evidence = _log_evidence(_add_noise(normals, scale), y)
        weights = Categorical(logits=p0.mixture_distribution.logits + evidence)
        posterior = MixtureSameFamily(weights, _condition(normals, y, scale))
    else:
        values, log_probs = _enumerate(p0)
        evidence = _log_evidence(Normal(values, scale.unsqueeze(-1)), y.unsqueeze(-1))
        posterior = _Finite(values, log_probs + evidence)
    return posterior.to_event(len(p.event_shape))


class _Finite(TorchDistribution):
    """A distribution over finitely many values, which are the same for the whole batch."""

    arg_constraints: ClassVar[dict[str, Any]] = {}
    support = constraints.real

    def __init__(self, values: Float[Tensor, "values"], logits: Float[Tensor, "..."]) -> None:
        self._values = values
        self._index = Categorical(logits=logits)
        super().__init__(logits.shape[:-1], validate_args=False)

    def expand(self, batch_shape: Any, _instance: Any = None) -> "_Finite":
        return _Finite(self._values, self._index.expand(batch_shape).logits)

    @property
    def mean(self) -> Tensor:
        mean: Tensor = self._index.probs @ self._values
        return mean

    def sample(self, sample_shape: Any = ()) -> Tensor:
        return self._values[self._index.sample(sample_shape)]

    def log_prob(self, value: Tensor) -> Tensor:
        is_value = value.unsqueeze(-1) == self._values
        return torch.where(is_value, self._index.logits, -torch.inf).logsumexp(-1)


class _DenoisedNormal(TorchDistribution):
    """p(x | y) for a normal x over all features, with covariance C, of which y may miss entries.

    With O the diagonal matrix with 1 for observed entries, else 0,

        E[x | y] = loc + C O (O (C + diag(s^2)) O + I - O)^-1 (y - loc).

    To sample, draw x and its observation, then correct x for the difference of y from that.
    """

    arg_constraints: ClassVar[dict[str, Any]] = {}
    support = constraints.real_vector

    def __init__(self, p: Any, y: Tensor, scale: Scale) -> None:
        self._p = p
        self._y, self._scale = y, scale
        self._observed = ~y.isnan()
        observed = self._observed.to(p.loc.dtype)
        covariance = p.covariance_matrix
        block = covariance * observed.unsqueeze(-1) * observed.unsqueeze(-2)
        diagonal = torch.where(self._observed, scale.square(), 1.0)
        factor, info = torch.linalg.cholesky_ex(block + torch.diag_embed(diagonal))
        # A row whose scales have overflowed gets NaN instead of an error.
        self._factor = torch.where((info == 0)[..., None, None], factor, torch.nan)
        self._gain = covariance * observed.unsqueeze(-2)
        super().__init__(p.batch_shape, p.event_shape, validate_args=False)

    @property
    def mean(self) -> Tensor:
        return self._shift(self._p.loc, self._p.loc)

    def sample(self, sample_shape: Any = ()) -> Tensor:
        with torch.no_grad():
            x = self._p.sample(sample_shape)
            return self._shift(x, x + self._scale * torch.randn_like(x))

    def log_prob(self, value: Tensor) -> Tensor:
        """By Bayes' rule."""
        filled = torch.where(self._observed, self._y, 0.0)
        noise = Normal(value, self._scale.expand(value.shape)).mask(self._observed).to_event(1)
        log_y = self._p.with_noise(self._scale).marginal(self._observed).log_prob(filled)
        log_prob: Tensor = self._p.log_prob(value) + noise.log_prob(filled) - log_y
        return log_prob

    def _shift(self, x: Tensor, clean: Tensor) -> Tensor:
        residual = torch.where(self._observed, self._y - clean, 0.0).unsqueeze(-1)
        shift: Tensor = (self._gain @ torch.cholesky_solve(residual, self._factor)).squeeze(-1)
        return x + shift


def _is_normal(p: Any) -> bool:
    return isinstance(p, torch.distributions.Normal)


def _is_mixture(p: Any) -> bool:
    is_mixture = isinstance(p, torch.distributions.MixtureSameFamily)
    return is_mixture and _is_normal(p.component_distribution)


def _add_noise(p: Any, scale: Tensor) -> Any:
    """The normal p(y) for a normal p."""
    return Normal(p.loc, (p.scale.square() + scale.square()).sqrt())


def _condition(p: Any, y: Tensor, scale: Tensor) -> Any:
    """The normal p(x | y) for a normal p."""
    gain = p.scale.square() / (p.scale.square() + scale.square())
    gain = torch.where(y.isnan(), 0.0, gain)
    residual = torch.where(y.isnan(), 0.0, y - p.loc)
    # Equals sqrt(1 - gain), which rounding would destroy if there is little noise.
    shrinkage = scale / (p.scale.square() + scale.square()).sqrt()
    return Normal(p.loc + gain * residual, p.scale * torch.where(y.isnan(), 1.0, shrinkage))


def _log_evidence(p: Any, y: Tensor) -> Tensor:
    """log p(y), with zeros where y is missing."""
    filled = torch.where(y.isnan(), 0.0, y)
    log_prob: Tensor = p.log_prob(filled)
    return torch.where(y.isnan(), 0.0, log_prob)


def _enumerate(p: Any) -> tuple[Float[Tensor, "values"], Float[Tensor, "*batch_event values"]]:
    """All values of p, and their log-probabilities."""
    if not p.has_enumerate_support:
        raise InputError(
            f"noise on top of {type(p).__name__} has no density in closed form; use noise on the "
            "mean (of='mean'), or a likelihood that is Normal or has finitely many values"
        )
    if hasattr(p, "total_count"):  # may differ between data, which enumerate_support does not allow
        total = p.total_count
        values = torch.arange(int(total.max()) + 1, dtype=total.dtype, device=total.device)
        column = values.reshape(-1, *[1] * len(p.batch_shape))
        log_probs = p.log_prob(torch.minimum(column, total))
        log_probs = torch.where(column <= total, log_probs, -torch.inf).movedim(0, -1)
        return values.to(log_probs.dtype), log_probs
    values = p.enumerate_support(expand=False)
    log_probs = p.log_prob(values).movedim(0, -1)
    return values.flatten().to(log_probs.dtype), log_probs
