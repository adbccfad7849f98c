"""The aggregate posterior q(z) = (1/N) sum_n q(z | x_n): score samples under the q of all data."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from math import log, pi, prod
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor
from torch.distributions import Normal

from ...progress import LateProgress
from ..pair.latents import (
    LOG_PROB_ERRORS,
    LocalLatent,
    flatten_per_datum,
    no_density_error,
    unwrap_independent,
)

__all__ = ["BatchPosterior", "log_aggregate_posterior"]

_MEMORY = 2**28
"""Bytes that the densities of pairs of samples and data may take at once."""

_ROUND_OFF = 1e-8
"""Largest round-off, in nats, of a log-density by matrix products."""


@dataclass(frozen=True)
class BatchPosterior:
    """q(z | x_n) of one latent for each datum n of a batch, as a function of any z.

    Attributes:
        log_prob: maps samples to log q(z | x_n) of each datum n of the batch.
        num_data: number of data in the batch.
        width: number of floats that ``log_prob`` holds at once for each sample and datum.
    """

    log_prob: Callable[[Tensor], Float[Tensor, "some batch"]]
    num_data: int
    width: int

    @classmethod
    def from_latent(cls, latent: LocalLatent, z: Tensor) -> "BatchPosterior":
        """Use matrix products if q is a factorised Normal, and broadcasting otherwise.

        Arguments:
            latent: a latent of the batch.
            z: some of its samples, indexed on the left, to try the density on.

        Raises:
            InputError: if the family can score only the samples that it has just drawn.
        """
        q, data_axis = unwrap_independent(latent.q), latent.data_axis
        if isinstance(q, Normal):
            log_prob, width = _normal_log_prob(q, data_axis)
        else:
            log_prob = _broadcast_log_prob(latent.q, data_axis)
            width = 4 * max(1, prod(z.shape[1:]))
        try:
            log_prob(z[:2])
        except LOG_PROB_ERRORS as error:
            raise no_density_error(latent.name, latent.q) from error
        return cls(log_prob, latent.q.batch_shape[data_axis], width)


def log_aggregate_posterior(
    parts: Sequence[BatchPosterior], z: Tensor, *, progress: bool = True
) -> Float[Tensor, "samples"]:
    """log (1/N) sum_n q(z | x_n) over the N data of all parts, at samples indexed on the left."""
    total = torch.full((len(z),), -torch.inf, dtype=torch.double, device=z.device)
    with LateProgress("aggregate posterior", len(parts)) as bar:
        for part in parts:
            num_at_once = max(1, _MEMORY // (8 * part.width * part.num_data))
            sums = [part.log_prob(some).logsumexp(1) for some in z.split(num_at_once)]
            total = torch.logaddexp(total, torch.cat(sums))
            if progress:
                bar.advance()
    return total - log(sum(part.num_data for part in parts))


def _normal_log_prob(
    q: Any, data_axis: int
) -> tuple[Callable[[Tensor], Float[Tensor, "some batch"]], int]:
    """The log-density of factorised Normals by matrix products, and its width.

    (z - m)^2 / s^2 is the product of (z^2, z, 1) and (1 / s^2, -2 m / s^2, m^2 / s^2). In double
    precision, with values centred at the mean over data, the round-off is 1e-16 times the sum of
    (m / s)^2. If that is too much, the difference is computed first.
    """
    loc = flatten_per_datum(q.loc, data_axis).double()
    scale = flatten_per_datum(q.scale, data_axis).double()
    centre = loc.mean(0)
    offset = (loc - centre) / scale
    if not offset.square().sum(1).max() <= _ROUND_OFF / torch.finfo(offset.dtype).eps:
        return _differenced_log_prob(loc, scale), 3 * loc.shape[1]
    precision = scale**-2
    weights = torch.cat([precision * (loc - centre), -precision / 2], 1).T
    constant = (-scale.log() - log(2 * pi) / 2 - offset**2 / 2).sum(1)

    def log_prob(z: Tensor) -> Float[Tensor, "some batch"]:
        z = z.double().reshape(len(z), -1) - centre
        return torch.addmm(constant, torch.cat([z, z**2], 1), weights)

    return log_prob, 2


def _differenced_log_prob(
    loc: Float[Tensor, "batch dims"], scale: Float[Tensor, "batch dims"]
) -> Callable[[Tensor], Float[Tensor, "some batch"]]:
    constant = -(scale.log() + log(2 * pi) / 2).sum(1)

    def log_prob(z: Tensor) -> Float[Tensor, "some batch"]:
        z = z.double().reshape(len(z), 1, -1)
        return constant - ((z - loc) / scale).square().sum(-1) / 2

    return log_prob


def _broadcast_log_prob(q: Any, data_axis: int) -> Callable[[Tensor], Float[Tensor, "some batch"]]:
    def log_prob(z: Tensor) -> Float[Tensor, "some batch"]:
        values = z.unsqueeze(data_axis + 1).expand(len(z), *q.batch_shape, *q.event_shape)
        log_q: Tensor = q.log_prob(values).double().movedim(data_axis + 1, 1)
        return log_q.reshape(*log_q.shape[:2], -1).sum(-1)

    return log_prob
