"""Sample sites of a Pyro trace: which belong to one datum, in which dimension, and how scaled."""

from collections.abc import Iterator
from typing import Any

from pyro.poutine import Trace

from ...errors import InputError

__all__ = ["Site", "data_dim", "is_deterministic", "is_local", "sample_sites", "subsample_scale"]

Site = dict[str, Any]


def sample_sites(trace: Trace) -> Iterator[Site]:
    """The sites of ``pyro.sample`` statements, observed ones included."""
    nodes: Iterator[Any] = iter(trace.nodes.values())
    return (site for site in nodes if site["type"] == "sample")


def is_deterministic(site: Site) -> bool:
    """Whether the site is a ``pyro.deterministic`` statement."""
    return bool(site["infer"].get("_deterministic"))


def is_local(site: Site, plate: str) -> bool:
    """Whether each datum has a value of its own, so that the site is in the plate over data."""
    return any(frame.name == plate for frame in site["cond_indep_stack"])


def data_dim(site: Site, plate: str) -> int:
    """The dimension over data of a local site, counted from the right of its batch shape.

    Raises:
        InputError: if the plate over data is a loop.
    """
    (frame,) = (frame for frame in site["cond_indep_stack"] if frame.name == plate)
    if frame.dim is None:
        raise InputError(
            f"plate {plate!r} is a loop over data; the terms of each datum need the data in one "
            "tensor: write 'with pyro.plate(...)'"
        )
    return int(frame.dim)


def subsample_scale(site: Site, plate: str) -> float:
    """The factor by which a plate over data scales a local site when it subsamples the data.

    Raises:
        InputError: if the site is scaled by anything else.
    """
    (frame,) = (frame for frame in site["cond_indep_stack"] if frame.name == plate)
    scale = float(site["scale"])
    declared = (frame.full_size or frame.size) / frame.size
    if abs(scale - declared) > 1e-6 * declared:
        raise InputError(
            f"site {site['name']!r} is scaled by {scale:g} (for example by pyro.poutine.scale), so "
            "its density is not the one in p(x); evaluate the pair without the scale"
        )
    return scale
