"""Find out how the sites of a pair follow the number of data in a batch."""

from collections.abc import Sequence
from typing import Any

import pyro
import torch
from pyro import poutine
from pyro.poutine.util import prune_subsample_sites
from torch import Tensor

from ...errors import InputError
from .pair import Pair
from .plates import trace_function
from .rows import has_row_per_datum
from .sites import Site, is_deterministic, is_local, sample_sites

__all__ = ["find_scaled_sites"]


def find_scaled_sites(
    pair: Pair,
    args: Sequence[Any],
    kwargs: dict[str, Any],
    *,
    size: int,
    plate: str,
    refuse_outside: bool | None = None,
) -> frozenset[str]:
    """The sites that the program itself scales from a batch of B to all N data.

    Model and guide run on the batch and on half of it, without a trace in Pyro's store. A site in
    the plate over data that is scaled by N / B both times is scaled already, as by
    ``poutine.scale(scale=N / len(x))``; a constant factor, such as the weight of a KL, is
    something else.

    Arguments:
        pair: the model and the guide.
        args: a batch, with a row for each datum in each of its parts.
        kwargs: further arguments.
        size: number of data N.
        plate: name of the plate over data.
        refuse_outside: whether to refuse sites outside the plate whose size follows the batch;
            unless given, where the batch is not all data.

    Raises:
        InputError: if a site follows the batch in a way that has no meaning, or two meanings.
    """
    whole = _trace_sites(pair, args, kwargs)
    num = next((_plate_size(s, plate) for s in whole.values() if is_local(s, plate)), 0)
    if num < 2:
        return frozenset()
    if refuse_outside is None:
        refuse_outside = num != size
    half_args = [part[: num // 2] if has_row_per_datum(part, num) else part for part in args]
    try:
        half = _trace_sites(pair, half_args, kwargs)
    except Exception:  # the program takes batches of one size only: nothing can be compared
        half = {}
    scaled = set()
    for key, site in whole.items():
        name, other = site["name"], half.get(key)
        if not is_local(site, plate):
            if refuse_outside and other is not None and _num_entries(site) != _num_entries(other):
                raise InputError(
                    f"site {name!r} is outside of plate {plate!r}, but has a value for each datum "
                    "of a batch, so that its weight in the bound is not known; write it within "
                    f"'with pyro.plate({plate!r}, len(x)):'"
                )
            continue
        factor = _own_factor(site, plate)
        if factor is None or abs(factor - 1) < 1e-6 or size == num:
            continue
        of_half = factor if other is None else _own_factor(other, plate)
        is_constant = of_half is not None and abs(of_half - factor) < 1e-6 * factor
        is_whole = abs(factor * num - size) < 1e-6 * size
        if is_whole and not is_constant and of_half is not None:
            scaled.add(name)
        elif is_whole or not is_constant:
            raise InputError(
                f"site {name!r} is scaled by {factor:g} in a batch of {num} of {size} data, and "
                "the bound would be scaled from the batch to all data a second time; scale by "
                f"{size} / len(x), computed from the batch, or not at all"
            )
    return frozenset(scaled)


def _trace_sites(
    pair: Pair, args: Sequence[Any], kwargs: dict[str, Any]
) -> dict[tuple[str, str], Site]:
    """The sites of both programs by role and name, with the initial parameters of this batch."""
    model, guide = pair.functions
    with (
        torch.random.fork_rng(),
        torch.no_grad(),
        pair.throwaway_store(),
        pair.eval_mode(),
        pyro.validation_enabled(False),
    ):
        of_guide = trace_function(guide, *args, **kwargs)
        of_model = trace_function(poutine.replay(model, trace=of_guide), *args, **kwargs)
    return {
        (role, site["name"]): site
        for role, trace in (("guide", of_guide), ("model", of_model))
        for site in sample_sites(prune_subsample_sites(trace))
        if not is_deterministic(site)
    }


def _plate_size(site: Site, plate: str) -> int:
    return next(int(frame.size) for frame in site["cond_indep_stack"] if frame.name == plate)


def _num_entries(site: Site) -> int:
    value = site["value"]
    return value.numel() if isinstance(value, Tensor) else 1


def _own_factor(site: Site, plate: str) -> float | None:
    """The factor of a local site besides that of its plate; None for a factor for each entry."""
    scale = site["scale"]
    if isinstance(scale, Tensor) and scale.numel() > 1:
        return None
    (frame,) = (frame for frame in site["cond_indep_stack"] if frame.name == plate)
    declared: float = (frame.full_size or frame.size) / frame.size
    return float(scale) / declared
