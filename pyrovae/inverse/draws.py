"""Draws from p(z, x | y), and what can be read off them."""

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
from .observed_pair import Latents, Observed, Parts

__all__ = ["Batch", "Posterior", "joined"]

_ROUND_OFF = 1e-9


@dataclass(frozen=True)
class Posterior:
    """Draws from p(z, x | y) for each observation y.

    Attributes:
        latents: draws of each latent, by site, of shape (samples, data, ...).
        x: draws of the data.
        mean: E[x | y], the mean over z of E[x | y, z].
        diagnostics: by name, a number for each datum, as the method tells.
        noise: the standard deviation of the noise on y, as given or as found.
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
            InputError: if there are several.
        """
        if len(self.latents) > 1:
            raise InputError(
                f"there are latents {', '.join(self.latents)}; choose one, as in "
                f"latents[{next(iter(self.latents))!r}]"
            )
        return next(iter(self.latents.values()))

    @cached_property
    def sd(self) -> Float[Tensor, "data *event"]:
        """The standard deviation of x given y, that of the draws.

        Raises:
            InputError: if there is but one.
        """
        if len(self.x) < 2:
            raise InputError("one draw has no standard deviation; draw num_samples=2 or more")
        return (self.x - self.x[0]).std(0)  # exactly 0 where all draws are alike

    def interval(
        self, level: float = 0.9
    ) -> tuple[Num[Tensor, "data *event"], Num[Tensor, "data *event"]]:
        """The central credible interval of each entry: quantiles of the draws, themselves draws.

        Arguments:
            level: the probability that it holds.

        Raises:
            InputError: if the level is not between 0 and 1, or draws are too few for it.
        """
        num = len(self.x)
        if not 0 < level < 1:
            raise InputError(f"level is {level}; it is a probability between 0 and 1")
        # An end that is the k-th of S draws has k / (S + 1) of the probability beyond it.
        tail = int((1 - level) / 2 * (num + 1) + _ROUND_OFF) - 1
        if tail < 0:
            raise InputError(
                f"{num} draws have none outside of an interval of level {level}; draw "
                f"num_samples={ceil(2 / (1 - level) - _ROUND_OFF) - 1} or more"
            )
        ordered = self.x.sort(0).values
        return ordered[tail], ordered[num - 1 - tail]

    @torch.no_grad()
    def log_prob(self, x: Num[Tensor, "data *event"]) -> Float[Tensor, "data"]:
        """log p(x | y) of each datum, in nats: log (1/S) sum_s p(x | y, z_s).

        Of what y leaves open: under a mask it is the density of the missing entries alone. Too low
        on average, as the logarithm of a mean of S draws is.

        Arguments:
            x: whole data.

        Raises:
            InputError: if x are no such data, or fixed by y or by z, so that they have no density.
        """
        check_values(x, tuple(self.mean.shape[1:]), what="the data")
        if x.shape != self.mean.shape:
            raise InputError(
                f"the data have shape {tuple(x.shape)}; give one for each of {len(self.mean)} "
                "observations"
            )
        found = []
        start = 0
        for batch in self._batches:
            stop = start + batch.num_data
            latents = {name: value[:, start:stop] for name, value in self.latents.items()}
            found.append(batch.log_prob(x[start:stop], latents))
            start = stop
        return torch.cat(found)


@dataclass(frozen=True)
class Batch:
    """Observations of one batch, the pair they belong to, and how many were drawn for each."""

    of_x: Pair
    pair: Observed
    parts: Parts
    num_samples: int

    @property
    def num_data(self) -> int:
        return len(self.parts.y)

    def by_sample(self, latents: Latents) -> dict[str, Tensor]:
        """From rows, those of a datum in succession, to (samples, data, ...)."""
        return {
            name: value.view(self.num_data, self.num_samples, *value.shape[1:]).transpose(0, 1)
            for name, value in latents.items()
        }

    def x(self, latents: Latents) -> tuple[Tensor, Tensor]:
        """Draws of x, and its mean."""
        drawn, expected = [], []
        for some, rows in self._in_parts(latents):
            p = self.pair.restored(some, rows)
            drawn.append(self._by_datum(p.sample()))
            expected.append(self._by_datum(p.mean))
        x, means = torch.cat(drawn, 1), torch.cat(expected, 1)
        first = means[:, :1]
        mean = first[:, 0] + (means - first).mean(1)  # exactly y where that is x
        # Of a distribution that has no mean, or not one in closed form, that of the draws.
        mean = torch.where(mean.isfinite(), mean, x.mean(1))
        return x.transpose(0, 1), mean

    def log_prob(self, x: Tensor, latents: Latents) -> Tensor:
        """log p(x | y) of each datum.

        Raises:
            InputError: if x has no density.
        """
        if self.pair.operator.of == "mean":
            raise InputError(
                "with of='mean' x is a function of z, whose density is not known; look at draws"
            )
        with self.of_x.store(), self.of_x.eval_mode(), pyro.validation_enabled(False):
            flat = {name: value.transpose(0, 1).flatten(0, 1) for name, value in latents.items()}
            found = []
            for some, rows in self._in_parts(flat):
                copies = x.to(rows.y.dtype).repeat_interleave(len(rows.y) // self.num_data, 0)
                p = self.pair.restored(some, rows)
                found.append(self._by_datum(p.log_prob(copies)))
        of_data: Tensor = torch.cat(found, 1).logsumexp(1)
        return of_data - log(self.num_samples)

    def _in_parts(self, latents: Latents) -> Iterator[tuple[dict[str, Tensor], Parts]]:
        """Some draws of all data at a time."""
        at_once = self.pair.at_once(self.num_data)
        by_datum = {name: self._by_datum(value) for name, value in latents.items()}
        for first in range(0, self.num_samples, at_once):
            some = {
                name: value[:, first : first + at_once].flatten(0, 1)
                for name, value in by_datum.items()
            }
            num = min(at_once, self.num_samples - first)
            yield some, self.parts.rows(num)

    def _by_datum(self, rows: Tensor) -> Tensor:
        return rows.reshape(self.num_data, -1, *rows.shape[1:])


def joined(found: list[Posterior]) -> Posterior:
    """Those of all batches as one."""
    first = found[0]
    return Posterior(
        {name: torch.cat([each.latents[name] for each in found], 1) for name in first.latents},
        torch.cat([each.x for each in found], 1),
        torch.cat([each.mean for each in found]),
        {name: torch.cat([each.diagnostics[name] for each in found]) for name in first.diagnostics},
        torch.cat([each.noise for each in found]),
        tuple(batch for each in found for batch in each._batches),
    )
