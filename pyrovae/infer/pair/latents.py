"""The latents of each datum, by themselves: q(z | x) and prior of each site of a pair."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import pyro
import torch
from jaxtyping import Float
from pyro import poutine
from torch import Tensor
from torch.distributions import Independent

from ...errors import InputError
from .bound import evaluate_bound
from .pair import Pair

__all__ = [
    "LOG_PROB_ERRORS",
    "LocalLatent",
    "by_datum",
    "factors_of",
    "local_latents",
    "no_density",
]

LOG_PROB_ERRORS = (RuntimeError, ValueError, TypeError, LookupError)
"""What families raise whose ``log_prob`` does not take any value."""


@dataclass(frozen=True)
class LocalLatent:
    """A latent of each datum of a batch.

    Attributes:
        name: of its site.
        q: q(z | x), made without Pyro's validation, so that values outside of its support have
            the density zero.
        prior: p(z), given the draws of the latents before it, if it depends on any.
        frames: the plates that it is in.
        place: the dimension of the batch shapes of q and prior that is over data, from the left.
    """

    name: str
    q: Any
    prior: Any
    frames: tuple[Any, ...]
    place: int


def local_latents(pair: Pair, batch: Sequence[Any], plate: str) -> list[LocalLatent]:
    """The latents of a pair for a batch of data, each with its q(z | x) and prior.

    The guide is run twice: a q that changes from run to run is not q(z | x).

    Raises:
        InputError: if the pair has no bound, or a latent is outside of the plate over data, is
            masked, or has a q that depends on draws, such as those of other latents, or that
            has no density of them.
    """
    with torch.no_grad(), pair.store(), pair.eval_mode():
        bound = evaluate_bound(*pair.functions, *batch, plate=plate)
        bound.check()
        with pyro.validation_enabled(False):
            again: Any = poutine.trace(pair.functions[1]).get_trace(*batch)
    sites: dict[str, Any] = dict(bound.guide_trace.nodes)
    latents = []
    for name, site in sites.items():
        if site["type"] != "sample" or site["is_observed"] or site["infer"].get("is_auxiliary"):
            continue
        in_model: Any = bound.model_trace.nodes[name]
        frames = _frames(name, site, in_model, plate)
        q, prior, value = again.nodes[name]["fn"], in_model["fn"], site["value"]
        if q.batch_shape != prior.batch_shape:
            raise InputError(
                f"site {name!r} has the batch shape {tuple(q.batch_shape)} in the guide and "
                f"{tuple(prior.batch_shape)} in the model; put it in the same plates in both"
            )
        try:
            first, second = site["fn"].log_prob(value), q.log_prob(value)
        except LOG_PROB_ERRORS as error:
            raise no_density(name, q) from error
        same = torch.allclose(first, second, rtol=1e-3, atol=1e-3, equal_nan=True)
        if not same:
            raise InputError(
                f"the guide's distribution of site {name!r} changes from run to run, since it "
                "depends on the draw of another latent (a hierarchical guide) or on other noise; "
                "what is asked needs q(z | x) of each latent by itself"
            )
        dim = next(frame.dim for frame in frames if frame.name == plate)
        latents.append(LocalLatent(name, q, prior, frames, len(q.batch_shape) + dim))
    return latents


def _frames(name: str, site: Any, in_model: Any, plate: str) -> tuple[Any, ...]:
    for each in (site, in_model):
        if not any(frame.name == plate for frame in each["cond_indep_stack"]):
            raise InputError(
                f"latent {name!r} is outside of plate {plate!r}, shared by all data: it has no "
                "q(z | x) of one datum; put it in the plate, or leave it out of the pair"
            )
        if each["mask"] is not None:
            raise InputError(
                f"latent {name!r} is masked (as by pyro.poutine.mask), so that it is there for "
                "some data only; give data that all have it, and no mask"
            )
    frames: tuple[Any, ...] = tuple(site["cond_indep_stack"])
    if any(frame.dim is None for frame in frames):
        raise InputError(f"latent {name!r} is in a plate that is a loop; write 'with pyro.plate'")
    return frames


def no_density(name: str, q: Any) -> InputError:
    """The error that a latent's q has no density of values that it did not draw."""
    family = type(factors_of(q)).__name__
    return InputError(
        f"the guide's distribution of site {name!r}, {family}, gives no density of values that it "
        "did not draw; use a family whose log_prob takes any value and broadcasts"
    )


def factors_of(distribution: Any) -> Any:
    """The independent factors of a distribution, as a batch."""
    while isinstance(distribution, Independent):
        distribution = distribution.base_dist
    return distribution


def by_datum(values: Tensor, place: int) -> Float[Tensor, "batch rest"]:
    """What a latent has for each datum, in double precision; place is the dimension over data."""
    moved = values.double().movedim(place, 0)
    return moved.reshape(len(moved), -1)
