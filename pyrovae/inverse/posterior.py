"""p(z, x | y): what is known of a datum from a degraded observation of it."""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import pyro
import torch
from jaxtyping import Float, Num
from torch import Tensor

from ..declared import build_part
from ..errors import InputError
from ..infer.pair.bound import PyroFunction
from ..infer.pair.pair import Pair
from ..progress import LateProgress
from .draws import Batch, Posterior, joined
from .methods import METHODS, Method
from .methods.method import Advance
from .methods.refined import Refined
from .observed_pair import Observed, Parts
from .operators import Mask, Operator

__all__ = ["check_given", "posterior"]


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
    how = build_part("method", METHODS, method)
    if not isinstance(seed, int) or not 0 <= seed < 2**62:
        raise InputError(f"seed is {seed}; it is a whole number from 0 to 2^62 - 1")
    if not isinstance(y, Tensor):
        raise InputError(f"observations are a tensor; got {type(y).__name__}")
    if (
        not (isinstance(num_samples, int) and isinstance(batch_size, int))
        or min(num_samples, batch_size) < 1
    ):
        raise InputError(
            f"num_samples and batch_size are whole numbers from 1; got {num_samples} and "
            f"{batch_size}"
        )
    if not isinstance(operator, Operator):
        raise InputError(
            f"operator is one of pyrovae.inverse, such as Mask() or Noise(0.1); got {operator!r}"
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
    of_x = Pair(model, guide)
    with torch.random.fork_rng(), of_x.store(), of_x.eval_mode(), _whole_sentences():
        torch.manual_seed(seed ^ _STREAM)
        for batch in whole.split(batch_size):
            pair.check(batch)
        if how.needs_gradient or operator.noise is None:
            _check_continuous(pair, whole, _name(method))
        with pyro.validation_enabled(False):  # all has been checked
            pair.measure(whole)
            batches = whole.split(min(batch_size, max(1, pair.at_once(1) // _FEWEST_AT_ONCE)))
            steps = how.num_steps_of_batch
            steps += _TO_FIND_NOISE.num_steps if operator.noise is None else 0
            with LateProgress("restoring", len(batches) * steps) as bar:
                advance = bar.advance if progress else (lambda: None)
                found = [_drawn(of_x, pair, batch, how, num_samples, advance) for batch in batches]
    return joined(found)


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


_TO_FIND_NOISE = Refined()

_FEWEST_AT_ONCE = 64
"""Draws of each datum of a batch for which there must be room."""

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
    batch = Batch(of_x, pair, parts, num_samples)
    drawn = how.draw(pair, parts, num_samples, advance)
    x, mean = batch.x(drawn.latents)
    latents = batch.by_sample(drawn.latents)
    both = (each.isfinite().reshape(*each.shape[:2], -1) for each in (x, *latents.values()))
    kept = torch.stack([each.all(2) for each in both])
    lost = int((~kept.all(0).all(0)).sum())
    if lost:
        raise FloatingPointError(
            f"p(x | y) of {lost} data cannot be drawn from: a latent or a density came out NaN or "
            "infinite there; take smaller steps, as in {'name': 'refined', 'lr': 0.03}, or another "
            "method"
        )
    return Posterior(latents, x, mean, drawn.diagnostics, parts.noise, (batch,))


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


def _with_noise(pair: Observed, parts: Parts, advance: Advance) -> Parts:
    """The parts with the noise of each datum at which the bound on log p(y) is highest."""
    log_noise = parts.noise.log()
    _TO_FIND_NOISE.refine(pair, parts, advance, log_noise)
    return parts.with_noise(log_noise.exp())


def _rough_noise(operator: Any, y: Tensor, typical: Tensor) -> Float[Tensor, "data"]:
    """How far observations are from that of a typical datum: more than the noise, as a start."""
    clean = operator.apply(typical.unsqueeze(0))
    rough: Tensor = (y - clean).flatten(1).square().nanmean(1).sqrt()
    return rough.nan_to_num(1.0).clamp_min(1e-6)


@contextmanager
def _whole_sentences() -> Iterator[None]:
    """Messages without the shapes of sites that Pyro adds to what is raised in a trace."""
    try:
        yield
    except InputError as error:
        raise InputError(str(error).splitlines()[0]) from None


def _name(method: str | Mapping[str, Any]) -> str:
    return method if isinstance(method, str) else str(method.get("name"))
