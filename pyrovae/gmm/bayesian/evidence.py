"""The evidence log p(x) of the Bayesian mixture, by importance sampling."""

from dataclasses import dataclass, replace
from itertools import permutations
from math import log

import torch
from jaxtyping import Float
from torch import Tensor
from torch.distributions import Dirichlet

from ...errors import InputError
from ..mixture import CovarianceType
from ..moments import second_moments
from ..randomness import Randomness
from .conjugate import Posterior
from .program import locs_given_precision, make_mixture, wishart

__all__ = ["MIN_EFFECTIVE_SAMPLES", "Evidence", "log_evidence"]

MIN_EFFECTIVE_SAMPLES = 50

_MAX_COMPONENTS = 7
_CHUNK_SIZE = 500

_DATA_POWER = 0.6
"""Weight of the data in the proposal; below 1, because a mean-field q is too narrow."""


@dataclass(frozen=True)
class Evidence:
    """An estimate of log p(x), in nats for all data.

    Attributes:
        log_evidence: the estimate.
        standard_error: standard error of the estimate, by the delta method.
        effective_samples: effective sample size of the importance weights; below
            :data:`MIN_EFFECTIVE_SAMPLES`, trust neither the estimate nor its standard error.
    """

    log_evidence: float
    standard_error: float
    effective_samples: float


@torch.no_grad()
def log_evidence(
    x: Float[Tensor, "n d"], posterior: Posterior, *, num_samples: int = 10_000, seed: int = 0
) -> Evidence:
    """Estimate log p(x) = log E_q[p(x | theta) p(theta) / q(theta)], with z summed out.

    Draws near the given posterior miss what other theta would add. From a poor optimum the estimate
    is therefore too low, by more than its standard error shows.

    A mean-field posterior is narrower than the true one. It also covers one order of the
    components, while the true one is the same for each of the K! orders. So q in the formula is a
    posterior that gives the data a weight of 0.6, averaged over all orders.

    Arguments:
        x: data.
        posterior: posterior from a mean-field method.
        num_samples: draws of theta.
        seed: seed of the draws.

    Raises:
        InputError: if there are more than seven components, because K! orders are then too many.
    """
    if num_samples < 2:
        raise InputError(f"num_samples is {num_samples}; it must be 2 or more")
    k = len(posterior.concentration)
    if k > _MAX_COMPONENTS:
        raise InputError(
            f"the evidence sums over all orders of {k} components; use {_MAX_COMPONENTS} at most"
        )
    proposal = _widen(posterior, _DATA_POWER)
    with Randomness(seed, x.device).use():
        parts = [
            _draw_log_weights(x, proposal, min(_CHUNK_SIZE, num_samples - first))
            for first in range(0, num_samples, _CHUNK_SIZE)
        ]
    log_weights = torch.cat(parts)
    relative = (log_weights - log_weights.max()).exp()
    effective = (relative.sum().square() / relative.square().sum()).item()
    return Evidence(
        (log_weights.logsumexp(0) - log(num_samples)).item(),
        (1 / effective - 1 / num_samples) ** 0.5,
        effective,
    )


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


def _draw_log_weights(x: Tensor, posterior: Posterior, num: int) -> Tensor:
    """Draw theta from q, and compute log p(x, theta) - log q(theta)."""
    # The first dimensions of all arrays are (draw, component).
    prior, kind = posterior.prior, posterior.covariance_type
    k, d = posterior.locs.shape
    concentration = posterior.concentration
    ones = torch.ones_like(concentration)
    precision_distribution = wishart(posterior.df, posterior.scatter, kind)
    weights = Dirichlet(concentration).sample((num,))
    precision = precision_distribution.sample((num,))
    if kind == "tied":
        precision = precision.unsqueeze(1)
    locs = locs_given_precision(posterior.locs, posterior.precision, precision, kind).sample()

    log_prior = (
        Dirichlet(prior.concentration * ones).log_prob(weights)
        + wishart(prior.df * ones[0], prior.scatter, kind).log_prob(precision).sum(-1)
        + locs_given_precision(prior.loc, prior.precision * ones, precision, kind)
        .log_prob(locs)
        .sum(-1)
    )
    # Entry (draw, i, j): log q of the i-th drawn component if it is the j-th component of q.
    pairwise_locs = locs_given_precision(
        posterior.locs, posterior.precision, precision.unsqueeze(2), kind
    )
    log_q_pairs = pairwise_locs.log_prob(
        locs.unsqueeze(2)
    ) + concentration * weights.log().unsqueeze(2)
    log_q = concentration.sum().lgamma() - concentration.lgamma().sum() - weights.log().sum(-1)
    if kind == "tied":
        log_q = log_q + precision_distribution.log_prob(precision.squeeze(1))
    else:
        log_q_pairs = log_q_pairs + precision_distribution.log_prob(precision.unsqueeze(2))
    orders = torch.tensor(list(permutations(range(k))), device=x.device)
    log_q_orders = log_q_pairs[:, torch.arange(k, device=x.device), orders].sum(-1)
    log_q = log_q + log_q_orders.logsumexp(-1) - log(len(orders))

    drawn_kind: CovarianceType = kind
    if kind == "tied":
        drawn_kind, precision = "full", precision.expand(num, k, d, d)
    flat = make_mixture(weights.flatten(), locs.flatten(0, 1), precision.flatten(0, 1), drawn_kind)
    log_likelihood = torch.zeros_like(log_q)
    for chunk in x.split(flat.chunk_size):
        log_joint = flat.log_joint(chunk.to(locs)).view(-1, num, k)
        log_likelihood += log_joint.logsumexp(-1).sum(0)
    log_weights: Tensor = log_likelihood + log_prior - log_q
    return log_weights
