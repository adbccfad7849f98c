"""q(z | x) and the prior of each latent site of a pair, one site at a time."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import pyro
import torch
from jaxtyping import Float
from torch import Tensor
from torch.distributions import Independent

from ...errors import InputError
from .bound import evaluate_bound
from .pair import Pair
from .plates import trace_function
from .sites import is_local

__all__ = [
    "LOG_PROB_ERRORS",
    "LocalLatent",
    "find_local_latents",
    "flatten_per_datum",
    "no_density_error",
    "unwrap_independent",
]

LOG_PROB_ERRORS = (RuntimeError, ValueError, TypeError, LookupError)
"""Raised by the ``log_prob`` of families that cannot score every value."""


@dataclass(frozen=True)
class LocalLatent:
    """A latent of each datum of a batch.

    Attributes:
        name: name of its site.
        q: q(z | x), built without Pyro's validation, so that values outside of its support have
            density zero.
        prior: p(z), given the draws of the latents that it depends on, if any.
        frames: the plates around it.
        data_axis: the dimension over data in the batch shapes of q and prior, from the left.
    """

    name: str
    q: Any
    prior: Any
    frames: tuple[Any, ...]
    data_axis: int


def find_local_latents(pair: Pair, batch: Sequence[Any], plate: str) -> list[LocalLatent]:
    """The latents of a pair for a batch of data, each with its q(z | x) and prior.

    The guide runs twice, to check that q does not change from run to run and so is q(z | x).

    Raises:
        InputError: if the pair has no bound, or a latent is outside of the plate over data, is
            masked, has a q that depends on draws (for example of other latents), or has a q
            that cannot score its draws.
    """
    with torch.no_grad(), pair.store(), pair.eval_mode():
        bound = evaluate_bound(*pair.functions, *batch, plate=plate)
        bound.check()
        with pyro.validation_enabled(False):
            again: Any = trace_function(pair.functions[1], *batch)
    sites: dict[str, Any] = dict(bound.guide_trace.nodes)
    latents = []
    for name, site in sites.items():
        if site["type"] != "sample" or site["is_observed"] or site["infer"].get("is_auxiliary"):
            continue
        in_model: Any = bound.model_trace.nodes[name]
        frames = _find_plates(name, site, in_model, plate)
        q, prior, value = again.nodes[name]["fn"], in_model["fn"], site["value"]
        if q.batch_shape != prior.batch_shape:
            raise InputError(
                f"site {name!r} has the batch shape {tuple(q.batch_shape)} in the guide and "
                f"{tuple(prior.batch_shape)} in the model; put it in the same plates in both"
            )
        try:
            first, second = site["fn"].log_prob(value), q.log_prob(value)
        except LOG_PROB_ERRORS as error:
            raise no_density_error(name, q) from error
        same = torch.allclose(first, second, rtol=1e-3, atol=1e-3, equal_nan=True)
        if not same:
            raise InputError(
                f"the guide's distribution of site {name!r} changes from run to run, since it "
                "depends on the draw of another latent (a hierarchical guide) or on other noise; "
                "this estimate needs a guide that computes q(z | x) of each latent from x alone"
            )
        dim = next(frame.dim for frame in frames if frame.name == plate)
        latents.append(LocalLatent(name, q, prior, frames, len(q.batch_shape) + dim))
    return latents


def _find_plates(name: str, site: Any, in_model: Any, plate: str) -> tuple[Any, ...]:
    """The plates around a latent, which must include the plate over data."""
    for each in (site, in_model):
        if not is_local(each, plate):
            raise InputError(
                f"latent {name!r} is outside of plate {plate!r}, shared by all data: it has no "
                "q(z | x) of one datum; put it in the plate, or leave it out of the pair"
            )
        if each["mask"] is not None:
            raise InputError(
                f"latent {name!r} is masked (for example by pyro.poutine.mask), so only some data "
                "have it; give only data that have it, and no mask"
            )
    frames: tuple[Any, ...] = tuple(site["cond_indep_stack"])
    if any(frame.dim is None for frame in frames):
        raise InputError(
            f"latent {name!r} is in a plate that is a loop; write 'with pyro.plate(...)'"
        )
    return frames


def no_density_error(name: str, q: Any) -> InputError:
    """The error for a latent whose q can score only the values that it has just drawn."""
    family = type(unwrap_independent(q)).__name__
    return InputError(
        f"the guide's distribution of site {name!r}, {family}, gives no density of values that it "
        "did not draw; use a family whose log_prob takes any value and broadcasts"
    )


def unwrap_independent(distribution: Any) -> Any:
    """The independent factors of a distribution, as a batch."""
    while isinstance(distribution, Independent):
        distribution = distribution.base_dist
    return distribution


def flatten_per_datum(values: Tensor, data_axis: int) -> Float[Tensor, "batch rest"]:
    """One row for each datum with all its values, in double precision."""
    moved = values.double().movedim(data_axis, 0)
    return moved.reshape(len(moved), -1)
