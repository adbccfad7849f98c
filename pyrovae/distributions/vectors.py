"""Joint distributions of all features of a datum.

Distributions with a single family have a method ``marginal``: the distribution of the observed
entries.
"""

from collections.abc import Sequence
from typing import Any, ClassVar

import pyro.distributions as dist
import torch
from jaxtyping import Bool, Float
from pyro.distributions import TorchDistribution
from torch import Tensor
from torch.distributions import constraints

from .counts import log_compound
from .joint import MultivariateNormal
from .lgamma import as_real, deviance, log_of, stirling_remainder

__all__ = ["Blocks", "DirichletMultinomial", "LowRankNormal", "Multinomial", "as_joint_normal"]


class Multinomial(TorchDistribution):
    """Counts x of total n in D cells: p(x) = n! prod_d p_d^x_d / x_d!.

    log p = R(n) - sum_d [R(x_d) + D(x_d, n p_d)], in the terms of
    :mod:`pyrovae.distributions.lgamma`, which is accurate for large counts. Unlike with torch, each
    datum may have its own total.

    Arguments:
        logits: log p_d, unnormalised, on the last dimension.
        total_count: n, of the batch shape; used only to sample. Densities are given the total of x.
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
        x, logits = as_real(value, self.logits)
        log_p = logits.log_softmax(-1)
        n = x.sum(-1, keepdim=True)
        divergence = deviance(x, log_of(n) + log_p, x - n * log_p.exp())
        each = stirling_remainder(x) + divergence
        return stirling_remainder(n).squeeze(-1) - each.sum(-1)

    def sample(self, sample_shape: Any = ()) -> Tensor:
        with torch.no_grad():
            shape = torch.Size(sample_shape) + self.batch_shape
            max_total = int(self.total_count.max().item())
            cells = torch.distributions.Categorical(logits=self.logits).sample(
                (max_total, *sample_shape)
            )
            trial = torch.arange(max_total, device=cells.device).reshape((-1,) + (1,) * len(shape))
            is_counted = (trial < self.total_count).to(self.logits.dtype).expand(cells.shape)
            counts = self.logits.new_zeros(shape + self.event_shape)
            sample: Tensor = counts.scatter_add(-1, cells.movedim(0, -1), is_counted.movedim(0, -1))
            return sample

    @property
    def mean(self) -> Tensor:
        mean: Tensor = self.total_count.unsqueeze(-1) * self.logits.softmax(-1)
        return mean

    def marginal(self, observed: Bool[Tensor, "*batch cells"]) -> "Multinomial":
        """The counts of the observed cells, given their total; missing cells hold 0."""
        is_kept = observed | ~observed.any(-1, keepdim=True)
        lowest = torch.finfo(self.logits.dtype).min / 4
        return Multinomial(self.logits.masked_fill(~is_kept, lowest), self.total_count, False)


class DirichletMultinomial(TorchDistribution):
    """A multinomial with Dirichlet probabilities: overdispersed counts of total n in D cells.

    log p = log n! + log G(a) - log G(n + a) + sum [log G(x_d + a_d) - log G(a_d) - log x_d!], with
    a = sum a_d and G the gamma function. Each datum may have its own total.

    Arguments:
        concentration: a_d on the last dimension.
        total_count: n, of the batch shape; used only to sample. Densities are given the total of x.
        observed: which cells are observed; the others hold 0 and are ignored.
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
        return log_compound(value, self.concentration, self._observed)

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
        is_kept = observed | ~observed.any(-1, keepdim=True)
        return DirichletMultinomial(self.concentration, self.total_count, False, is_kept)


class LowRankNormal(dist.LowRankMultivariateNormal):
    """A normal with covariance W W' + diag(d), where W has D rows and few columns.

    1e-6 times the diagonal of W W' is added to d. Otherwise the covariance could not be inverted in
    single precision if d is much smaller.
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
        # In half precision the products may have no Cholesky factor.
        with torch.autocast(loc.device.type, enabled=False):
            super().__init__(loc, cov_factor, cov_diag, validate_args=validate_args)

    def expand(self, batch_shape: Any, _instance: Any = None) -> "LowRankNormal":
        instance: Any = LowRankNormal.__new__(LowRankNormal)
        super().expand(batch_shape, instance)  # type: ignore[no-untyped-call]
        expanded: LowRankNormal = instance
        if self._num_missing is not None:
            expanded._num_missing = self._num_missing.expand(batch_shape)
        return expanded

    def log_prob(self, value: Tensor) -> Tensor:
        with torch.autocast(value.device.type, enabled=False):
            log_prob: Tensor = super().log_prob(value)  # type: ignore[no-untyped-call]
        if self._num_missing is None:
            return log_prob
        # Each missing entry, at its mean 0 with variance 1, contributes log Normal(0; 0, 1).
        return log_prob + self._num_missing * 0.5 * torch.tensor(2 * torch.pi).log()

    def with_noise(self, scale: Float[Tensor, "*batch entries"]) -> "LowRankNormal":
        """The normal of x + scale * e with e ~ Normal(0, I)."""
        factor = self._unbroadcasted_cov_factor
        # Without the jitter, which __init__ adds again.
        diag = self._unbroadcasted_cov_diag - self._jitter * factor.square().sum(-1)
        return LowRankNormal(self.loc, factor, diag + scale.square(), validate_args=False)

    def marginal(self, observed: Bool[Tensor, "*batch entries"]) -> "LowRankNormal":
        """The normal of the observed entries; missing entries hold 0."""
        factor = self._unbroadcasted_cov_factor
        # Without the jitter, which __init__ adds again.
        diag = self._unbroadcasted_cov_diag - self._jitter * factor.square().sum(-1)
        marginal = LowRankNormal(
            self.loc.masked_fill(~observed, 0.0),
            factor.masked_fill(~observed.unsqueeze(-1), 0.0),
            diag.masked_fill(~observed, 1.0),
            validate_args=False,
        )
        marginal._num_missing = (~observed).sum(-1).to(self.loc.dtype)
        return marginal


def as_joint_normal(p: Any) -> LowRankNormal | MultivariateNormal | None:
    """A normal over all features, of torch or Pyro, as one of ours; None for others."""
    if isinstance(p, LowRankNormal | MultivariateNormal):
        return p
    if isinstance(p, torch.distributions.MultivariateNormal):
        return MultivariateNormal(p.loc, p.scale_tril, validate_args=False)
    if isinstance(p, torch.distributions.LowRankMultivariateNormal):
        jitter = LowRankNormal._jitter * p.cov_factor.square().sum(-1)
        return LowRankNormal(p.loc, p.cov_factor, p.cov_diag - jitter, validate_args=False)
    return None


class Blocks(TorchDistribution):
    """Independent distributions over parts of a vector, as one distribution over the whole vector.

    Arguments:
        parts: distributions with the same batch shape, each over consecutive entries.

    Attributes:
        widths: number of entries of each part.
    """

    arg_constraints: ClassVar[dict[str, Any]] = {}
    support = constraints.real_vector

    def __init__(self, parts: Sequence[Any]) -> None:
        self.parts = list(parts)
        self.widths = [part.event_shape[0] for part in self.parts]
        event_shape = torch.Size([sum(self.widths)])
        super().__init__(self.parts[0].batch_shape, event_shape, validate_args=False)

    def expand(self, batch_shape: Any, _instance: Any = None) -> "Blocks":
        return Blocks([part.expand(batch_shape) for part in self.parts])

    def log_prob(self, value: Tensor) -> Tensor:
        values = value.split(self.widths, dim=-1)
        terms = [part.log_prob(v) for part, v in zip(self.parts, values, strict=True)]
        return torch.stack(torch.broadcast_tensors(*terms)).sum(0)

    def sample(self, sample_shape: Any = ()) -> Tensor:
        samples = [part.sample(sample_shape) for part in self.parts]
        real = torch.get_default_dtype()
        return torch.cat([x if x.is_floating_point() else x.to(real) for x in samples], dim=-1)

    @property
    def mean(self) -> Tensor:
        return torch.cat([part.mean for part in self.parts], dim=-1)
