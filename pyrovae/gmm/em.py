"""EM: the bound climbed by exact steps, first in q (Bayes' rule), then in the parameters.

For any q,  log p(x) = ELBO(q, theta) + KL(q || p(z | x, theta))  with

    ELBO(q, theta) = sum_k q_k log p(x, z = k; theta) - sum_k q_k log q_k.

The E-step sets q to p(z | x, theta), which closes the gap; the M-step maximises the ELBO over
theta in closed form, and so log p(x), which is no less, never falls (Dempster, Laird and Rubin
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

_CHUNK = 1024
"""Data to take at a time where q is given."""


@dataclass(frozen=True)
class Statistics:
    """What the M-step needs to know of data weighted by q.

    Attributes:
        counts: n_k = sum_n q_nk.
        means: sum_n q_nk x_n / n_k; where n_k is 0, a centre of all data.
        scatters: sum_n q_nk (x_n - means_k) (x_n - means_k)^T, by covariance type: ``(K, d, d)``
            where full; its sum over k ``(d, d)`` where tied; its diagonal ``(K, d)`` where diag;
            its trace ``(K,)`` where spherical.
        log_normaliser: sum_n log sum_k exp(log_joint_nk) where q follows from Bayes' rule, which
            is then the log-likelihood; in nats.
        covariance_type: full, tied, diag or spherical.
    """

    counts: Float[Tensor, "k"]
    means: Float[Tensor, "k d"]
    scatters: Float[Tensor, "..."]
    log_normaliser: Float[Tensor, ""]
    covariance_type: CovarianceType


@torch.no_grad()
def expectation(x: Float[Tensor, "n d"], mixture: Mixture) -> Statistics:
    """The E-step, q_nk = p(z = k | x_n), summed up over data as it goes.

    Data pass in chunks, of which nothing is kept but sums: memory grows with none of N, K and d
    taken together. Chunks of single precision are raised to double.
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
    """The statistics of data under any q."""
    sums = _Sums(log_q.shape[1], x.mean(0).to(log_q), covariance_type)
    for points, part in zip(x.split(_CHUNK), log_q.split(_CHUNK), strict=True):
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
    """weights_k values_k values_k^T, in the shape of a scatter of that type."""
    if covariance_type in ("full", "tied"):
        outer = weights.view(-1, 1, 1) * values.unsqueeze(2) * values.unsqueeze(1)
        return outer if covariance_type == "full" else outer.sum(0)
    squares = weights.unsqueeze(1) * values.square()
    return squares if covariance_type == "diag" else squares.sum(1)


def floor_of(x: Float[Tensor, "n d"], covariance_floor: float) -> Float[Tensor, "d"]:
    """The least variance along each column: this part of the variance of the data."""
    return covariance_floor * x.double().var(0, correction=0)


@torch.no_grad()
def maximisation(
    statistics: Statistics, floor: Float[Tensor, "d"], previous: Mixture | None = None
) -> tuple[Mixture, tuple[int, ...]]:
    """The M-step: the maximum of the ELBO over all mixtures with Sigma_k >= diag(floor).

        weights_k = n_k / N,   locs_k = means_k,   Sigma_k = scatter_k / n_k,

    the last with those eigenvalues raised to 1 that are lower in units of the floor; this is the
    maximum under the constraint, which keeps the likelihood bounded (Hathaway 1985) and EM
    monotone, as adding a constant to the diagonal would not. A component without data gets weight
    0 and keeps the place and shape that it had in the previous mixture.

    Returns:
        The mixture, and the numbers of the components that are degenerate: on the floor, or
        without data.
    """
    n, means, kind = statistics.counts, statistics.means, statistics.covariance_type
    d = means.shape[1]
    held = n > 10 * torch.finfo(n.dtype).eps
    safe = torch.where(held, n, 1.0)
    of_all = n.sum()
    if kind in ("full", "tied"):
        divisor = safe.view(-1, 1, 1) if kind == "full" else of_all
        scales, low = floored_cholesky(statistics.scatters / divisor, floor)
    else:
        divisor = safe.unsqueeze(1) if kind == "diag" else d * safe
        # A spherical covariance is above diag(floor) where it is above its largest entry.
        least = floor if kind == "diag" else floor.max()
        variances = statistics.scatters / divisor
        low = variances < least
        scales = torch.maximum(variances, least).sqrt()
    if kind == "diag":
        low = low.any(1)
    if previous is not None:
        means = torch.where(held.unsqueeze(1), means, previous.locs)
        if kind != "tied":
            scales = torch.where(held.view(-1, *[1] * (scales.ndim - 1)), scales, previous.scales)
    mixture = Mixture((torch.where(held, n, 0.0) / of_all).log(), means, scales, kind)
    degenerate = (low | ~held).nonzero().flatten().tolist()
    return mixture, tuple(degenerate)


def floored_cholesky(covariances: Tensor, floor: Tensor) -> tuple[Tensor, Tensor]:
    """Cholesky factors, and which of the matrices had to be raised to the floor."""
    unit = floor.sqrt()
    scaled = covariances / (unit.unsqueeze(1) * unit)
    values, vectors = torch.linalg.eigh(scaled)
    low = (values < 1).any(-1)
    raised = (vectors * values.clamp_min(1).unsqueeze(-2)) @ vectors.mT
    raised = raised * (unit.unsqueeze(1) * unit)
    kept = torch.where(low[..., None, None], (raised + raised.mT) / 2, covariances)
    return torch.linalg.cholesky(kept), low


@dataclass(frozen=True)
class Iteration:
    """One round of EM.

    Attributes:
        before: theta before it.
        statistics: the E-step at that theta.
        after: theta of the M-step.
        degenerate: components of the new theta that are on the floor, or without data.
    """

    before: Mixture
    statistics: Statistics
    after: Mixture
    degenerate: tuple[int, ...]


def iterations(
    x: Float[Tensor, "n d"], start: Mixture, floor: Float[Tensor, "d"]
) -> Iterator[Iteration]:
    """EM without end."""
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
    """EM, each of its half-steps a state; the last is an E-step, and so has no gap.

    Arguments:
        x: data.
        start: where to start from.
        floor: the least variance along each column.
        max_iter: rounds at most.
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
    """EM whose E-step draws z rather than computing p(z | x) (Wei and Tanner 1990).

    q is the distribution of num_samples draws of z for each datum. It is a q like any other, so
    that its ELBO is a bound; but the gap is closed only as num_samples grows, the log-likelihood
    may fall, and the parameters do not come to rest but move about a maximum. With one sample this
    is the stochastic EM of Celeux and Diebolt (1985).

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
