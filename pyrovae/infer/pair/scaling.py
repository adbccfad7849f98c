"""Find out how the sites of a pair follow the number of data in a batch."""

from collections.abc import Sequence
from dataclasses import dataclass
from math import isclose, prod
from typing import Any

import pyro
import torch
from pyro import poutine
from pyro.poutine import Trace
from pyro.poutine.util import prune_subsample_sites
from torch import Tensor

from ...errors import InputError
from .pair import Pair
from .plates import trace_function
from .rows import has_row_per_datum
from .sites import Site, data_dim, is_deterministic, is_local, sample_sites

__all__ = ["find_scaled_sites"]


_Sites = dict[tuple[str, str], Site]
"""The sites of a model and a guide, by role and name."""


def find_scaled_sites(
    pair: Pair,
    args: Sequence[Any],
    kwargs: dict[str, Any],
    *,
    size: int,
    plate: str,
    refuse_outside: bool | None = None,
    refuse_factors: bool = False,
) -> frozenset[str]:
    """The sites that the program itself scales from a batch of B to all N data.

    Model and guide run on the batch and on half of it (a single datum is doubled), on the same
    values, without a trace in Pyro's store. A site in the plate over data that is scaled by N / B
    both times is scaled already, as by ``poutine.scale(scale=N / len(x))``; a constant factor, such
    as the weight of a KL, is something else.

    Arguments:
        pair: the model and the guide.
        args: a batch, with a row for each datum in each of its parts.
        kwargs: further arguments.
        size: number of data N.
        plate: name of the plate over data.
        refuse_outside: whether to refuse observations outside the plate that follow the batch;
            unless given, where the batch is not all data.
        refuse_factors: whether to refuse constant factors, with which the bound is not one on
            log p(x).

    Raises:
        InputError: if a site follows the batch in a way that has no meaning, or two meanings.
    """
    with (
        torch.random.fork_rng(),
        torch.no_grad(),
        pair.eval_mode(),
        pyro.validation_enabled(False),
    ):
        guide_trace, whole = _trace_sites(pair, args, kwargs)
        num = next((_plate_size(s, plate) for s in whole.values() if is_local(s, plate)), 0)
        if not num:
            return frozenset()
        rows = torch.arange(num // 2) if num > 1 else torch.zeros(2, dtype=torch.long)
        parts = [part[rows] if has_row_per_datum(part, num) else part for part in args]
        given = _select_rows(guide_trace, rows, plate)
        try:
            _, other = _trace_sites(pair, parts, kwargs, given)
        except Exception:  # the program takes batches of one size only: nothing can be compared
            other = {}
    if refuse_outside is None:
        refuse_outside = num != size
    compared = _Comparison(plate, num, len(rows), size, refuse_outside, refuse_factors)
    return frozenset(
        site["name"] for key, site in whole.items() if compared.is_scaled(site, other.get(key))
    )


@dataclass(frozen=True)
class _Comparison:
    """Decides what a site is that has been traced on two batches.

    Attributes:
        plate: name of the plate over data.
        num: number of data in the batch.
        other_num: number of data in the other batch.
        size: number of data N.
        refuse_outside: whether to refuse observations outside the plate that follow the batch.
        refuse_factors: whether to refuse constant factors.
    """

    plate: str
    num: int
    other_num: int
    size: int
    refuse_outside: bool
    refuse_factors: bool

    def is_scaled(self, site: Site, other: Site | None) -> bool:
        """Whether the program itself scales a site from the batch to all data.

        Raises:
            InputError: if that has no meaning, or two meanings.
        """
        name, factor = site["name"], _own_factor(site)
        if not is_local(site, self.plate) and self.refuse_outside and other is not None:
            self._check_outside(site, other)
        if factor is None:
            return False
        of_other = None if other is None else _own_factor(other)
        is_constant = of_other is None or isclose(of_other, factor, rel_tol=1e-6)
        stands_for_all = is_local(site, self.plate) and isclose(
            factor * self.num, self.size, rel_tol=1e-6
        )
        if is_constant and isclose(factor, 1, rel_tol=1e-6):
            return False
        if not is_constant and stands_for_all:
            assert of_other is not None
            if isclose(of_other * self.other_num, self.size, rel_tol=1e-6):
                return True
        if not is_constant or (stands_for_all and self.num != self.size):
            raise InputError(
                f"site {name!r} is scaled by {factor:g} in a batch of {self.num} of {self.size} "
                "data, and the bound would be scaled from the batch to all data a second time; "
                f"scale what is in plate {self.plate!r} by {self.size} / len(x), computed from the "
                "batch, or not at all"
            )
        if self.refuse_factors:
            raise InputError(
                f"site {name!r} is scaled by {factor:g} (for example by pyro.poutine.scale), so "
                "its density is not the one in p(x); evaluate the pair without the scale"
            )
        return False

    def _check_outside(self, site: Site, other: Site) -> None:
        if not site["is_observed"] and _num_entries(site) == _num_entries(other):
            return
        if _num_entries(site) == _num_entries(other):
            here, there = _log_prob(site), _log_prob(other)
            if isclose(here, there, rel_tol=1e-4, abs_tol=1e-4) or here != here:
                return
        raise InputError(
            f"site {site['name']!r} is outside of plate {self.plate!r}, but follows the data of a "
            "batch, so that its weight in the bound is not known; write it within "
            f"'with pyro.plate({self.plate!r}, len(x)):', with a value for each datum"
        )


def _trace_sites(
    pair: Pair, args: Sequence[Any], kwargs: dict[str, Any], given: Trace | None = None
) -> tuple[Trace, _Sites]:
    """The trace of the guide, and the sites of both programs, with the initial parameters.

    Arguments:
        pair: the model and the guide.
        args: a batch.
        kwargs: further arguments.
        given: a trace with the values of latents; drawn unless given.
    """
    model, guide = pair.functions
    if given is not None:
        guide = poutine.replay(guide, trace=given)
    with pair.throwaway_store():
        of_guide = trace_function(guide, *args, **kwargs)
        of_model = trace_function(poutine.replay(model, trace=of_guide), *args, **kwargs)
    sites = {
        (role, site["name"]): site
        for role, trace in (("guide", of_guide), ("model", of_model))
        for site in sample_sites(prune_subsample_sites(trace))
        if not is_deterministic(site)
    }
    return of_guide, sites


def _select_rows(trace: Trace, rows: Tensor, plate: str) -> Trace:
    """The trace with the values of some data alone, for the sites in the plate over data."""
    selected: Any = prune_subsample_sites(trace).copy()
    for site in list(sample_sites(selected)):
        value = site["value"]
        if is_local(site, plate) and isinstance(value, Tensor):
            axis = value.dim() - site["fn"].event_dim + data_dim(site, plate)
            if axis >= 0 and value.shape[axis] > 1:
                value = value.index_select(axis, rows.to(value.device))
            selected.nodes[site["name"]] = site | {"value": value}
    result: Trace = selected
    return result


def _plate_size(site: Site, plate: str) -> int:
    return next(int(frame.size) for frame in site["cond_indep_stack"] if frame.name == plate)


def _num_entries(site: Site) -> int:
    value = site["value"]
    return value.numel() if isinstance(value, Tensor) else 1


def _log_prob(site: Site) -> float:
    log_prob: Tensor = site["fn"].log_prob(site["value"], *site["args"], **site["kwargs"])
    return float(log_prob.sum())


def _own_factor(site: Site) -> float | None:
    """The factor of a site besides those of its plates; None for a factor for each entry."""
    scale = site["scale"]
    if isinstance(scale, Tensor) and scale.numel() > 1:
        return None
    frames = [frame for frame in site["cond_indep_stack"] if frame.size > 0]
    declared: float = prod((frame.full_size or frame.size) / frame.size for frame in frames)
    return float(scale) / declared
