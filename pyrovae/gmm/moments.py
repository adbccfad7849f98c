"""The E-step: sufficient statistics of the data under q, without loss of precision."""

from collections.abc import Callable
from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

from .missing import MAX_ENTRIES, complete, has_missing
from .mixture import ROUND_OFF, CovarianceType, Mixture

__all__ = ["Statistics", "expectation", "second_moments", "summarise"]

_CHUNK_SIZE = 1024
"""Data in a chunk when q is given."""


@dataclass(frozen=True)
class Statistics:
    """Sufficient statistics of data weighted by q, for the M-step.

    Attributes:
        counts: n_k = sum_n q_nk.
        means: sum_n q_nk x_n / n_k; a centre of the data where n_k is 0.
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
def expectation(
    x: Float[Tensor, "n d"], mixture: Mixture, weights: Float[Tensor, "n"] | None = None
) -> Statistics:
    """The E-step, q_nk = p(z = k | x_n), with statistics summed over data.

    It processes data in chunks and keeps only sums, so that no array has the size of N x K.
    Chunks in single precision are converted to double.

    Where entries of x are NaN, q is the posterior given the others, and the statistics are expected
    values under p(x_missing | x_present, z = k) (Ghahramani and Jordan 1994).

    Arguments:
        x: data.
        mixture: theta.
        weights: how many times each datum counts; once unless given.
    """
    k, kind = mixture.num_components, mixture.covariance_type

    def weigh(log_joint: Tensor, weight: Tensor | None) -> tuple[Tensor, Tensor]:
        log_normaliser = log_joint.logsumexp(1, keepdim=True)
        q = (log_joint - log_normaliser).exp_()
        if weight is None:
            return q, log_normaliser
        return q * weight.unsqueeze(1), log_normaliser * weight.unsqueeze(1)

    def run(centre: Tensor) -> _Sums:
        sums = _Sums(k, centre, kind)
        first = 0
        for chunk in x.split(mixture.chunk_size):
            points = chunk.to(mixture.locs.dtype)
            part = None if weights is None else weights[first : first + len(chunk)]
            first += len(chunk)
            sums.add(points, *weigh(mixture.log_joint_of_complete(points), part))
        return sums

    def run_completed(centre: Tensor) -> _Sums:
        sums = _Sums(k, centre, kind)
        for part in complete(x, mixture, centre):
            log_joint = mixture.log_weights + part.log_density
            q, log_normaliser = weigh(log_joint, None if weights is None else weights[part.rows])
            sums.add_differences(part.differences, q, log_normaliser)
            sums.add_second(part.expected_covariance(q))
        return sums

    if has_missing(x):
        return _repeat_until_accurate(run_completed, mixture.locs)
    return _repeat_until_accurate(run, mixture.centre)


@torch.no_grad()
def summarise(
    x: Float[Tensor, "n d"], log_q: Float[Tensor, "n k"], covariance_type: CovarianceType
) -> Statistics:
    """Statistics of the data under any q."""

    def run(centre: Tensor) -> _Sums:
        sums = _Sums(log_q.shape[1], centre, covariance_type)
        for points, part in zip(x.split(_CHUNK_SIZE), log_q.split(_CHUNK_SIZE), strict=True):
            sums.add(points.to(log_q), part.exp(), part.new_zeros(()))
        return sums

    return _repeat_until_accurate(run, x.to(log_q).mean(0))


def _repeat_until_accurate(run: Callable[[Tensor], "_Sums"], centre: Tensor) -> Statistics:
    """Sum moments about the centre and, if this cancels too many digits, about the means."""
    sums = run(centre)
    if not sums.are_accurate():
        sums = run(sums.means)
    return sums.statistics()


class _Sums:
    """Moments about a centre, ``(d,)`` or one for each component, accumulated over chunks."""

    def __init__(self, k: int, centre: Tensor, covariance_type: CovarianceType) -> None:
        d = centre.shape[-1]
        self._type = covariance_type
        self._centre = centre
        zeros = centre.new_zeros
        self._counts, self._log_normaliser = zeros(k), zeros(())
        self._first = zeros(k, d)
        second = {"full": (k, d, d), "tied": (d, d), "diag": (k, d), "spherical": (k, d)}
        self._second = zeros(*second[covariance_type])

    def add(self, x: Tensor, q: Tensor, log_normaliser: Tensor) -> None:
        """Add data of shape (n, d) with their q, times their weights."""
        if self._centre.ndim == 2:
            k, d = self._first.shape
            num = max(MAX_ENTRIES // (k * d), 1)
            for points, part in zip(x.split(num), q.split(num), strict=True):
                self.add_differences(points.unsqueeze(1) - self._centre, part)
            self._log_normaliser += log_normaliser.sum()
            return
        x = x - self._centre
        self._counts += q.sum(0)
        self._log_normaliser += log_normaliser.sum()
        self._first.addmm_(q.mT, x)
        if self._type == "full":
            weighted = (q.unsqueeze(2) * x.unsqueeze(1)).view(len(x), -1)
            self._second.view(-1, x.shape[1]).addmm_(weighted.mT, x)
        elif self._type == "tied":
            self._second.addmm_((q.sum(1, keepdim=True) * x).mT, x)
        else:
            self._second.addmm_(q.mT, x.square())

    def add_differences(
        self, differences: Tensor, q: Tensor, log_normaliser: Tensor | None = None
    ) -> None:
        """Add differences from the centres, of shape (n, k, d), with their q."""
        self._counts += q.sum(0)
        if log_normaliser is not None:
            self._log_normaliser += log_normaliser.sum()
        weighted = q.unsqueeze(2) * differences
        self._first += weighted.sum(0)
        if self._type == "full":
            self._second += weighted.permute(1, 2, 0) @ differences.transpose(0, 1)
        elif self._type == "tied":
            self._second.addmm_(weighted.flatten(0, 1).mT, differences.flatten(0, 1))
        else:
            self._second += (weighted * differences).sum(0)

    def add_second(self, second: Tensor) -> None:
        """Add to the second moments."""
        self._second += second

    @property
    def means(self) -> Tensor:
        """sum_n q_nk x_n / n_k, for each component."""
        return self._centre + self._shift

    @property
    def _shift(self) -> Tensor:
        tiny = torch.finfo(self._counts.dtype).tiny
        return self._first / self._counts.clamp_min(tiny).unsqueeze(1)

    def are_accurate(self) -> bool:
        """Whether second moments about the means follow from those about the centre.

        The difference of both has a relative round-off of eps times the square of the shift between
        them, in standard deviations.
        """
        limit = ROUND_OFF / torch.finfo(self._counts.dtype).eps
        shift, counts, scatter = self._shift, self._counts, self._scatters()
        if self._type in ("full", "tied"):
            root, failed = torch.linalg.cholesky_ex(scatter)
            rows = shift.unsqueeze(-1) if self._type == "full" else shift.mT
            size = torch.linalg.solve_triangular(root, rows, upper=False).square().sum(-2)
            squared = counts * size.flatten()
            if self._type == "tied":
                squared = squared.sum()
            is_good = (squared <= limit) & (failed == 0)
        else:
            removed = counts.unsqueeze(1) * shift.square()
            if self._type == "spherical":
                removed = removed.sum(1)
            is_good = removed <= limit * scatter
        if self._type != "tied":
            no_data = counts <= 10 * torch.finfo(counts.dtype).eps
            is_good = is_good | no_data.view(-1, *[1] * (is_good.ndim - 1))
        return bool(is_good.all())

    def _scatters(self) -> Tensor:
        second = self._second.sum(1) if self._type == "spherical" else self._second
        return second - second_moments(self._shift, self._counts, self._type)

    def statistics(self) -> Statistics:
        """The sums as moments about the means."""
        return Statistics(
            self._counts, self.means, self._scatters(), self._log_normaliser, self._type
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
