"""Distributions that Pyro lacks, or has only for moderate arguments or equal totals.

Each holds where a network may lead it: to logits of ten thousand and to scales of almost nothing.
Those over vectors have a ``marginal``, the distribution of the entries that were observed.
"""

from collections.abc import Sequence
from typing import Any, ClassVar

import pyro.distributions as dist
import torch
from jaxtyping import Bool, Float
from pyro.distributions import TorchDistribution
from torch import Tensor
from torch.distributions import constraints
from torch.nn.functional import logsigmoid

__all__ = [
    "Blocks",
    "ContinuousBernoulli",
    "DirichletMultinomial",
    "DiscretisedLogistic",
    "LowRankNormal",
    "Multinomial",
    "OrderedLogistic",
    "VonMises",
    "ZeroInflatedNegativeBinomial",
]


def _log_sigmoid_difference(upper: Tensor, lower: Tensor, width: Tensor) -> Tensor:
    """log(sigmoid(upper) - sigmoid(lower)), where width = upper - lower > 0 may be tiny.

    From sigmoid(a) - sigmoid(b) = sigmoid(a) sigmoid(-b) (1 - exp(b - a)).
    """
    tiny = torch.finfo(width.dtype).tiny
    return logsigmoid(upper) + logsigmoid(-lower) + (-torch.expm1(-width)).clamp_min(tiny).log()


class ContinuousBernoulli(dist.ContinuousBernoulli):  # type: ignore[misc]
    """p(x) = C(l) exp(l x) on [0, 1] with logits l (Loaiza-Ganem and Cunningham 2019).

    log C(l) = log(l / (exp(l) - 1)), here without the clamp that makes torch's density improper
    for logits beyond 16.
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
    and the last bin hold the tails as well. loc and scale are in units of x.

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
        everywhere = DiscretisedLogistic(self.loc, self.scale, self._last + 1, False)
        return (everywhere.log_prob(x).exp() * x).sum(0)


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
        drawn: Tensor = torch.distributions.Categorical(logits=self.logits).sample(sample_shape)
        return drawn

    @property
    def mean(self) -> Tensor:
        """The mean of the class number."""
        logits = self.logits
        classes = torch.arange(logits.shape[-1], dtype=logits.dtype, device=logits.device)
        return logits.exp() @ classes


class Multinomial(TorchDistribution):
    """Counts x of total n in D cells: log p = log n! - sum log x_d! + sum x_d log p_d.

    Unlike torch's, each datum may have a total of its own.

    Arguments:
        logits: log p_d, unnormalised, on the last dimension.
        total_count: n, of the batch shape; used to sample. A density is that given the total of x.
    """

    arg_constraints: ClassVar[dict[str, Any]] = {
        "logits": constraints.real_vector,
        "total_count": constraints.nonnegative_integer,
    }
    support = constraints.independent(constraints.nonnegative_integer, 1)

    def __init__(
        self, logits: Tensor, total_count: Any = 1, validate_args: bool | None = None
    ) -> None:
        total_count = torch.as_tensor(total_count, dtype=logits.dtype, device=logits.device)
        shape = torch.broadcast_shapes(logits.shape[:-1], total_count.shape)
        self.logits = logits.expand(shape + logits.shape[-1:])
        self.total_count = total_count.expand(shape)
        super().__init__(shape, logits.shape[-1:], validate_args=validate_args)

    def expand(self, batch_shape: Any, _instance: Any = None) -> "Multinomial":
        logits = self.logits.expand(tuple(batch_shape) + self.event_shape)
        return Multinomial(logits, self.total_count.expand(batch_shape), False)

    def log_prob(self, value: Tensor) -> Tensor:
        if self._validate_args:
            self._validate_sample(value)
        log_p = self.logits.log_softmax(-1)
        ways = torch.lgamma(value.sum(-1) + 1) - torch.lgamma(value + 1).sum(-1)
        return ways + (value * log_p).sum(-1)

    def sample(self, sample_shape: Any = ()) -> Tensor:
        with torch.no_grad():
            shape = torch.Size(sample_shape) + self.batch_shape
            most = int(self.total_count.max().item())
            cells = torch.distributions.Categorical(logits=self.logits).sample(
                (most, *sample_shape)
            )
            number = torch.arange(most, device=cells.device).reshape((-1,) + (1,) * len(shape))
            counted = (number < self.total_count).to(self.logits.dtype).expand(cells.shape)
            counts = self.logits.new_zeros(shape + self.event_shape)
            drawn: Tensor = counts.scatter_add(-1, cells.movedim(0, -1), counted.movedim(0, -1))
            return drawn

    @property
    def mean(self) -> Tensor:
        mean: Tensor = self.total_count.unsqueeze(-1) * self.logits.softmax(-1)
        return mean

    def marginal(self, observed: Bool[Tensor, "*batch cells"]) -> "Multinomial":
        """The counts of the observed cells, given their total; missing cells hold 0."""
        kept = observed | ~observed.any(-1, keepdim=True)
        lowest = torch.finfo(self.logits.dtype).min / 4
        return Multinomial(self.logits.masked_fill(~kept, lowest), self.total_count, False)


class DirichletMultinomial(TorchDistribution):
    """A multinomial whose probabilities are Dirichlet: overdispersed counts of total n in D cells.

    log p = log n! + log G(a) - log G(n + a) + sum [log G(x_d + a_d) - log G(a_d) - log x_d!], with
    a = sum a_d and G the gamma function. Each datum may have a total of its own.

    Arguments:
        concentration: a_d on the last dimension.
        total_count: n, of the batch shape; used to sample. A density is that given the total of x.
        observed: which cells are observed; the others hold 0, and count for nothing.
    """

    arg_constraints: ClassVar[dict[str, Any]] = {
        "concentration": constraints.independent(constraints.positive, 1),
        "total_count": constraints.nonnegative_integer,
    }
    support = constraints.independent(constraints.nonnegative_integer, 1)

    def __init__(
        self,
        concentration: Tensor,
        total_count: Any = 1,
        validate_args: bool | None = None,
        observed: Tensor | None = None,
    ) -> None:
        self.concentration = concentration
        self._observed = observed
        counts = Multinomial(concentration.log(), total_count, False)
        self.total_count = counts.total_count
        super().__init__(counts.batch_shape, counts.event_shape, validate_args=validate_args)

    def expand(self, batch_shape: Any, _instance: Any = None) -> "DirichletMultinomial":
        concentration = self.concentration.expand(tuple(batch_shape) + self.event_shape)
        observed = self._observed
        if observed is not None:
            observed = observed.expand(concentration.shape)
        total_count = self.total_count.expand(batch_shape)
        return DirichletMultinomial(concentration, total_count, False, observed)

    def log_prob(self, value: Tensor) -> Tensor:
        if self._validate_args:
            self._validate_sample(value)
        a, n = self.concentration, value.sum(-1)
        total = a.sum(-1) if self._observed is None else (a * self._observed).sum(-1)
        each = torch.lgamma(value + a) - torch.lgamma(a) - torch.lgamma(value + 1)
        return each.sum(-1) + torch.lgamma(n + 1) + torch.lgamma(total) - torch.lgamma(n + total)

    def sample(self, sample_shape: Any = ()) -> Tensor:
        with torch.no_grad():
            p = torch.distributions.Dirichlet(self.concentration).sample(sample_shape)
            tiny = torch.finfo(p.dtype).tiny
            cells = Multinomial(p.clamp_min(tiny).log(), self.total_count)
            return cells.sample()

    @property
    def mean(self) -> Tensor:
        p = self.concentration / self.concentration.sum(-1, keepdim=True)
        mean: Tensor = self.total_count.unsqueeze(-1) * p
        return mean

    def marginal(self, observed: Bool[Tensor, "*batch cells"]) -> "DirichletMultinomial":
        """The counts of the observed cells, given their total; missing cells hold 0."""
        kept = observed | ~observed.any(-1, keepdim=True)
        return DirichletMultinomial(self.concentration, self.total_count, False, kept)


class VonMises(dist.VonMises):  # type: ignore[misc]
    """p(x) = exp(k cos(x - loc)) / (2 pi I_0(k)) on angles from -pi to pi, with concentration k.

    With the scaled Bessel function of torch, exact and differentiable for every k.
    """

    support = constraints.interval(-torch.pi, torch.pi)

    def log_prob(self, value: Tensor) -> Tensor:
        if self._validate_args:
            self._validate_sample(value)
        k: Tensor = self.concentration
        log_norm = torch.log(2 * torch.pi * torch.special.i0e(k))
        log_prob: Tensor = k * (torch.cos(value - self.loc) - 1) - log_norm
        return log_prob


class ZeroInflatedNegativeBinomial(dist.ZeroInflatedNegativeBinomial):
    """Pyro's, without its refusal of logits whose probability is 1 in single precision."""

    arg_constraints = {  # noqa: RUF012
        name: constraint
        for name, constraint in dist.ZeroInflatedNegativeBinomial.arg_constraints.items()
        if name != "probs"
    }


class LowRankNormal(dist.LowRankMultivariateNormal):
    """A normal with covariance W W' + diag(d), W of D rows and few columns.

    To d is added a millionth of the diagonal of W W', without which single precision cannot invert
    the covariance once d is much smaller.
    """

    has_units = True
    _num_missing: Float[Tensor, "*batch"] | None = None
    _jitter = 1e-6

    def __init__(
        self,
        loc: Tensor,
        cov_factor: Tensor,
        cov_diag: Tensor,
        validate_args: bool | None = None,
    ) -> None:
        cov_diag = cov_diag + self._jitter * cov_factor.square().sum(-1)
        super().__init__(loc, cov_factor, cov_diag, validate_args=validate_args)

    def expand(self, batch_shape: Any, _instance: Any = None) -> "LowRankNormal":
        instance: Any = LowRankNormal.__new__(LowRankNormal)
        super().expand(batch_shape, instance)  # type: ignore[no-untyped-call]
        expanded: LowRankNormal = instance
        if self._num_missing is not None:
            expanded._num_missing = self._num_missing.expand(batch_shape)
        return expanded

    def log_prob(self, value: Tensor) -> Tensor:
        log_prob: Tensor = super().log_prob(value)  # type: ignore[no-untyped-call]
        if self._num_missing is None:
            return log_prob
        # A missing entry, at its mean 0 with variance 1, has added log Normal(0; 0, 1).
        return log_prob + self._num_missing * 0.5 * torch.tensor(2 * torch.pi).log()

    def marginal(self, observed: Bool[Tensor, "*batch entries"]) -> "LowRankNormal":
        """The normal of the observed entries; missing ones hold 0."""
        marginal = LowRankNormal(
            self.loc.masked_fill(~observed, 0.0),
            self._unbroadcasted_cov_factor.masked_fill(~observed.unsqueeze(-1), 0.0),
            self._unbroadcasted_cov_diag.masked_fill(~observed, 1.0),
            validate_args=False,
        )
        marginal._num_missing = (~observed).sum(-1).to(self.loc.dtype)
        return marginal


class Blocks(TorchDistribution):
    """Distributions over vectors, side by side and independent, as one over the whole vector.

    Arguments:
        parts: distributions of one batch shape, each over some consecutive entries.
    """

    arg_constraints: ClassVar[dict[str, Any]] = {}
    support = constraints.real_vector

    def __init__(self, parts: Sequence[Any]) -> None:
        self.parts = list(parts)
        self._widths = [part.event_shape[0] for part in self.parts]
        event_shape = torch.Size([sum(self._widths)])
        super().__init__(self.parts[0].batch_shape, event_shape, validate_args=False)

    def expand(self, batch_shape: Any, _instance: Any = None) -> "Blocks":
        return Blocks([part.expand(batch_shape) for part in self.parts])

    def log_prob(self, value: Tensor) -> Tensor:
        values = value.split(self._widths, dim=-1)
        terms = [part.log_prob(v) for part, v in zip(self.parts, values, strict=True)]
        return torch.stack(torch.broadcast_tensors(*terms)).sum(0)

    def sample(self, sample_shape: Any = ()) -> Tensor:
        drawn = [part.sample(sample_shape) for part in self.parts]
        whole = torch.get_default_dtype()
        return torch.cat([d if d.is_floating_point() else d.to(whole) for d in drawn], dim=-1)
