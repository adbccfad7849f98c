"""Find out by trial how a pair can be given several samples of each datum at once."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
from pyro import poutine
from pyro.poutine import Trace
from pyro.poutine.util import prune_subsample_sites, site_is_subsample
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _NormBase
from torch.nn.modules.module import register_module_forward_pre_hook

from ...errors import InputError
from .bound import PyroFunction
from .layout import PARTICLE_PLATE, ParticleLayout
from .plates import trace_function
from .rows import repeat_rows
from .sites import is_local, sample_sites

__all__ = ["Arrange", "choose_layout"]

Arrange = Callable[[PyroFunction, ParticleLayout], PyroFunction]
"""Makes a model or a guide run with its particles in a layout."""

_CHANNEL_LAYERS = (_NormBase, nn.GroupNorm, nn.PReLU)

_NO_LAYOUT = (
    "the pair cannot be given several samples of each datum: its networks take no further "
    "dimension on the left, and its first argument is not the batch of data, so its rows cannot be "
    "repeated"
)


def choose_layout(
    model: PyroFunction,
    guide: PyroFunction,
    num: int,
    plate: str,
    arrange: Arrange,
    args: tuple[Any, ...],
    kwargs: dict[str, Any],
) -> ParticleLayout:
    """Put samples in an outer plate if networks allow it, and in repeated rows otherwise.

    Arguments:
        model: p(x, z).
        guide: q(z | x).
        num: samples of each datum, two or more.
        plate: name of the plate over data.
        arrange: makes model and guide run in a layout.
        args: example arguments of model and guide.
        kwargs: likewise.

    Raises:
        InputError: if neither layout works.
    """
    with _record_channel_dims() as alone:
        traces = _trace_pair(model, guide, args, kwargs)
    frames = [
        frame
        for trace in traces
        for site in sample_sites(trace)
        for frame in site["cond_indep_stack"]
    ]
    particle_dim = -1 - max((-f.dim for f in frames if f.dim is not None), default=0)
    in_plate = ParticleLayout(num, plate, particle_dim)
    try:
        with _record_channel_dims() as together:
            has_same_densities = _has_same_densities(model, guide, in_plate, arrange, args, kwargs)
        if has_same_densities and together <= alone:
            return in_plate
    except Exception:  # for example from a network that takes batches only
        pass
    repeated = ParticleLayout(num, plate)
    sizes = {frame.size for frame in frames if frame.name == plate}
    try:
        rows = tuple(repeat_rows(args, num))
        _, model_trace = _trace_pair(
            arrange(model, repeated), arrange(guide, repeated), rows, kwargs
        )
        repeated_sizes = {
            frame.size
            for site in sample_sites(prune_subsample_sites(model_trace))
            for frame in site["cond_indep_stack"]
            if frame.name == plate
        }
    except Exception as error:
        raise InputError(f"{_NO_LAYOUT} ({type(error).__name__}: {error})") from error
    if repeated_sizes != {size * num for size in sizes}:
        raise InputError(_NO_LAYOUT)
    return repeated


def _trace_pair(
    model: PyroFunction, guide: PyroFunction, args: tuple[Any, ...], kwargs: dict[str, Any]
) -> tuple[Trace, Trace]:
    """Traces of the guide, and of the model replayed against it."""
    guide_trace = trace_function(guide, *args, **kwargs)
    replayed = poutine.replay(model, trace=guide_trace)
    return guide_trace, trace_function(replayed, *args, **kwargs)


def _has_same_densities(
    model: PyroFunction,
    guide: PyroFunction,
    layout: ParticleLayout,
    arrange: Arrange,
    args: tuple[Any, ...],
    kwargs: dict[str, Any],
) -> bool:
    """Whether samples in the outer plate have the densities that each has alone."""
    dim = layout.particle_dim
    assert dim is not None
    traces: Any = _trace_pair(arrange(model, layout), arrange(guide, layout), args, kwargs)
    guide_trace, model_trace = traces
    for trace in (guide_trace, model_trace):
        trace.compute_log_prob()
    for number in range(min(2, layout.num)):
        one = guide_trace.copy()
        for name, site in guide_trace.nodes.items():
            if _is_drawn(site) and is_local(site, PARTICLE_PLATE):
                along = site["value"].dim() - site["fn"].event_dim + dim
                one.nodes[name] = site | {"value": site["value"].select(along, number)}
        for function, together in ((guide, guide_trace), (model, model_trace)):
            trace = trace_function(poutine.replay(function, trace=one), *args, **kwargs)
            trace.compute_log_prob()
            for name, site in trace.nodes.items():
                if not _is_drawn(site):
                    continue
                log_prob = together.nodes[name]["log_prob"]
                if log_prob.dim() < -dim or log_prob.shape[dim] != layout.num:
                    return False
                if not _is_close(log_prob.select(dim, number), site["log_prob"]):
                    return False
    return True


def _is_drawn(site: Any) -> bool:
    return site["type"] == "sample" and not site_is_subsample(site)


@contextmanager
def _record_channel_dims() -> Iterator[set[tuple[int, int]]]:
    """Record how many dimensions the inputs of layers with channels have, for each layer.

    Such layers take the second dimension for channels. Their densities cannot show whether that
    dimension is right, since at their initial values they are the identity for any dimension.
    """
    dims: set[tuple[int, int]] = set()

    def record(module: nn.Module, args: Any) -> None:
        if isinstance(module, _CHANNEL_LAYERS):
            dims.add((id(module), args[0].dim()))

    handle = register_module_forward_pre_hook(record)
    try:
        yield dims
    finally:
        handle.remove()


def _is_close(a: Tensor, b: Tensor) -> bool:
    if a.numel() != b.numel():
        return False
    scale = float(b.abs().max().clamp_min(1))
    return torch.allclose(a.reshape(b.shape), b, rtol=0, atol=1e-3 * scale)
