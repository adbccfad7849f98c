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

from ..errors import InputError
from .climb import State
from .mixture import CovarianceType, Mixture

__all__ = [
    "Iteration",
    "Statistics",
    "em",
    "expectation",
    "floor_of",
    "floored_cholesky",
    "iterations",
    "maximisation",
    "monte_carlo_em",
    "second_moments",
    "summarise",
]

_CHUNK_SIZE = 1024
"""Data in a chunk when q is given."""


@dataclass(frozen=True)
class Statistics:
    """Sufficient statistics of data weighted by q, for the M-step.

    Attributes:
        counts: n_k = sum_n q_nk.
        means: sum_n q_nk x_n / n_k; a centre of all data where n_k is 0.
        scatters: sum_n q_nk (x_n - means_k) (x_n - means_k)^T, of shape ``(K, d, d)`` if the
            covariance type is full; its sum over k ``(d, d)`` if tied; its diagonal ``(K, d)`` if
            diag; its trace ``(K,)`` if spherical.
        log_normaliser: sum_n log sum_k exp(log_joint_nk) if q follows from Bayes' rule, which is
            then the log-likelihood in nats; 0 for any other q.
        covariance_type: full, tied, diag or spherical.
    """

    counts: Float[Tensor, "k"]
    means: Float[Tensor, "k d"]
    scatters: Float[Tensor, "..."]
    log_normaliser: Float[Tensor, ""]
    covariance_type: CovarianceType


@torch.no_grad()
def expectation(x: Float[Tensor, "n d"], mixture: Mixture) -> Statistics:
    """The E-step, q_nk = p(z = k | x_n), with statistics summed over data.

    It processes data in chunks and keeps only sums, so that no array has the size of N x K.
    Chunks in single precision are converted to double.
    """
    sums = _Sums(mixture.num_components, mixture.centre, mixture.covariance_type)
    for chunk in x.split(mixture.chunk_size):
        points = chunk.to(mixture.locs.dtype)
        log_joint = mixture.log_joint(points)
        log_normaliser = log_joint.logsumexp(1, keepdim=True)
        sums.add(points, log_joint.sub_(log_normaliser).exp_(), log_normaliser)
    return sums.statistics()


@torch.no_grad()
def summarise(
    x: Float[Tensor, "n d"], log_q: Float[Tensor, "n k"], covariance_type: CovarianceType
) -> Statistics:
    """Statistics of the data under any q."""
    sums = _Sums(log_q.shape[1], x.mean(0).to(log_q), covariance_type)
    for points, part in zip(x.split(_CHUNK_SIZE), log_q.split(_CHUNK_SIZE), strict=True):
        sums.add(points.to(log_q), part.exp(), part.new_zeros(()))
    return sums.statistics()


class _Sums:
    """Moments about a centre, accumulated over chunks."""

    def __init__(self, k: int, centre: Tensor, covariance_type: CovarianceType) -> None:
        d = len(centre)
        self._type = covariance_type
        self._centre = centre
        zeros = centre.new_zeros
        self._counts, self._log_normaliser = zeros(k), zeros(())
        self._first = zeros(k, d)
        second = {"full": (k * d, d), "tied": (d, d), "diag": (k, d), "spherical": (k, d)}
        self._second = zeros(*second[self._type])

    def add(self, x: Tensor, q: Tensor, log_normaliser: Tensor) -> None:
        x = x - self._centre
        self._counts += q.sum(0)
        self._log_normaliser += log_normaliser.sum()
        self._first.addmm_(q.mT, x)
        if self._type == "full":
            weighted = (q.unsqueeze(2) * x.unsqueeze(1)).view(len(x), -1)
            self._second.addmm_(weighted.mT, x)
        elif self._type == "tied":
            self._second.addmm_(x.mT, x)
        else:
            self._second.addmm_(q.mT, x.square())

    def statistics(self) -> Statistics:
        k, d = self._first.shape
        counts = self._counts
        shift = self._first / counts.clamp_min(torch.finfo(counts.dtype).tiny).unsqueeze(1)
        second = self._second
        if self._type == "full":
            second = second.view(k, d, d)
        elif self._type == "spherical":
            second = second.sum(1)
        scatters = second - second_moments(shift, counts, self._type)
        return Statistics(
            counts,
            self._centre + shift,
            scatters,
            self._log_normaliser,
            self._type,
        )


def second_moments(
    values: Float[Tensor, "k d"], weights: Float[Tensor, "k"], covariance_type: CovarianceType
) -> Float[Tensor, "..."]:
    """weights_k values_k values_k^T, in the shape of a scatter of that covariance type."""
    if covariance_type in ("full", "tied"):
        outer = weights.view(-1, 1, 1) * values.unsqueeze(2) * values.unsqueeze(1)
        return outer if covariance_type == "full" else outer.sum(0)
    squares = weights.unsqueeze(1) * values.square()
    return squares if covariance_type == "diag" else squares.sum(1)


def floor_of(x: Float[Tensor, "n d"], covariance_floor: float) -> Float[Tensor, "d"]:
    """The smallest variance allowed in each column: ``covariance_floor`` times that of the data."""
    return covariance_floor * x.double().var(0, correction=0)


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
    x: Float[Tensor, "n d"], start: Mixture, floor: Float[Tensor, "d"]
) -> Iterator[Iteration]:
    """Yield rounds of EM without end."""
    mixture = start
    while True:
        statistics = expectation(x, mixture)
        updated, degenerate = maximisation(statistics, floor, mixture)
        yield Iteration(mixture, statistics, updated, degenerate)
        mixture = updated


def em(
    x: Float[Tensor, "n d"],
    start: Mixture,
    floor: Float[Tensor, "d"],
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
        InputError: if max_iter is below 0.
    """
    if max_iter < 0:
        raise InputError(f"max_iter is {max_iter}; it must be 0 or more")
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
    x: Float[Tensor, "n d"],
    start: Mixture,
    floor: Float[Tensor, "d"],
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
        InputError: if num_samples or max_iter is below 1.
    """
    if num_samples < 1 or max_iter < 1:
        raise InputError(
            f"num_samples and max_iter must be 1 or more; got {num_samples} and {max_iter}"
        )
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
