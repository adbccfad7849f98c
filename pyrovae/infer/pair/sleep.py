"""The sleep phase of wake-sleep: the guide on data simulated from the model."""

from typing import Any

import torch
from pyro import poutine
from pyro.poutine import Trace
from pyro.poutine.util import prune_subsample_sites
from torch import Tensor

from ...errors import InputError
from .bound import PyroFunction
from .plates import trace_function
from .sites import is_deterministic, sample_sites

__all__ = ["trace_sleep_phase"]


def trace_sleep_phase(
    model: PyroFunction, guide: PyroFunction, args: tuple[Any, ...], kwargs: dict[str, Any]
) -> Trace:
    """Draw latents and data from the model, and score the guide at these latents, given the data.

    Returns:
        The trace of the guide, scored.

    Raises:
        InputError: if the guide cannot be given the simulated data or scored at the latents.
    """
    with torch.no_grad():
        dream: Any = trace_function(poutine.uncondition(model), *args, **kwargs)
    drawn = {site["name"]: site for site in sample_sites(dream)}
    simulated: dict[int, Tensor] = {}
    for name, site in drawn.items():
        if not site["infer"].get("was_observed") or is_deterministic(site):
            continue
        observed = site["infer"]["obs"]
        if not any(arg is observed for arg in args):
            raise InputError(
                f"the model observes at {name!r} a value that is none of its arguments, so "
                "simulated data cannot be passed to the guide in its place; use 'rws'"
            )
        if id(observed) in simulated:
            raise InputError(
                f"the model observes the same argument at {name!r} and at another site, so the "
                "argument cannot be simulated; use 'rws'"
            )
        simulated[id(observed)] = site["value"]
    args = tuple(simulated.get(id(arg), arg) for arg in args)
    latents = {n: s["value"] for n, s in drawn.items() if not s["infer"].get("was_observed")}
    conditioned = poutine.condition(guide, data=latents)
    trace: Any = prune_subsample_sites(trace_function(conditioned, *args, **kwargs))
    for site in sample_sites(trace):
        if site["infer"].get("is_auxiliary"):
            raise InputError(
                f"site {site['name']!r} of the guide is auxiliary, so log q of the latents that "
                "the model drew is not known; use 'rws'"
            )
    trace.compute_log_prob()
    scored: Trace = trace
    return scored
