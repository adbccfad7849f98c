"""p(z, x | y): what is known of a datum from a degraded observation of it."""

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from math import ceil, log
from typing import Any

import pyro
import torch
from jaxtyping import Float, Num
from torch import Tensor

from ..declared import made
from ..errors import InputError
from ..infer.bound import PyroFunction
from ..infer.pair import Pair
from ..likelihoods.support import check_values
from ..progress import LateProgress
from .methods import METHODS, Method
from .methods.method import Advance
from .methods.refined import Refined
from .operators import Mask, Operator
from .program import Latents, Observed, Parts

__all__ = ["Posterior", "check_given", "posterior"]


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
    _batches: tuple["_Batch", ...]

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
        """The standard deviation of x given y, that of the draws."""
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
        tail = round((1 - level) / 2 * (num + 1)) - 1
        if tail < 0:
            raise InputError(
                f"{num} draws have none outside of an interval of level {level}; draw "
                f"num_samples={ceil(2 / (1 - level))} or more"
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


@torch.no_grad()
def posterior(
    model: PyroFunction,
    guide: PyroFunction,
    y: Num[Tensor, "data *seen"],
    *given: Tensor,
    operator: Operator | None = None,
    method: str | Mapping[str, Any] = "importance",
    num_samples: int = 200,
    batch_size: int = 100,
    seed: int = 0,
    event_shape: tuple[int, ...] | None = None,
    centre: Float[Tensor, "*event"] | None = None,
    fill: Float[Tensor, "..."] | float = 0.0,
    missing: bool = False,
    site: str = "x",
    plate: str = "data",
    progress: bool = True,
) -> Posterior:
    """Draw from p(z, x | y), for any pair of a model of x and a guide, in eval mode.

    A degraded observation has the same latents under another likelihood,

        p(y | z) = integral p(y | x) p(x | z) dx,   p(x | y) = integral p(x | y, z) p(z | y) dz,

    the first and p(x | y, z) being exact where the operator knows them, and z ~ p(z | y) as the
    method draws it. Random numbers are those of the seed, and torch's own state is left as it was.

    Arguments:
        model: p(x, z), with latents of each datum in the plate and one observed site of x.
        guide: q(z | x).
        y: observations; NaN is what was not observed.
        given: what comes with each datum, as model and guide take it after x: a row each.
        operator: p(y | x); a :class:`Mask` unless given.
        method: how z is drawn: ``amortised``, ``refined``, ``importance``, ``pseudo_gibbs``,
            ``metropolis_within_gibbs`` or ``nuts``, by name or settings with the name.
        num_samples: draws S for each datum.
        batch_size: observations at a time.
        seed: of all random numbers.
        event_shape: shape of a datum; that of an observation unless given.
        centre: a typical datum, which the guide is shown where y says nothing; zeros unless given.
        fill: a value, or a datum, in the support of p(x | z).
        missing: whether the guide takes NaN for what is missing.
        site: name of the observed site.
        plate: name of the plate over data.
        progress: show a bar where it takes more than two seconds.

    Raises:
        InputError: if an argument cannot be used, there is no p(x) of one datum, or the operator
            does not know p(y | z) under this likelihood; before anything is drawn.
        FloatingPointError: if densities are not numbers.
    """
    operator = Mask() if operator is None else operator
    how = made("method", METHODS, method)
    if not 0 <= seed < 2**62:
        raise InputError(f"seed is {seed}; it is a whole number from 0 to 2^62 - 1")
    if num_samples < 1 or batch_size < 1:
        raise InputError(
            f"num_samples and batch_size are 1 or more; got {num_samples} and {batch_size}"
        )
    if operator.of == "mean" and how.needs_datum:
        raise InputError(
            f"{_name(method)} alternates between z and x, and of='mean' makes x a function of z; "
            "use refined, importance or nuts"
        )
    event = tuple(y.shape[1:]) if event_shape is None else tuple(event_shape)
    operator.check(y, event)
    check_given(given, len(y))
    if centre is not None:
        y = y.to(centre)
    elif not y.is_floating_point():
        y = y.to(torch.get_default_dtype())
    typical = y.new_zeros(event) if centre is None else centre
    filling = torch.as_tensor(fill, dtype=y.dtype, device=y.device).expand(event)
    pair = Observed(model, guide, operator, site, plate)
    start = operator.start(y, typical)
    if not missing:
        start = torch.where(start.isnan(), typical, start)
    noise = (
        _rough_noise(operator, y, typical)
        if operator.noise is None
        else y.new_full((len(y),), operator.noise)
    )
    whole = Parts(y, start, filling.expand(start.shape), noise, given)
    batches = [whole.of(slice(i, i + batch_size)) for i in range(0, len(y), batch_size)]
    steps = how.num_steps_of_batch + (_TO_FIND_NOISE.num_steps if operator.noise is None else 0)
    of_x = Pair(model, guide)
    with torch.random.fork_rng(), LateProgress("restoring", len(batches) * steps) as bar:
        torch.manual_seed(seed ^ _STREAM)
        advance = bar.advance if progress else (lambda: None)
        with of_x.store(), of_x.eval_mode():
            for batch in batches:
                _check(pair, batch)
            if how.needs_gradient or operator.noise is None:
                _check_continuous(pair, batches[0], _name(method))
            with pyro.validation_enabled(False):  # all has been checked
                found = [_drawn(of_x, pair, batch, how, num_samples, advance) for batch in batches]
    return _joined(found)


def check_given(given: tuple[Tensor, ...], num_data: int) -> None:
    """Refuse what does not come with each datum.

    Raises:
        InputError: naming its shape.
    """
    for part in given:
        if part.ndim == 0 or len(part) != num_data:
            raise InputError(
                f"what comes with the data has shape {tuple(part.shape)}; it needs a row for each "
                f"of {num_data} observations"
            )


@dataclass(frozen=True)
class _Batch:
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
        p = self.pair.restored(latents, self.parts.rows(self.num_samples))
        x = self._by_datum(p.sample())
        means = self._by_datum(p.mean)
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
            rows = self.parts.rows(self.num_samples)
            flat = {name: value.transpose(0, 1).flatten(0, 1) for name, value in latents.items()}
            p = self.pair.restored(flat, rows)
            of_rows = p.log_prob(x.to(rows.y.dtype).repeat_interleave(self.num_samples, 0))
        of_data: Tensor = of_rows.view(self.num_data, -1).logsumexp(1)
        return of_data - log(self.num_samples)

    def _by_datum(self, rows: Tensor) -> Tensor:
        return rows.reshape(self.num_data, self.num_samples, *rows.shape[1:])


_TO_FIND_NOISE = Refined()

_STREAM = 0x5EED0FD8
"""Exclusive or with a seed: draws owe nothing to noise on y that was made under the same one. It is
in the lower 32 bits, which are all that torch's generator on the CPU takes of a seed.
"""


def _drawn(
    of_x: Pair, pair: Observed, parts: Parts, how: Method, num_samples: int, advance: Advance
) -> Posterior:
    """Draws for the observations of one batch."""
    if pair.operator.noise is None:
        parts = _with_noise(pair, parts, advance)
    batch = _Batch(of_x, pair, parts, num_samples)
    drawn = how.draw(pair, parts, num_samples, advance)
    x, mean = batch.x(drawn.latents)
    lost = int((~x.isfinite()).flatten(2).any(2).any(0).sum())
    if lost:
        raise FloatingPointError(
            f"p(x | y) of {lost} data cannot be drawn from: a latent or a density came out NaN or "
            "infinite there; take smaller steps, as in {'name': 'refined', 'lr': 0.03}, or another "
            "method"
        )
    return Posterior(
        batch.by_sample(drawn.latents), x, mean, drawn.diagnostics, parts.noise, (batch,)
    )


def _check_continuous(pair: Observed, parts: Parts, method: str) -> None:
    """Refuse discrete latents where gradients are followed.

    Raises:
        InputError: naming the latent, and what to use.
    """
    discrete = pair.discrete_latents(parts.of(slice(1)))
    if discrete and pair.operator.noise is None:
        raise InputError(
            f"noise of unknown size is found by gradients in the latents, and {discrete[0]!r} is "
            "discrete; name its size"
        )
    if discrete:
        raise InputError(
            f"{method} follows gradients in the latents, and {discrete[0]!r} is discrete; use "
            "{'name': 'importance', 'proposal': 'amortised'}, or metropolis_within_gibbs"
        )


def _check(pair: Observed, parts: Parts) -> None:
    """Make sure that all that will be asked can be answered.

    Raises:
        InputError: if not.
    """
    latents, _ = pair.propose(parts, 1)
    _ = pair.restored(latents, parts).mean


def _with_noise(pair: Observed, parts: Parts, advance: Advance) -> Parts:
    """The parts with the noise of each datum at which the bound on log p(y) is highest."""
    log_noise = parts.noise.log()
    _TO_FIND_NOISE.refine(pair, parts, advance, log_noise)
    return parts.with_noise(log_noise.exp())


def _rough_noise(operator: Any, y: Tensor, typical: Tensor) -> Float[Tensor, "data"]:
    """How far observations are from that of a typical datum: more than the noise, as a start."""
    clean = operator.apply(typical.unsqueeze(0))
    rough: Tensor = (y - clean).flatten(1).square().nanmean(1).sqrt()
    return rough.clamp_min(1e-6)


def _joined(found: list[Posterior]) -> Posterior:
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


def _name(method: str | Mapping[str, Any]) -> str:
    return method if isinstance(method, str) else str(method.get("name"))
