"""Draw from p(z, x | y), given a degraded observation y of a datum x."""

from collections.abc import Mapping
from math import prod
from typing import Any

import pyro
import torch
from jaxtyping import Float
from torch import Tensor

from ..arguments import (
    TensorLike,
    as_callable,
    as_data,
    as_flag,
    as_real,
    as_shape,
    as_tensor,
    as_tensors,
    as_text,
    as_whole,
    describe,
    is_tensor_like,
)
from ..data.memory import check_fits_memory
from ..declared import build_part
from ..errors import InputError
from ..infer.pair.bound import PyroFunction
from ..infer.pair.pair import Pair
from ..progress import LateProgress
from .draws import Batch, Posterior, concatenate
from .methods import METHODS, Method
from .methods.method import Advance
from .methods.refined import Refined
from .observed_pair import Inputs, ObservedPair
from .operators import Mask, Operator

__all__ = ["check_given", "posterior"]


@torch.no_grad()
def posterior(
    model: PyroFunction,
    guide: PyroFunction,
    y: TensorLike,
    *given: TensorLike,
    operator: Operator | None = None,
    method: str | Mapping[str, Any] = "importance",
    num_samples: int = 200,
    batch_size: int = 100,
    seed: int = 0,
    event_shape: tuple[int, ...] | None = None,
    centre: TensorLike | None = None,
    fill: TensorLike | float = 0.0,
    missing: bool = False,
    site: str = "x",
    plate: str = "data",
    progress: bool = True,
) -> Posterior:
    """Draw from p(z, x | y), for any pair of a model of x and a guide, in eval mode.

    A degraded observation has the same latents as the datum, and another likelihood:

        p(y | z) = integral p(y | x) p(x | z) dx,   p(x | y) = integral p(x | y, z) p(z | y) dz.

    The operator gives p(y | z) and p(x | y, z) exactly; the method draws z ~ p(z | y). The seed
    determines all random numbers; the state of torch's generator does not change.

    Arguments:
        model: p(x, z), with latents of each datum in the plate and one observed site of x.
        guide: q(z | x).
        y: observations; NaN marks what was not observed.
        given: what model and guide take after x, with a row for each datum.
        operator: p(y | x); a :class:`Mask` unless given.
        method: how to draw z: ``amortised``, ``refined``, ``importance``, ``pseudo_gibbs``,
            ``metropolis_within_gibbs`` or ``nuts``, by name or as a mapping of settings that
            includes the name.
        num_samples: draws S for each datum.
        batch_size: observations at a time.
        seed: seed of all random numbers.
        event_shape: shape of a datum; the shape of an observation unless given.
        centre: a typical datum, which the guide sees where y says nothing; zeros unless given.
        fill: a value, or a datum, in the support of p(x | z).
        missing: whether the guide accepts NaN for missing entries.
        site: name of the observed site.
        plate: name of the plate over data.
        progress: whether to show a progress bar when it takes more than two seconds.

    Raises:
        InputError: if an argument cannot be used, there is no p(x) of one datum, or the operator
            does not know p(y | z) under this likelihood; before anything is drawn.
        FloatingPointError: if a density is NaN or infinite.
    """
    operator = Mask() if operator is None else operator
    sampler = build_part("method", METHODS, method)
    as_callable("model", model, "a Pyro function of x")
    as_callable("guide", guide, "a Pyro function of x")
    seed = as_whole("seed", seed, 0, 2**62 - 1)
    num_samples = as_whole("num_samples", num_samples, 1)
    batch_size = as_whole("batch_size", batch_size, 1)
    missing, progress = as_flag("missing", missing), as_flag("progress", progress)
    site, plate = as_text("site", site), as_text("plate", plate)
    y = as_tensor("the observations", y)
    if not isinstance(operator, Operator):
        raise InputError(
            "operator must be one of those in pyrovae.inverse, such as Mask() or Noise(0.1); got "
            f"{describe(operator)}"
        )
    if operator.of == "mean" and sampler.needs_datum:
        raise InputError(
            f"{_method_name(method)} alternates between z and x, but of='mean' makes x a function "
            "of z; use refined, importance or nuts"
        )
    event = tuple(y.shape[1:]) if event_shape is None else as_shape("event_shape", event_shape)
    if not event:
        raise InputError(
            f"the observations have shape {tuple(y.shape)}; give data along the first dimension, "
            "with the numbers of each along others"
        )
    operator.check(y, event)
    given = as_tensors("given", given, len(y))
    size = 4 * num_samples * len(y) * prod(event)
    check_fits_memory(size, f"{num_samples:,} draws of {len(y):,} data", "lower num_samples")
    if centre is not None:
        centre = as_data("centre", centre, event, batch_dims=0)
        y = y.to(centre)
    elif not y.is_floating_point():
        y = y.to(torch.get_default_dtype())
    typical = y.new_zeros(event) if centre is None else centre
    fill_data = _as_fill(fill, event).to(y).expand(event)
    pair = ObservedPair(model, guide, operator, site, plate)
    start = operator.start(y, typical)
    if not missing:
        start = torch.where(start.isnan(), typical, start)
    noise = (
        _guess_noise(operator, y, typical)
        if operator.noise is None
        else y.new_full((len(y),), operator.noise)
    )
    inputs = Inputs(y, start, fill_data.expand(start.shape), noise, given)
    pair_of_x = Pair(model, guide)
    with torch.random.fork_rng(), pair_of_x.store(), pair_of_x.eval_mode():
        torch.manual_seed(seed ^ _SEED_MASK)
        for batch in inputs.split(batch_size):
            pair.check(batch)
        if sampler.needs_gradient or operator.noise is None:
            _check_continuous(pair, inputs, _method_name(method))
        with pyro.validation_enabled(False):  # pair.check has validated it all
            pair.measure_memory(inputs)
            max_batch_size = max(1, pair.max_draws_at_once(1) // _MIN_DRAWS_AT_ONCE)
            batches = inputs.split(min(batch_size, max_batch_size))
            steps = sampler.num_steps_of_batch
            steps += _NOISE_FINDER.num_steps if operator.noise is None else 0
            with LateProgress("restoring", len(batches) * steps) as bar:
                advance = bar.advance if progress else (lambda: None)
                results = [
                    _draw_batch(pair_of_x, pair, batch, sampler, num_samples, advance)
                    for batch in batches
                ]
    return concatenate(results)


def check_given(given: tuple[Tensor, ...], num_data: int) -> None:
    """Check that each argument in ``given`` has a row for each datum.

    Raises:
        InputError: if one does not.
    """
    for part in given:
        if part.ndim == 0 or len(part) != num_data:
            raise InputError(
                f"an argument given with the data has shape {tuple(part.shape)}; it needs a row "
                f"for each of {num_data} observations"
            )


_NOISE_FINDER = Refined()

_MIN_DRAWS_AT_ONCE = 64
"""Batches are made small enough that this many draws of each datum fit into memory."""

_SEED_MASK = 0x5EED0FD8
"""Combined with the seed by exclusive or: a user may have drawn the noise on y under the same seed,
and draws must not depend on it. The mask is in the lower 32 bits, because torch's generator on the
CPU uses no others of a seed.
"""


def _draw_batch(
    pair_of_x: Pair,
    pair: ObservedPair,
    inputs: Inputs,
    sampler: Method,
    num_samples: int,
    advance: Advance,
) -> Posterior:
    """Draw for the observations of one batch."""
    if pair.operator.noise is None:
        inputs = _estimate_noise(pair, inputs, advance)
    batch = Batch(pair_of_x, pair, inputs, num_samples)
    drawn = sampler.draw(pair, inputs, num_samples, advance)
    x, mean = batch.draw_x(drawn.latents)
    latents = batch.group_by_sample(drawn.latents)
    values = (value.reshape(*value.shape[:2], -1) for value in (x, *latents.values()))
    is_finite = torch.stack([value.isfinite().all(2) for value in values])
    num_failed = int((~is_finite.all(0).all(0)).sum())
    if num_failed:
        raise FloatingPointError(
            f"cannot draw from p(x | y) for {num_failed} of {len(inputs.y)} data: a latent or a "
            "density is NaN or infinite there; take smaller steps, as in "
            "{'name': 'refined', 'lr': 0.03}, or use another method"
        )
    return Posterior(latents, x, mean, drawn.diagnostics, inputs.noise, (batch,))


def _check_continuous(pair: ObservedPair, inputs: Inputs, method: str) -> None:
    """Refuse discrete latents, for a method that needs gradients.

    Raises:
        InputError: if there is one.
    """
    discrete = pair.find_discrete_latents(inputs.select(slice(1)))
    if discrete and pair.operator.noise is None:
        raise InputError(
            "noise of unknown size is estimated with gradients of the latents, but "
            f"{discrete[0]!r} is discrete; give the size of the noise"
        )
    if discrete:
        raise InputError(
            f"{method} needs gradients of the latents, but {discrete[0]!r} is discrete; use "
            "{'name': 'importance', 'proposal': 'amortised'}, or metropolis_within_gibbs"
        )


def _estimate_noise(pair: ObservedPair, inputs: Inputs, advance: Advance) -> Inputs:
    """Set the noise of each datum to where the bound on log p(y) is highest."""
    log_noise = inputs.noise.log()
    _NOISE_FINDER.refine(pair, inputs, advance, log_noise)
    return inputs.with_noise(log_noise.exp())


def _guess_noise(operator: Any, y: Tensor, typical: Tensor) -> Float[Tensor, "data"]:
    """Distance of y from a clean observation of a typical datum; an upper guess of the noise."""
    clean = operator.apply(typical.unsqueeze(0))
    rough: Tensor = (y - clean).flatten(1).square().nanmean(1).sqrt()
    return rough.nan_to_num(1.0).clamp_min(1e-6)


def _as_fill(fill: Any, event_shape: tuple[int, ...]) -> Tensor:
    if is_tensor_like(fill):
        value = as_tensor("fill", fill)
        return value if value.ndim == 0 else as_data("fill", value, event_shape, batch_dims=0)
    return torch.tensor(as_real("fill", fill))


def _method_name(method: str | Mapping[str, Any]) -> str:
    return method if isinstance(method, str) else str(method.get("name"))
