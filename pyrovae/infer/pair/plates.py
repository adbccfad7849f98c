"""Traces in which plates without a size have the size that their sites have."""

from typing import Any

import torch
from pyro import poutine
from pyro.poutine import Trace
from pyro.poutine.messenger import Messenger
from torch import Tensor

__all__ = ["known_sizes", "trace_function"]


class _KnownSizes(Messenger):
    """Give plates without a size, ``pyro.plate("data")``, the size that their sites have."""

    def _pyro_sample(self, msg: Any) -> None:
        frames = msg["cond_indep_stack"]
        if all(frame.size >= 0 for frame in frames):
            return
        shape = msg["fn"].batch_shape
        if isinstance(msg["value"], Tensor):
            dims = msg["value"].shape[: msg["value"].dim() - msg["fn"].event_dim]
            shape = torch.broadcast_shapes(shape, dims)
        msg["cond_indep_stack"] = tuple(
            frame
            if frame.size >= 0 or frame.dim is None or len(shape) < -frame.dim
            else frame._replace(size=shape[frame.dim], full_size=shape[frame.dim])
            for frame in frames
        )


def known_sizes() -> Messenger:
    """A context in which plates without a size get the size that their sites have."""
    return _KnownSizes()


def trace_function(function: Any, *args: Any, **kwargs: Any) -> Trace:
    """The trace of a model or a guide, in which plates have sizes."""
    with known_sizes():
        trace: Trace = poutine.trace(function).get_trace(*args, **kwargs)
    return trace
