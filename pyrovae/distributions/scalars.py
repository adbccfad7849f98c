"""Distributions of one number, numerically stable for all arguments that a network may give."""

from typing import Any, ClassVar

import pyro.distributions as dist
import torch
from pyro.distributions import TorchDistribution
from torch import Tensor
from torch.distributions import constraints
from torch.nn.functional import logsigmoid

__all__ = [
    "ContinuousBernoulli",
    "DiscretisedLogistic",
    "OrderedLogistic",
    "SoftAsymmetricLaplace",
    "VonMises",
]


def _log_sigmoid_difference(upper: Tensor, lower: Tensor, width: Tensor) -> Tensor:
    """log(sigmoid(upper) - sigmoid(lower)), where width = upper - lower > 0 may be tiny.

    It uses sigmoid(a) - sigmoid(b) = sigmoid(a) sigmoid(-b) (1 - exp(b - a)).
    """
    tiny = torch.finfo(width.dtype).tiny
    return logsigmoid(upper) + logsigmoid(-lower) + (-torch.expm1(-width)).clamp_min(tiny).log()


class ContinuousBernoulli(dist.ContinuousBernoulli):  # type: ignore[misc]
    """p(x) = C(l) exp(l x) on [0, 1] with logits l (Loaiza-Ganem and Cunningham 2019).

    log C(l) = log(l / (exp(l) - 1)). Unlike torch's, it is not clamped, which would make the
    density improper for logits beyond 16.
    """

    _near_zero = 1e-2

    @property
    def mean(self) -> Tensor:
        """1 / (1 - exp(-l)) - 1 / l."""
        logits: Tensor = self.logits
        small = logits.abs() < self._near_zero
        safe = torch.where(small, torch.ones_like(logits), logits)
        return torch.where(small, 0.5 + logits / 12, -1 / torch.expm1(-safe) - 1 / safe)

    def rsample(self, sample_shape: Any = ()) -> Tensor:
        """By inversion: x = 1 + log(u + (1 - u) exp(-|l|)) / |l|, mirrored for negative l."""
        u = torch.rand(self._extended_shape(sample_shape), device=self.logits.device)
        u = u.to(self.logits.dtype)
        size = self.logits.abs().clamp_min(1e-4)
        x = 1 + torch.log(u + (1 - u) * torch.exp(-size)) / size
        return torch.where(self.logits < 0, 1 - x, x).clamp(0, 1)

    def sample(self, sample_shape: Any = ()) -> Tensor:
        with torch.no_grad():
            return self.rsample(sample_shape)

    def log_prob(self, value: Tensor) -> Tensor:
        if self._validate_args:
            self._validate_sample(value)
        logits: Tensor = self.logits
        small = logits.abs() < self._near_zero
        safe = torch.where(small, torch.ones_like(logits), logits).abs()
        away = safe.log() - safe - torch.log(-torch.expm1(-safe)) + torch.relu(-logits)
        near = -logits / 2 - logits.square() / 24
        return logits * value + torch.where(small, near, away)


class DiscretisedLogistic(TorchDistribution):
    """A logistic distribution in bins of width 1 about 0, ..., L - 1 (Salimans et al. 2017, eq. 2).

    P(x) = sigmoid((x + 1/2 - loc) / scale) - sigmoid((x - 1/2 - loc) / scale), where the first
    and the last bin include the tails. loc and scale are in units of x.

    Arguments:
        loc: location.
        scale: scale.
        levels: number of levels L.
    """

    arg_constraints: ClassVar[dict[str, Any]] = {
        "loc": constraints.real,
        "scale": constraints.positive,
        "levels": constraints.positive_integer,
    }
    has_units = True

    def __init__(
        self, loc: Tensor, scale: Tensor, levels: int = 256, validate_args: bool | None = None
    ) -> None:
        self.loc, self.scale = torch.broadcast_tensors(loc, scale)
        self.levels = torch.as_tensor(levels)
        self._last = int(levels) - 1
        super().__init__(self.loc.shape, validate_args=validate_args)

    @constraints.dependent_property(is_discrete=True, event_dim=0)
    def support(self) -> Any:
        return constraints.integer_interval(0, self._last)

    def expand(self, batch_shape: Any, _instance: Any = None) -> "DiscretisedLogistic":
        return DiscretisedLogistic(
            self.loc.expand(batch_shape), self.scale.expand(batch_shape), self._last + 1, False
        )

    def log_prob(self, value: Tensor) -> Tensor:
        if self._validate_args:
            self._validate_sample(value)
        width = 1 / self.scale
        upper = (value + 0.5 - self.loc) * width
        lower = (value - 0.5 - self.loc) * width
        inner = _log_sigmoid_difference(upper, lower, width)
        first, last = logsigmoid(upper), logsigmoid(-lower)
        return torch.where(value < 0.5, first, torch.where(value > self._last - 0.5, last, inner))

    def sample(self, sample_shape: Any = ()) -> Tensor:
        with torch.no_grad():
            u = torch.rand(self._extended_shape(sample_shape), device=self.loc.device)
            x = self.loc + self.scale * torch.logit(u.to(self.loc.dtype))
            return torch.clamp(x.round(), 0, self._last)

    @property
    def mean(self) -> Tensor:
        """The mean over all levels: a sum, as there is no closed form."""
        x = torch.arange(self._last + 1, dtype=self.loc.dtype, device=self.loc.device)
        x = x.reshape((-1,) + (1,) * len(self.batch_shape))
        unchecked = DiscretisedLogistic(self.loc, self.scale, self._last + 1, False)
        return (unchecked.log_prob(x).exp() * x).sum(0)


class OrderedLogistic(TorchDistribution):
    """Classes 0, ..., K - 1 in order: P(x <= k) = sigmoid(c_k - predictor) (McCullagh 1980).

    Arguments:
        predictor: location of the datum.
        cutpoints: c_0 < ... < c_{K-2} on the last dimension.
    """

    arg_constraints: ClassVar[dict[str, Any]] = {
        "predictor": constraints.real,
        "cutpoints": dist.constraints.ordered_vector,
    }

    def __init__(
        self, predictor: Tensor, cutpoints: Tensor, validate_args: bool | None = None
    ) -> None:
        shape = torch.broadcast_shapes(predictor.shape, cutpoints.shape[:-1])
        self.predictor = predictor.expand(shape)
        self.cutpoints = cutpoints.expand(shape + cutpoints.shape[-1:])
        super().__init__(shape, validate_args=validate_args)

    @constraints.dependent_property(is_discrete=True, event_dim=0)
    def support(self) -> Any:
        return constraints.integer_interval(0, self.cutpoints.shape[-1])

    def expand(self, batch_shape: Any, _instance: Any = None) -> "OrderedLogistic":
        cutpoints = self.cutpoints.expand(tuple(batch_shape) + self.cutpoints.shape[-1:])
        return OrderedLogistic(self.predictor.expand(batch_shape), cutpoints, False)

    @property
    def logits(self) -> Tensor:
        """log P(k) of every class, on the last dimension."""
        c = self.cutpoints - self.predictor.unsqueeze(-1)
        inner = _log_sigmoid_difference(c[..., 1:], c[..., :-1], self.cutpoints.diff(dim=-1))
        return torch.cat([logsigmoid(c[..., :1]), inner, logsigmoid(-c[..., -1:])], dim=-1)

    def log_prob(self, value: Tensor) -> Tensor:
        if self._validate_args:
            self._validate_sample(value)
        shape = torch.broadcast_shapes(value.shape, self.batch_shape)
        logits = self.logits.expand(shape + self.logits.shape[-1:])
        return logits.gather(-1, value.long().expand(shape).unsqueeze(-1)).squeeze(-1)

    def sample(self, sample_shape: Any = ()) -> Tensor:
        sample: Tensor = torch.distributions.Categorical(logits=self.logits).sample(sample_shape)
        return sample

    @property
    def mean(self) -> Tensor:
        """The mean of the class number."""
        logits = self.logits
        classes = torch.arange(logits.shape[-1], dtype=logits.dtype, device=logits.device)
        return logits.exp() @ classes


class SoftAsymmetricLaplace(dist.SoftAsymmetricLaplace):
    """Pyro's distribution, which cannot be expanded (1.9.2), with a method that does."""

    def expand(self, batch_shape: Any, _instance: Any = None) -> "SoftAsymmetricLaplace":
        arguments = self.loc, self.scale, self.asymmetry, self.softness
        expanded = SoftAsymmetricLaplace(  # type: ignore[no-untyped-call]
            *(argument.expand(batch_shape) for argument in arguments), validate_args=False
        )
        expanded._validate_args = self._validate_args
        return expanded


class VonMises(dist.VonMises):  # type: ignore[misc]
    """p(x) = exp(k cos(x - loc)) / (2 pi I_0(k)) on angles from -pi to pi, with concentration k.

    It uses torch's scaled Bessel function, which is accurate and differentiable for every k.
    """

    support = constraints.interval(-torch.pi, torch.pi)

    def log_prob(self, value: Tensor) -> Tensor:
        if self._validate_args:
            self._validate_sample(value)
        k: Tensor = self.concentration
        log_norm = torch.log(2 * torch.pi * torch.special.i0e(k))
        log_prob: Tensor = k * (torch.cos(value - self.loc) - 1) - log_norm
        return log_prob
