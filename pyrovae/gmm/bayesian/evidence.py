"""The evidence log p(x) of the Bayesian mixture, by importance sampling."""

import warnings
from dataclasses import dataclass, fields, replace
from math import lgamma, log

import torch
from jaxtyping import Float
from torch import Tensor
from torch.distributions import Dirichlet

from ...arguments import TensorLike, as_instance, as_whole
from ...errors import InputError
from ...infer.estimators.pareto import MAX_PARETO_K, HeavyTailWarning, pareto_k
from ..moments import second_moments
from ..points import as_points
from ..randomness import Randomness, as_seed
from .conjugate import Posterior, Prior
from .program import locs_given_precision, make_mixture, wishart

__all__ = ["MIN_EFFECTIVE_SAMPLES", "Evidence", "log_evidence"]

MIN_EFFECTIVE_SAMPLES = 50

_MAX_COMPONENTS = 7
_CHUNK_SIZE = 500

_DATA_POWERS = (0.0, 0.3, 0.6)
"""Weights of the data in the parts of the proposal, from the prior on. They are below 1, because a
mean-field q is too narrow."""


@dataclass(frozen=True)
class Evidence:
    """An estimate of log p(x), in nats for all data.

    Attributes:
        log_evidence: the estimate.
        standard_error: standard error of the estimate, by the delta method; too small unless
            ``is_reliable``.
        effective_samples: effective sample size of the importance weights, (sum w)^2 / sum w^2.
        pareto_k: shape of the tail of the weights, by
            :func:`~pyrovae.infer.estimators.pareto.pareto_k`; NaN for fewer than 46 draws.
    """

    log_evidence: float
    standard_error: float
    effective_samples: float
    pareto_k: float

    @property
    def is_reliable(self) -> bool:
        """Whether Pareto k is known and at most 0.5, and there are 50 effective samples."""
        return self.pareto_k <= MAX_PARETO_K and self.effective_samples >= MIN_EFFECTIVE_SAMPLES


@torch.no_grad()
def log_evidence(
    x: TensorLike, posterior: Posterior, *, num_samples: int = 10_000, seed: int = 0
) -> Evidence:
    """Estimate log p(x) = log E_q[p(x | theta) p(theta) / q(theta)], with z summed out.

    A mean-field posterior is narrower than the true one, and covers one of its modes. So one third
    of the draws comes from the prior, and one each from posteriors that give the data a weight of
    0.3 and 0.6. With the prior in q, no weight exceeds 3 p(x | theta) (a defensive mixture,
    Hesterberg 1995). The true posterior is the same for each of the K! orders of the components, so
    q is averaged over all orders.

    A :class:`~pyrovae.infer.estimators.pareto.HeavyTailWarning` says if the draws are too few, or
    too far from the posterior, for the standard error to be trusted. Many data with a poor optimum
    can still deceive it: draws near the given posterior miss what other theta would add.

    Arguments:
        x: data.
        posterior: posterior from a mean-field method.
        num_samples: draws of theta.
        seed: seed of the draws.

    Raises:
        InputError: if there are more than seven components, because K! orders are then too many.
    """
    x = as_points(x, missing=True)
    as_instance("posterior", posterior, Posterior, "a Posterior, such as coordinate_ascent gives")
    if x.shape[1] != posterior.locs.shape[1]:
        raise InputError(
            f"the data have {x.shape[1]} columns; the posterior has {posterior.locs.shape[1]} "
            "dimensions"
        )
    num_samples, seed = as_whole("num_samples", num_samples, 2), as_seed(seed)
    k = len(posterior.concentration)
    if k > _MAX_COMPONENTS:
        raise InputError(
            f"the evidence sums over all orders of {k} components; use {_MAX_COMPONENTS} at most"
        )
    rungs = [_widen(posterior, power) for power in _DATA_POWERS]
    with Randomness(seed, x.device).use():
        parts = [
            _draw_log_weights(x, rungs, min(_CHUNK_SIZE, num_samples - first))
            for first in range(0, num_samples, _CHUNK_SIZE)
        ]
    log_weights = torch.cat(parts)
    effective = (1 / log_weights.softmax(0).square().sum()).item()
    evidence = Evidence(
        (log_weights.logsumexp(0) - log(num_samples)).item(),
        (max(num_samples / effective - 1, 0.0) / (num_samples - 1)) ** 0.5,
        effective,
        pareto_k(log_weights.unsqueeze(0)).item(),
    )
    if not evidence.is_reliable:
        warnings.warn(
            f"the standard error of log p(x) is too small: its {num_samples:,} draws have "
            f"{effective:.1f} effective samples and a Pareto k of {evidence.pareto_k:.2f}, where "
            f"{MIN_EFFECTIVE_SAMPLES} or more and at most {MAX_PARETO_K} are needed; draw more "
            "(num_samples), or start from a better optimum",
            HeavyTailWarning,
            stacklevel=3,
        )
    return evidence


def _widen(posterior: Posterior, power: float) -> Posterior:
    """Make p(theta)^(1 - power) q(theta)^power, a weighted mean of the natural parameters."""
    prior, kind = posterior.prior, posterior.covariance_type

    def mean(prior_value: Tensor | float, value: Tensor) -> Tensor:
        return (1 - power) * prior_value + power * value

    prior_part, posterior_part = (1 - power) * prior.precision, power * posterior.precision
    precision = prior_part + posterior_part
    shift = posterior.locs - prior.loc
    between = second_moments(shift, prior_part * posterior_part / precision, kind)
    return replace(
        posterior,
        concentration=mean(prior.concentration, posterior.concentration),
        locs=prior.loc + (posterior_part / precision).unsqueeze(1) * shift,
        precision=precision,
        df=mean(prior.df, posterior.df),
        scatter=mean(prior.scatter, posterior.scatter) + between,
    )


@dataclass(frozen=True)
class _Draws:
    """Draws of theta; the first dimensions of all arrays are (draw, component).

    ``precision`` is of shape (draw, 1, d, d) if covariances are tied.
    """

    weights: Tensor
    precision: Tensor
    locs: Tensor

    @classmethod
    def of(cls, q: Posterior, num: int) -> "_Draws":
        kind = q.covariance_type
        weights = Dirichlet(q.concentration).sample((num,))
        precision = wishart(q.df, q.scatter, kind).sample((num,))
        if kind == "tied":
            precision = precision.unsqueeze(1)
        locs = locs_given_precision(q.locs, q.precision, precision, kind).sample()
        return cls(weights, precision, locs)


def _draw_log_weights(x: Tensor, rungs: list[Posterior], num: int) -> Tensor:
    """Draw theta from the mixture of all rungs, and compute log p(x, theta) - log q(theta)."""
    prior, kind = rungs[0].prior, rungs[0].covariance_type
    chosen = torch.randint(len(rungs), (num,)).bincount(minlength=len(rungs)).tolist()
    parts = [_Draws.of(rung, each) for rung, each in zip(rungs, chosen, strict=True) if each]
    theta = _Draws(*(torch.cat([getattr(part, f.name) for part in parts]) for f in fields(_Draws)))
    log_q = torch.stack([_log_q(theta, rung) for rung in rungs]).logsumexp(0) - log(len(rungs))
    k, d = theta.locs.shape[1:]
    drawn_kind, precision = kind, theta.precision
    if kind == "tied":
        drawn_kind, precision = "full", precision.expand(num, k, d, d)
    flat = make_mixture(
        theta.weights.flatten(), theta.locs.flatten(0, 1), precision.flatten(0, 1), drawn_kind
    )
    log_likelihood = torch.zeros_like(log_q)
    for chunk in x.split(flat.chunk_size):
        log_joint = flat.log_joint(chunk.to(theta.locs)).view(-1, num, k)
        log_likelihood += log_joint.logsumexp(-1).sum(0)
    log_weights: Tensor = log_likelihood + _log_prior(theta, prior) - log_q
    return log_weights


def _log_prior(theta: _Draws, prior: Prior) -> Float[Tensor, "draws"]:
    kind, ones = prior.covariance_type, torch.ones_like(theta.weights[0])
    concentration, precision = prior.concentration * ones, prior.precision * ones
    log_prior: Tensor = (
        Dirichlet(concentration).log_prob(theta.weights)
        + wishart(prior.df * ones[0], prior.scatter, kind).log_prob(theta.precision).sum(-1)
        + locs_given_precision(prior.loc, precision, theta.precision, kind)
        .log_prob(theta.locs)
        .sum(-1)
    )
    return log_prior


def _log_q(theta: _Draws, q: Posterior) -> Float[Tensor, "draws"]:
    """log q(theta), averaged over all orders of the components of q."""
    kind, concentration, precision = q.covariance_type, q.concentration, theta.precision
    log_weights = theta.weights.log()
    # Entry (draw, i, j): log q of the i-th drawn component if it is the j-th component of q.
    log_pairs = locs_given_precision(q.locs, q.precision, precision.unsqueeze(2), kind).log_prob(
        theta.locs.unsqueeze(2)
    ) + concentration * log_weights.unsqueeze(2)
    log_q = concentration.sum().lgamma() - concentration.lgamma().sum() - log_weights.sum(-1)
    of_precision = wishart(q.df, q.scatter, kind)
    if kind == "tied":
        log_q = log_q + of_precision.log_prob(precision.squeeze(1))
    else:
        log_pairs = log_pairs + of_precision.log_prob(precision.unsqueeze(2))
    k = len(concentration)
    log_sum: Tensor = log_q + _log_permanent(log_pairs) - lgamma(k + 1)
    return log_sum


def _log_permanent(log_entries: Float[Tensor, "draws k k"]) -> Float[Tensor, "draws"]:
    """log of the sum, over all orders of the columns, of the product of entries.

    The sum over the first rows and a set of columns follows from the sums over one column less.
    """
    k = log_entries.shape[-1]
    sums = {0: log_entries.new_zeros(len(log_entries))}
    for row in range(k):
        sums = {
            chosen: torch.stack(
                [
                    sums[chosen - 2**column] + log_entries[:, row, column]
                    for column in range(k)
                    if chosen & 2**column
                ]
            ).logsumexp(0)
            for chosen in range(2**k)
            if chosen.bit_count() == row + 1
        }
    return sums[2**k - 1]
