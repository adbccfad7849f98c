"""Joint distributions of all features of a datum: correlated numbers, shares, and one of K classes.

Each has a method ``marginal``: the distribution of the observed entries. The others may hold any
finite numbers.
"""

from typing import Any

import pyro.distributions as dist
import torch
from jaxtyping import Bool, Float
from torch import Tensor
from torch.distributions import constraints

from .lgamma import as_real, deviance, log_of, stirling_remainder

__all__ = ["Dirichlet", "MultivariateNormal", "OneHotCategorical"]


class MultivariateNormal(dist.MultivariateNormal):
    """A normal over all features with covariance L L', where L is lower triangular.

    Arguments:
        loc: the mean.
        scale_tril: L, with a positive diagonal.
    """

    arg_constraints = {  # noqa: RUF012
        "loc": constraints.real_vector,
        "scale_tril": constraints.lower_cholesky,
    }
    has_units = True
    _missing: Bool[Tensor, "*batch entries"] | None = None

    def __init__(self, loc: Tensor, scale_tril: Tensor, validate_args: bool | None = None) -> None:
        super().__init__(loc, scale_tril=scale_tril, validate_args=validate_args)

    def expand(self, batch_shape: Any, _instance: Any = None) -> "MultivariateNormal":
        instance: Any = MultivariateNormal.__new__(MultivariateNormal)
        super().expand(batch_shape, instance)  # type: ignore[no-untyped-call]
        expanded: MultivariateNormal = instance
        if self._missing is not None:
            expanded._missing = self._missing.expand(tuple(batch_shape) + self.event_shape)
        return expanded

    def log_prob(self, value: Tensor) -> Tensor:
        missing = self._missing
        if missing is not None:
            value = value.masked_fill(missing, 0.0)
        with torch.autocast(value.device.type, enabled=False):
            log_prob: Tensor = super().log_prob(value)  # type: ignore[no-untyped-call]
        if missing is None:
            return log_prob
        # Each missing entry, at its mean 0 with variance 1, contributes log Normal(0; 0, 1).
        num = missing.sum(-1).to(log_prob.dtype)
        return log_prob + num * 0.5 * torch.tensor(2 * torch.pi).log()

    def marginal(self, observed: Bool[Tensor, "*batch entries"]) -> "MultivariateNormal":
        """The normal of the observed entries.

        Its factor is that of M M', where M are the rows of L of observed entries beside an identity
        for the others. It comes from a QR decomposition of M', which keeps twice the digits of the
        product.
        """
        missing = ~observed
        rows = self._unbroadcasted_scale_tril.masked_fill(missing.unsqueeze(-1), 0.0)
        factor = _factor_of_sum(rows, missing.to(rows.dtype))
        loc = self.loc.masked_fill(missing, 0.0)
        marginal = MultivariateNormal(loc, factor, validate_args=False)
        marginal._missing = missing.expand(marginal.loc.shape)
        return marginal

    def with_noise(self, scale: Float[Tensor, "*batch entries"]) -> "MultivariateNormal":
        """The normal of x + scale * e with e ~ Normal(0, I)."""
        factor = _factor_of_sum(self._unbroadcasted_scale_tril, scale)
        return MultivariateNormal(self.loc, factor, validate_args=False)


class Dirichlet(dist.Dirichlet):
    """p(x) = G(A) prod_d x_d^(a_d - 1) / G(a_d) on the simplex, with A = sum_d a_d.

    log p = R(A) - log A + sum_d [log a_d - R(a_d) - log x_d - D(a_d, A x_d)], in the terms of
    :mod:`pyrovae.distributions.lgamma`. It is a density of all entries but one. Entries that do not
    sum exactly to one are divided by their sum.
    """

    _observed: Bool[Tensor, "*batch entries"] | None = None

    def expand(self, batch_shape: Any, _instance: Any = None) -> Any:
        expanded: Any = super().expand(batch_shape, _instance)  # type: ignore[no-untyped-call]
        if self._observed is not None:
            expanded._observed = self._observed.expand(tuple(batch_shape) + self.event_shape)
        return expanded

    def log_prob(self, value: Tensor) -> Tensor:
        if self._validate_args:
            self._validate_sample(value)
        x, a = as_real(value, self.concentration)
        if self._observed is None:
            x = x / x.sum(-1, keepdim=True)
            return _log_dirichlet(x, a, torch.ones((), dtype=torch.bool, device=x.device))
        # The missing entries, of which the sum is known, become one entry.
        observed = self._observed.expand(x.shape)
        is_last = ~observed.all(-1, keepdim=True)
        tiny = torch.finfo(x.dtype).tiny
        rest = 1 - x.masked_fill(~observed, 0.0).sum(-1, keepdim=True)
        last = torch.where(is_last, rest.clamp_min(tiny), 1.0)
        of_last = torch.where(is_last, a.masked_fill(observed, 0.0).sum(-1, keepdim=True), 1.0)
        x = torch.cat([x.masked_fill(~observed, 1.0), last], -1)
        log_prob = _log_dirichlet(
            x, torch.cat([a, of_last], -1), torch.cat([observed, is_last], -1)
        )
        return torch.where(observed.any(-1), log_prob, 0.0)

    def marginal(self, observed: Bool[Tensor, "*batch entries"]) -> "Dirichlet":
        """The observed shares."""
        shape = torch.broadcast_shapes(observed.shape, self.concentration.shape)
        marginal = Dirichlet(self.concentration.expand(shape), validate_args=False)
        marginal._observed = observed.expand(shape)
        return marginal


class OneHotCategorical(dist.OneHotCategorical):
    """One of K classes, as a vector with 1 in its entry and 0 in the others.

    Arguments:
        probs: probabilities of the classes, on the last dimension.
        logits: their logarithms, up to a constant.
    """

    _observed: Bool[Tensor, "*batch entries"] | None = None

    def expand(self, batch_shape: Any, _instance: Any = None) -> Any:
        expanded: Any = super().expand(batch_shape, _instance)  # type: ignore[no-untyped-call]
        if self._observed is not None:
            expanded._observed = self._observed.expand(tuple(batch_shape) + self.event_shape)
        return expanded

    def log_prob(self, value: Tensor) -> Tensor:
        if self._validate_args:
            self._validate_sample(value)
        if self._observed is None:
            log_prob: Tensor = (value * self.logits).sum(-1)
            return log_prob
        possible = possible_classes(value, self._observed)
        lowest = torch.finfo(self.logits.dtype).min / 4
        among: Tensor = self.logits.masked_fill(~possible, lowest).logsumexp(-1)
        return among

    def marginal(self, observed: Bool[Tensor, "*batch entries"]) -> "OneHotCategorical":
        """The observed entries: of the classes that they leave possible, any."""
        marginal: Any = OneHotCategorical(logits=self.logits, validate_args=False)
        shape = torch.broadcast_shapes(observed.shape, self.logits.shape)
        marginal = marginal.expand(shape[:-1])
        marginal._observed = observed.expand(shape)
        of_observed: OneHotCategorical = marginal
        return of_observed


def _factor_of_sum(
    lower: Float[Tensor, "*of_lower entries entries"], scale: Float[Tensor, "*of_scale entries"]
) -> Float[Tensor, "*batch entries entries"]:
    """The Cholesky factor of L L' + diag(scale^2), from a QR decomposition."""
    batch = torch.broadcast_shapes(lower.shape[:-2], scale.shape[:-1])
    parts = lower, torch.diag_embed(scale)
    both = torch.cat([part.expand(batch + part.shape[-2:]) for part in parts], -1)
    with torch.autocast(lower.device.type, enabled=False):
        upper = torch.linalg.qr(both.mT).R
    sign = torch.where(upper.diagonal(dim1=-2, dim2=-1) < 0, -1.0, 1.0).to(upper.dtype)
    factor: Tensor = upper.mT * sign.unsqueeze(-2)
    return factor


def possible_classes(
    x: Float[Tensor, "*shape"], observed: Bool[Tensor, "..."]
) -> Bool[Tensor, "*shape"]:
    """Which classes a partly observed one-hot vector leaves possible."""
    is_one = (x > 0.5) & observed
    return torch.where(is_one.any(-1, keepdim=True), is_one, ~observed)


def _log_dirichlet(
    x: Float[Tensor, "*shape"], a: Float[Tensor, "*shape"], counted: Bool[Tensor, "..."]
) -> Tensor:
    """The log-density of the entries that count, which sum to one."""
    total = torch.where(counted, a, 0.0).sum(-1, keepdim=True)
    tiny = torch.finfo(x.dtype).tiny
    log_x = log_of(x)
    divergence = deviance(a, log_of(total) + log_x, a - total * x)
    each = log_of(a) - stirling_remainder(a) - log_x - divergence
    each = each + torch.xlogy(a - 1, x / x.clamp_min(tiny))
    of_total = (stirling_remainder(total) - log_of(total)).squeeze(-1)
    log_prob: Tensor = torch.where(counted, each, 0.0).sum(-1) + of_total
    return log_prob
