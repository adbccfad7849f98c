"""EM: exact maximisation of the ELBO, in turn over q (Bayes' rule) and over the parameters.

For any q,  log p(x) = ELBO(q, theta) + KL(q || p(z | x, theta))  with

    ELBO(q, theta) = sum_k q_k log p(x, z = k; theta) - sum_k q_k log q_k.

The E-step sets q to p(z | x, theta), which closes the gap. The M-step maximises the ELBO over
theta in closed form. As log p(x) is at least the ELBO, it never falls (Dempster, Laird and Rubin
1977; Neal and Hinton 1998; Bishop 2006, sec. 9.4).
"""

from collections.abc import Iterator
from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

from ..arguments import TensorLike, as_real, as_whole
from .climb import State
from .missing import has_missing
from .mixture import Mixture, as_mixture
from .moments import Statistics, expectation, summarise
from .points import as_floor, as_points, check_complete, column_moments
from .randomness import as_seed

__all__ = [
    "Iteration",
    "em",
    "floor_of",
    "floored_cholesky",
    "iterations",
    "maximisation",
    "mean_and_covariance",
    "monte_carlo_em",
]


_MIN_SHARE = 1e-9
_MAX_ROUNDS = 200
_MIN_RISE = 1e-9
"""The floor, the most rounds and the least rise, in nats per datum, of the EM of one normal."""


def floor_of(
    x: TensorLike, covariance_floor: float, weights: Float[Tensor, "n"] | None = None
) -> Float[Tensor, "d"]:
    """The smallest variance allowed in each column: ``covariance_floor`` times that of the data.

    Raises:
        InputError: if the data are not points, or ``covariance_floor`` is not positive.
    """
    x = as_points(x, missing=True)
    covariance_floor = as_real("covariance_floor", covariance_floor, above=0)
    return covariance_floor * column_moments(x, weights)[1]


def mean_and_covariance(
    x: Float[Tensor, "n d"], weights: Float[Tensor, "n"] | None = None
) -> tuple[Float[Tensor, "d"], Float[Tensor, "d d"]]:
    """Mean of the data, and their covariance with divisor n - 1; by EM if entries are missing.

    Arguments:
        x: data.
        weights: how many times each datum counts; once unless given.
    """
    loc, variance = column_moments(x, weights)
    start = Mixture(loc.new_zeros(1), loc.unsqueeze(0), variance.sqrt().diag_embed()[None], "full")
    statistics = expectation(x, start, weights)
    if has_missing(x):
        floor = _MIN_SHARE * variance
        for _ in range(_MAX_ROUNDS):
            mixture, _ = maximisation(statistics, floor)
            moved = expectation(x, mixture, weights)
            rise = moved.log_normaliser - statistics.log_normaliser
            statistics = moved
            if rise < _MIN_RISE * statistics.counts.sum():
                break
    total = statistics.counts.sum()
    divisor = torch.where(total >= 2, total - 1, total)  # weights may add up to less than one
    return statistics.means[0], statistics.scatters[0] / divisor


@torch.no_grad()
def maximisation(
    statistics: Statistics, floor: Float[Tensor, "d"], previous: Mixture | None = None
) -> tuple[Mixture, tuple[int, ...]]:
    """The M-step: the maximum of the ELBO over all mixtures with Sigma_k >= diag(floor).

        weights_k = n_k / N,   locs_k = means_k,   Sigma_k = scatter_k / n_k,

    In Sigma_k, measured in units of the floor, eigenvalues below 1 are raised to 1. This is the
    maximum under the constraint. It keeps the likelihood bounded (Hathaway 1985) and EM monotone;
    adding a constant to the diagonal would not. A component without data gets weight 0 and keeps
    its mean and covariance from the previous mixture.

    Returns:
        The mixture, and the indices of degenerate components, which are at the floor or without
        data.
    """
    n, means, kind = statistics.counts, statistics.means, statistics.covariance_type
    d = means.shape[1]
    has_data = n > 10 * torch.finfo(n.dtype).eps
    safe_counts = torch.where(has_data, n, 1.0)
    total = n.sum()
    if kind in ("full", "tied"):
        divisor = safe_counts.view(-1, 1, 1) if kind == "full" else total
        scales, at_floor = floored_cholesky(statistics.scatters / divisor, floor)
    else:
        divisor = safe_counts.unsqueeze(1) if kind == "diag" else d * safe_counts
        # A spherical covariance is above diag(floor) if it is above the largest entry.
        least = floor if kind == "diag" else floor.max()
        variances = statistics.scatters / divisor
        at_floor = variances < least
        scales = torch.maximum(variances, least).sqrt()
    if kind == "diag":
        at_floor = at_floor.any(1)
    if previous is not None:
        means = torch.where(has_data.unsqueeze(1), means, previous.locs)
        if kind != "tied":
            scales = torch.where(
                has_data.view(-1, *[1] * (scales.ndim - 1)), scales, previous.scales
            )
    mixture = Mixture((torch.where(has_data, n, 0.0) / total).log(), means, scales, kind)
    degenerate = (at_floor | ~has_data).nonzero().flatten().tolist()
    return mixture, tuple(degenerate)


def floored_cholesky(covariances: Tensor, floor: Tensor) -> tuple[Tensor, Tensor]:
    """Raise covariances to the floor; return Cholesky factors, and which had to be raised."""
    unit = floor.sqrt()
    scaled = covariances / (unit.unsqueeze(1) * unit)
    values, vectors = torch.linalg.eigh(scaled)
    at_floor = (values < 1).any(-1)
    raised = (vectors * values.clamp_min(1).unsqueeze(-2)) @ vectors.mT
    raised = raised * (unit.unsqueeze(1) * unit)
    kept = torch.where(at_floor[..., None, None], (raised + raised.mT) / 2, covariances)
    return torch.linalg.cholesky(kept), at_floor


@dataclass(frozen=True)
class Iteration:
    """One round of EM.

    Attributes:
        before: theta before the round.
        statistics: the E-step at this theta.
        after: theta after the M-step.
        degenerate: components of the new theta that are at the floor, or without data.
    """

    before: Mixture
    statistics: Statistics
    after: Mixture
    degenerate: tuple[int, ...]


def iterations(
    x: Float[Tensor, "n d"],
    start: Mixture,
    floor: Float[Tensor, "d"],
    weights: Float[Tensor, "n"] | None = None,
) -> Iterator[Iteration]:
    """Yield rounds of EM without end.

    Arguments:
        x: data, with NaN for missing entries.
        start: initial mixture.
        floor: the smallest variance allowed in each column.
        weights: how many times each datum counts; once unless given.
    """
    mixture = start
    while True:
        statistics = expectation(x, mixture, weights)
        updated, degenerate = maximisation(statistics, floor, mixture)
        yield Iteration(mixture, statistics, updated, degenerate)
        mixture = updated


def em(
    x: TensorLike,
    start: Mixture,
    floor: TensorLike,
    *,
    max_iter: int = 200,
    tol: float = 1e-9,
) -> Iterator[State]:
    """EM, with a state for each half-step; the last is an E-step, so its gap is zero.

    Arguments:
        x: data.
        start: initial mixture.
        floor: the smallest variance allowed in each column.
        max_iter: most rounds to run.
        tol: stop when a round raises the log-likelihood by less than this, in nats per datum.

    Raises:
        InputError: if max_iter is below 0, or another argument is not what is said here.
    """
    x = as_points(x, missing=True)
    start, floor = as_mixture(start, x), as_floor(floor, x)
    return _em(
        x, start, floor, as_whole("max_iter", max_iter, 0), as_real("tol", tol, finite=False)
    )


def _em(x: Tensor, start: Mixture, floor: Tensor, max_iter: int, tol: float) -> Iterator[State]:
    highest = float("-inf")
    degenerate: tuple[int, ...] = ()
    for number, step in enumerate(iterations(x, start, floor)):
        log_q = step.before.log_responsibilities(x)
        yield State("E", step.before, log_q, degenerate=degenerate)
        log_likelihood = step.statistics.log_normaliser.item() / len(x)
        if number == max_iter or log_likelihood - highest < tol:
            return
        highest, degenerate = log_likelihood, step.degenerate
        yield State("M", step.after, log_q, degenerate=degenerate)


def monte_carlo_em(
    x: TensorLike,
    start: Mixture,
    floor: TensorLike,
    *,
    num_samples: int = 10,
    max_iter: int = 100,
    seed: int = 0,
) -> Iterator[State]:
    """EM whose E-step draws z instead of computing p(z | x) (Wei and Tanner 1990).

    q is the empirical distribution of num_samples draws of z for each datum. Like any q it gives an
    ELBO that is a bound. But the gap only closes as num_samples grows, the log-likelihood may fall,
    and the parameters keep moving around a maximum. With one sample this is the stochastic EM of
    Celeux and Diebolt (1985).

    Arguments:
        x: data.
        start: initial mixture.
        floor: the smallest variance allowed in each column.
        num_samples: draws of z for each datum in a round.
        max_iter: rounds to run.
        seed: seed of the draws.

    Raises:
        InputError: if num_samples or max_iter is below 1, or another argument is not what is said
            here.
    """
    x = as_points(x, missing=True)
    start, floor = as_mixture(start, x), as_floor(floor, x)
    num_samples, max_iter = (
        as_whole("num_samples", num_samples, 1),
        as_whole("max_iter", max_iter, 1),
    )
    seed = as_seed(seed)
    check_complete(x, "monte_carlo_em")
    return _monte_carlo_em(x, start, floor, num_samples, max_iter, seed)


def _monte_carlo_em(
    x: Tensor, start: Mixture, floor: Tensor, num_samples: int, max_iter: int, seed: int
) -> Iterator[State]:
    generator = torch.Generator(x.device).manual_seed(seed)
    mixture = start
    degenerate: tuple[int, ...] = ()
    for _ in range(max_iter):
        probabilities = mixture.log_responsibilities(x).exp()
        z = torch.multinomial(probabilities, num_samples, replacement=True, generator=generator)
        counts = torch.zeros_like(probabilities).scatter_add_(1, z, probabilities.new_ones(z.shape))
        log_q = (counts / num_samples).log()
        yield State("E", mixture, log_q, degenerate=degenerate)
        statistics = summarise(x, log_q, mixture.covariance_type)
        mixture, degenerate = maximisation(statistics, floor, mixture)
        yield State("M", mixture, log_q, degenerate=degenerate)
