"""Distributions of counts, accurate for large counts and concentrations.

Pyro's are not in single precision; :mod:`pyrovae.distributions.lgamma` explains why, and defines
D (:func:`deviance`) and R (:func:`stirling_remainder`).
"""

from typing import Any

import pyro.distributions as dist
import torch
from torch import Tensor
from torch.distributions import constraints
from torch.nn.functional import logsigmoid

from .lgamma import as_real, deviance, log_of, stirling_remainder

__all__ = [
    "Bernoulli",
    "BetaBinomial",
    "Binomial",
    "GammaPoisson",
    "Geometric",
    "NegativeBinomial",
    "Poisson",
    "ZeroInflatedNegativeBinomial",
    "ZeroInflatedPoisson",
    "log_compound",
]


class Poisson(dist.Poisson):
    """p(x) = rate^x exp(-rate) / x!, so that log p = -D(x, rate) - R(x)."""

    def log_prob(self, value: Tensor) -> Tensor:
        if self._validate_args:
            self._validate_sample(value)
        x, rate = as_real(value, self.rate)
        return -deviance(x, log_of(rate), x - rate) - stirling_remainder(x)


class Bernoulli(dist.Bernoulli):  # type: ignore[misc]
    """p(1) = p, p(0) = 1 - p.

    torch raises probabilities below 10^-7 to that; here they count as they are.
    """

    def log_prob(self, value: Tensor) -> Tensor:
        if _has_logits(self):
            of_logits: Tensor = super().log_prob(value)
            return of_logits
        if self._validate_args:
            self._validate_sample(value)
        x, probs = as_real(value, self._param)
        _, _, log_p, log_q = _odds(probs, False)
        return x * log_p + (1 - x) * log_q


class Geometric(dist.Geometric):
    """p(x) = (1 - p)^x p for x = 0, 1, ..., also for a p that rounds to 1."""

    def log_prob(self, value: Tensor) -> Tensor:
        if self._validate_args:
            self._validate_sample(value)
        is_logits = "logits" in self.__dict__
        x, param = as_real(value, self.logits if is_logits else self.probs)
        _, _, log_p, log_q = _odds(param, is_logits)
        return x * log_q + log_p


class Binomial(dist.Binomial):
    """p(x) = C(n, x) p^x (1 - p)^(n - x).

    log p = R(n) - R(x) - R(n - x) - D(x, n p) - D(n - x, n (1 - p)).
    """

    def log_prob(self, value: Tensor) -> Tensor:
        if self._validate_args:
            self._validate_sample(value)
        x, n, param = as_real(value, self.total_count, self._param)
        p, q, log_p, log_q = _odds(param, _has_logits(self))
        excess = x * q - (n - x) * p
        log_n = log_of(n)
        divergence = deviance(x, log_n + log_p, excess) + deviance(n - x, log_n + log_q, -excess)
        log_choose = stirling_remainder(n) - stirling_remainder(x) - stirling_remainder(n - x)
        return log_choose - divergence


class NegativeBinomial(dist.NegativeBinomial):  # type: ignore[misc]
    """p(x) = G(r + x) / (G(r) x!) p^x (1 - p)^r, with total_count r and the gamma function G.

    With n = r + x, log p = R(n) - R(r) - R(x) - D(x, n p) - D(r, n (1 - p)) + log(r / n). As r
    grows at a constant mean, it becomes the Poisson.
    """

    def log_prob(self, value: Tensor) -> Tensor:
        if self._validate_args:
            self._validate_sample(value)
        x, r, param = as_real(value, self.total_count, self._param)
        return _log_negative_binomial(x, r, *_odds(param, _has_logits(self)))


class GammaPoisson(dist.GammaPoisson):
    """A Poisson whose rate is Gamma(concentration, rate): a negative binomial.

    Its total_count is the concentration, and its probability 1 / (1 + rate).
    """

    def log_prob(self, value: Tensor) -> Tensor:
        if self._validate_args:
            self._validate_sample(value)
        x, r, rate = as_real(value, self.concentration, self.rate)
        p, q = 1 / (1 + rate), rate / (1 + rate)
        return _log_negative_binomial(x, r, p, q, -rate.log1p(), log_of(q))


class BetaBinomial(dist.BetaBinomial):
    """A binomial whose probability is Beta(concentration1, concentration0)."""

    def log_prob(self, value: Tensor) -> Tensor:
        if self._validate_args:
            self._validate_sample(value)
        arguments = value, self.total_count, self.concentration1, self.concentration0
        x, n, a, b = as_real(*arguments)
        return log_compound(torch.stack([x, n - x], -1), torch.stack([a, b], -1))


class _ZeroInflated(dist.ZeroInflatedDistribution):
    """p(x) = gate [x = 0] + (1 - gate) base(x).

    Unlike Pyro's, which changes its formula once it has drawn samples, the density is always
    computed from the form of the gate that was given.
    """

    support = constraints.nonnegative_integer  # of the class, too: `pyrovae likelihoods` reads it

    def expand(self, batch_shape: Any, _instance: Any = None) -> Any:
        new: Any = self._get_checked_instance(type(self), _instance)  # type: ignore[no-untyped-call]
        name = "gate_logits" if self._has_gate_logits() else "gate"
        gate = getattr(self, name).expand(torch.Size(batch_shape))
        base = self.base_dist.expand(batch_shape)
        dist.ZeroInflatedDistribution.__init__(new, base, **{name: gate}, validate_args=False)
        new._gate_name = name
        new._validate_args = self._validate_args
        return new

    def log_prob(self, value: Tensor) -> Tensor:
        if self._validate_args:
            self._validate_sample(value)
        log_base = self.base_dist.log_prob(value)
        if self._has_gate_logits():
            (gate_logits,) = as_real(self.gate_logits)
            log_gate, log_rest = logsigmoid(gate_logits), logsigmoid(-gate_logits)
        else:
            (gate,) = as_real(self.gate)
            log_gate, log_rest = log_of(gate), torch.log1p(-gate.clamp_max(_below_one(gate)))
        elsewhere = log_rest + log_base
        return torch.where(value == 0, torch.logaddexp(log_gate, elsewhere), elsewhere)

    def _has_gate_logits(self) -> bool:
        return bool(self._gate_name == "gate_logits")


class ZeroInflatedPoisson(_ZeroInflated):
    """A Poisson with additional zeros, of probability gate."""

    arg_constraints = dist.ZeroInflatedPoisson.arg_constraints

    def __init__(
        self,
        rate: Tensor,
        *,
        gate: Tensor | None = None,
        gate_logits: Tensor | None = None,
        validate_args: bool | None = None,
    ) -> None:
        self._gate_name = "gate" if gate_logits is None else "gate_logits"
        base: Any = Poisson(rate, validate_args=False)  # type: ignore[no-untyped-call]
        base._validate_args = validate_args
        super().__init__(  # type: ignore[no-untyped-call]
            base, gate=gate, gate_logits=gate_logits, validate_args=validate_args
        )

    @property
    def rate(self) -> Tensor:
        rate: Tensor = self.base_dist.rate
        return rate


class ZeroInflatedNegativeBinomial(_ZeroInflated):
    """A negative binomial with additional zeros, of probability gate."""

    # Without probs, whose constraint refuses logits with probability 1 in single precision.
    arg_constraints = {  # noqa: RUF012
        name: constraint
        for name, constraint in dist.ZeroInflatedNegativeBinomial.arg_constraints.items()
        if name != "probs"
    }

    def __init__(
        self,
        total_count: Tensor,
        *,
        probs: Tensor | None = None,
        logits: Tensor | None = None,
        gate: Tensor | None = None,
        gate_logits: Tensor | None = None,
        validate_args: bool | None = None,
    ) -> None:
        self._gate_name = "gate" if gate_logits is None else "gate_logits"
        base: Any = NegativeBinomial(total_count, probs, logits, validate_args=False)
        base._validate_args = validate_args
        super().__init__(  # type: ignore[no-untyped-call]
            base, gate=gate, gate_logits=gate_logits, validate_args=validate_args
        )

    @property
    def total_count(self) -> Tensor:
        total_count: Tensor = self.base_dist.total_count
        return total_count

    @property
    def probs(self) -> Tensor:
        probs: Tensor = self.base_dist.probs
        return probs

    @property
    def logits(self) -> Tensor:
        logits: Tensor = self.base_dist.logits
        return logits


def log_compound(x: Tensor, a: Tensor, observed: Tensor | None = None) -> Tensor:
    """The log-mass of a Dirichlet-multinomial, given the total of x.

    With n = sum x_d, A = sum a_d, s_d = x_d + a_d and f = n / (n + A), it is

        R(n) + R(A) - R(n + A) + log((n + A) / A)
            + sum_d [R(s_d) - R(a_d) - R(x_d) - log(s_d / a_d)]
            - sum_d [D(x_d, f s_d) + D(a_d, (1 - f) s_d)]

    Arguments:
        x: counts; 0 in cells that are not observed.
        a: concentrations.
        observed: which cells are observed; the others are left out.
    """
    x, a = as_real(x, a)
    seen = a if observed is None else torch.where(observed, a, 0.0)
    n, total = x.sum(-1, keepdim=True), seen.sum(-1, keepdim=True)
    both = n + total
    each = x + a
    excess = x * (total / both) - a * (n / both)
    log_each, log_both = log_of(each), log_of(both)
    divergence = deviance(x, log_each + log_of(n) - log_both, excess)
    divergence = divergence + deviance(a, log_each + log_of(total) - log_both, -excess)
    rest = stirling_remainder(each) - stirling_remainder(a) - stirling_remainder(x)
    terms = rest - torch.log1p(x / a) - divergence
    if observed is not None:
        terms = torch.where(observed, terms, 0.0)
    of_totals = stirling_remainder(n) + stirling_remainder(total) - stirling_remainder(both)
    return terms.sum(-1) + (of_totals + torch.log1p(n / total)).squeeze(-1)


def _log_negative_binomial(
    x: Tensor, r: Tensor, p: Tensor, q: Tensor, log_p: Tensor, log_q: Tensor
) -> Tensor:
    n = r + x
    excess = x * q - r * p
    log_n = log_of(n)
    divergence = deviance(x, log_n + log_p, excess) + deviance(r, log_n + log_q, -excess)
    rest = stirling_remainder(n) - stirling_remainder(r) - stirling_remainder(x)
    return rest - torch.log1p(x / r.clamp_min(torch.finfo(r.dtype).tiny)) - divergence


def _odds(param: Tensor, is_logits: bool) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """p, 1 - p, log p and log(1 - p)."""
    if is_logits:
        return param.sigmoid(), (-param).sigmoid(), logsigmoid(param), logsigmoid(-param)
    p = param.clamp_max(_below_one(param))
    return p, 1 - p, log_of(p), torch.log1p(-p)


def _below_one(p: Tensor) -> float:
    """The highest number below 1."""
    return 1 - torch.finfo(p.dtype).eps / 2


def _has_logits(p: Any) -> bool:
    """Whether a distribution was given logits, rather than probabilities."""
    return p.__dict__.get("logits") is p._param
