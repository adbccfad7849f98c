"""log p(x) of the Bayesian mixture by importance sampling: what the bounds on it fall short of."""

from dataclasses import dataclass, replace
from itertools import permutations
from math import log

import torch
from jaxtyping import Float
from torch import Tensor
from torch.distributions import Dirichlet

from ...errors import InputError
from ..em import second_moments
from ..mixture import CovarianceType
from ..randomness import Randomness
from .conjugate import Posterior
from .program import locs_given, mixture_of, wishart

__all__ = ["FEWEST_EFFECTIVE", "Evidence", "log_evidence"]

FEWEST_EFFECTIVE = 50

_MOST_COMPONENTS = 7
_CHUNK = 500

_POWER = 0.6
"""Part of the data's weight that the proposal keeps: a mean-field q by itself is too narrow."""


@dataclass(frozen=True)
class Evidence:
    """An estimate of log p(x), in nats for all data.

    Attributes:
        log_evidence: the estimate.
        standard_error: that of its Monte Carlo error, by the delta method.
        effective_samples: how many draws from the posterior itself the weighted ones are worth;
            below :data:`FEWEST_EFFECTIVE`, trust neither figure.
    """

    log_evidence: float
    standard_error: float
    effective_samples: float


@torch.no_grad()
def log_evidence(
    x: Float[Tensor, "n d"], posterior: Posterior, *, num_samples: int = 10_000, seed: int = 0
) -> Evidence:
    """log p(x) = log E_q[p(x | theta) p(theta) / q(theta)], z summed out, theta drawn from q.

    What theta far from the posterior given would add is missed where no draw comes near: from a
    poor optimum the estimate is too low, by more than its standard error says.

    A mean-field posterior is narrower than the true one, and keeps to one order of the components
    where the true one is the same for each of the K! orders. The q of the formula is therefore
    that of a posterior in which data count for a little more than half, averaged over all orders.

    Arguments:
        x: data.
        posterior: from a mean-field method.
        num_samples: draws of theta.
        seed: of the draws.

    Raises:
        InputError: if there are more than seven components, whose orders are too many.
    """
    if num_samples < 2:
        raise InputError(f"num_samples is {num_samples}; it must be 2 or more")
    k = len(posterior.concentration)
    if k > _MOST_COMPONENTS:
        raise InputError(
            f"the evidence needs every order of the components: {_MOST_COMPONENTS} at most, not {k}"
        )
    proposal = _widened(posterior, _POWER)
    with Randomness(seed, x.device).drawn():
        parts = [
            _log_weights(x, proposal, min(_CHUNK, num_samples - first))
            for first in range(0, num_samples, _CHUNK)
        ]
    log_weights = torch.cat(parts)
    relative = (log_weights - log_weights.max()).exp()
    effective = (relative.sum().square() / relative.square().sum()).item()
    return Evidence(
        (log_weights.logsumexp(0) - log(num_samples)).item(),
        (1 / effective - 1 / num_samples) ** 0.5,
        effective,
    )


def _widened(posterior: Posterior, power: float) -> Posterior:
    """p(theta)^(1 - power) q(theta)^power: a weighted mean of the natural parameters."""
    prior, kind = posterior.prior, posterior.covariance_type

    def mean(of_prior: Tensor | float, of_posterior: Tensor) -> Tensor:
        return (1 - power) * of_prior + power * of_posterior

    of_prior, of_posterior = (1 - power) * prior.precision, power * posterior.precision
    precision = of_prior + of_posterior
    shift = posterior.locs - prior.loc
    between = second_moments(shift, of_prior * of_posterior / precision, kind)
    return replace(
        posterior,
        concentration=mean(prior.concentration, posterior.concentration),
        locs=prior.loc + (of_posterior / precision).unsqueeze(1) * shift,
        precision=precision,
        df=mean(prior.df, posterior.df),
        scatter=mean(prior.scatter, posterior.scatter) + between,
    )


def _log_weights(x: Tensor, posterior: Posterior, num: int) -> Tensor:
    """log p(x, theta) - log q(theta) at draws of theta; arrays start with (draw, component)."""
    prior, kind = posterior.prior, posterior.covariance_type
    k, d = posterior.locs.shape
    concentration = posterior.concentration
    ones = torch.ones_like(concentration)
    of_precision = wishart(posterior.df, posterior.scatter, kind)
    weights = Dirichlet(concentration).sample((num,))
    precision = of_precision.sample((num,))
    if kind == "tied":
        precision = precision.unsqueeze(1)
    locs = locs_given(posterior.locs, posterior.precision, precision, kind).sample()

    log_prior = (
        Dirichlet(prior.concentration * ones).log_prob(weights)
        + wishart(prior.df * ones[0], prior.scatter, kind).log_prob(precision).sum(-1)
        + locs_given(prior.loc, prior.precision * ones, precision, kind).log_prob(locs).sum(-1)
    )
    # Entry (draw, i, j): log q of the i-th component that was drawn, were it the j-th of q.
    of_pairs = locs_given(posterior.locs, posterior.precision, precision.unsqueeze(2), kind)
    as_others = of_pairs.log_prob(locs.unsqueeze(2)) + concentration * weights.log().unsqueeze(2)
    log_q = concentration.sum().lgamma() - concentration.lgamma().sum() - weights.log().sum(-1)
    if kind == "tied":
        log_q = log_q + of_precision.log_prob(precision.squeeze(1))
    else:
        as_others = as_others + of_precision.log_prob(precision.unsqueeze(2))
    orders = torch.tensor(list(permutations(range(k))), device=x.device)
    of_orders = as_others[:, torch.arange(k, device=x.device), orders].sum(-1)
    log_q = log_q + of_orders.logsumexp(-1) - log(len(orders))

    own: CovarianceType = kind
    if kind == "tied":
        own, precision = "full", precision.expand(num, k, d, d)
    flat = mixture_of(weights.flatten(), locs.flatten(0, 1), precision.flatten(0, 1), own)
    log_likelihood = torch.zeros_like(log_q)
    for chunk in x.split(flat.chunk_size):
        log_joint = flat.log_joint(chunk.to(locs)).view(-1, num, k)
        log_likelihood += log_joint.logsumexp(-1).sum(0)
    log_weights: Tensor = log_likelihood + log_prior - log_q
    return log_weights
