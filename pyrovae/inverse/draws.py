"""Draws from p(z, x | y), with means, intervals and densities from them."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import cached_property
from math import ceil, log

import pyro
import torch
from jaxtyping import Float, Num
from torch import Tensor

from ..errors import InputError
from ..infer.pair.pair import Pair
from ..likelihoods.support import check_values
from .observed_pair import Inputs, Latents, ObservedPair

__all__ = ["Batch", "Posterior", "concatenate"]

_ROUND_OFF = 1e-9


@dataclass(frozen=True)
class Posterior:
    """Draws from p(z, x | y) for each observation y.

    Attributes:
        latents: draws of each latent, by site, of shape (samples, data, ...).
        x: draws of the data.
        mean: E[x | y], the mean over z of E[x | y, z].
        diagnostics: a number for each datum, by name; see the class of the method.
        noise: the standard deviation of the noise on y, as given or as estimated.
    """

    latents: Mapping[str, Num[Tensor, "samples data ..."]]
    x: Num[Tensor, "samples data *event"]
    mean: Float[Tensor, "data *event"]
    diagnostics: Mapping[str, Float[Tensor, "data"]]
    noise: Float[Tensor, "data"]
    _batches: tuple["Batch", ...]

    @property
    def z(self) -> Num[Tensor, "samples data ..."]:
        """Draws of the latent.

        Raises:
            InputError: if there are several latents.
        """
        if len(self.latents) > 1:
            raise InputError(
                f"this model has latents {', '.join(self.latents)}; choose one, as in "
                f"latents[{next(iter(self.latents))!r}]"
            )
        return next(iter(self.latents.values()))

    @cached_property
    def sd(self) -> Float[Tensor, "data *event"]:
        """The standard deviation of x given y, estimated from the draws.

        Raises:
            InputError: if there is only one draw.
        """
        if len(self.x) < 2:
            raise InputError("one draw has no standard deviation; draw num_samples=2 or more")
        return (self.x - self.x[0]).std(0)  # exactly 0 where all draws are equal

    def interval(
        self, level: float = 0.9
    ) -> tuple[Num[Tensor, "data *event"], Num[Tensor, "data *event"]]:
        """The central credible interval of each entry; its ends are draws.

        Arguments:
            level: the probability that the interval contains x.

        Raises:
            InputError: if the level is not between 0 and 1, or there are too few draws for it.
        """
        num = len(self.x)
        if not 0 < level < 1:
            raise InputError(f"level is {level}; it must be a probability between 0 and 1")
        # If the end is the k-th of S draws, the probability beyond it is k / (S + 1).
        tail = int((1 - level) / 2 * (num + 1) + _ROUND_OFF) - 1
        if tail < 0:
            raise InputError(
                f"{num} draws are too few for an interval of level {level}; draw "
                f"num_samples={ceil(2 / (1 - level) - _ROUND_OFF) - 1} or more"
            )
        ordered = self.x.sort(0).values
        return ordered[tail], ordered[num - 1 - tail]

    @torch.no_grad()
    def log_prob(self, x: Num[Tensor, "data *event"]) -> Float[Tensor, "data"]:
        """log p(x | y) of each datum, in nats: log (1/S) sum_s p(x | y, z_s).

        The density is of what y leaves open: under a mask, of the missing entries alone. The
        estimate is too low on average, since it is the logarithm of a mean over S draws.

        Arguments:
            x: complete data, one for each observation.

        Raises:
            InputError: if x does not have the shape of the data, or has no density because y or z
                fixes it.
        """
        check_values(x, tuple(self.mean.shape[1:]), what="the data")
        if x.shape != self.mean.shape:
            raise InputError(
                f"the data have shape {tuple(x.shape)}; give one datum for each of "
                f"{len(self.mean)} observations"
            )
        log_probs = []
        start = 0
        for batch in self._batches:
            stop = start + batch.num_data
            latents = {name: value[:, start:stop] for name, value in self.latents.items()}
            log_probs.append(batch.log_prob(x[start:stop], latents))
            start = stop
        return torch.cat(log_probs)


@dataclass(frozen=True)
class Batch:
    """The observations of one batch, the pairs of x and of y, and the number of draws of each."""

    pair_of_x: Pair
    pair: ObservedPair
    inputs: Inputs
    num_samples: int

    @property
    def num_data(self) -> int:
        return len(self.inputs.y)

    def group_by_sample(self, latents: Latents) -> dict[str, Tensor]:
        """Reshape latents from rows, where the draws of a datum follow each other, to
        (samples, data, ...).
        """
        return {
            name: value.view(self.num_data, self.num_samples, *value.shape[1:]).transpose(0, 1)
            for name, value in latents.items()
        }

    def draw_x(self, latents: Latents) -> tuple[Tensor, Tensor]:
        """Draw x given y and the latents, and compute the mean of x."""
        x_chunks, mean_chunks = [], []
        for chunk, rows in self._iterate_chunks(latents):
            p = self.pair.restore(chunk, rows)
            x_chunks.append(self._group_by_datum(p.sample()))
            mean_chunks.append(self._group_by_datum(p.mean))
        x, means = torch.cat(x_chunks, 1), torch.cat(mean_chunks, 1)
        first = means[:, :1]
        mean = first[:, 0] + (means - first).mean(1)  # exactly y where y is x
        # Where p(x | y, z) has no mean in closed form, take the mean of the draws.
        mean = torch.where(mean.isfinite(), mean, x.mean(1))
        return x.transpose(0, 1), mean

    def log_prob(self, x: Tensor, latents: Latents) -> Tensor:
        """log p(x | y) of each datum.

        Raises:
            InputError: if x has no density.
        """
        if self.pair.operator.of == "mean":
            raise InputError(
                "with of='mean' x is a function of z, and its density is not known; use the draws "
                "instead"
            )
        with self.pair_of_x.store(), self.pair_of_x.eval_mode(), pyro.validation_enabled(False):
            flat = {name: value.transpose(0, 1).flatten(0, 1) for name, value in latents.items()}
            log_probs = []
            for chunk, rows in self._iterate_chunks(flat):
                copies = x.to(rows.y.dtype).repeat_interleave(len(rows.y) // self.num_data, 0)
                p = self.pair.restore(chunk, rows)
                log_probs.append(self._group_by_datum(p.log_prob(copies)))
        log_sum: Tensor = torch.cat(log_probs, 1).logsumexp(1)
        return log_sum - log(self.num_samples)

    def _iterate_chunks(self, latents: Latents) -> Iterator[tuple[dict[str, Tensor], Inputs]]:
        """Yield the draws of all data in chunks that fit into memory."""
        at_once = self.pair.max_draws_at_once(self.num_data)
        by_datum = {name: self._group_by_datum(value) for name, value in latents.items()}
        for first in range(0, self.num_samples, at_once):
            chunk = {
                name: value[:, first : first + at_once].flatten(0, 1)
                for name, value in by_datum.items()
            }
            num = min(at_once, self.num_samples - first)
            yield chunk, self.inputs.repeat(num)

    def _group_by_datum(self, rows: Tensor) -> Tensor:
        return rows.reshape(self.num_data, -1, *rows.shape[1:])


def concatenate(results: list[Posterior]) -> Posterior:
    """Concatenate the results of all batches."""
    sites, diagnostics = results[0].latents, results[0].diagnostics
    return Posterior(
        {name: torch.cat([result.latents[name] for result in results], 1) for name in sites},
        torch.cat([result.x for result in results], 1),
        torch.cat([result.mean for result in results]),
        {name: torch.cat([result.diagnostics[name] for result in results]) for name in diagnostics},
        torch.cat([result.noise for result in results]),
        tuple(batch for result in results for batch in result._batches),
    )
