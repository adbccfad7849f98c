"""Buffers such as running means, which a step moves unless it is blocked."""

from collections.abc import Callable

import torch
from jaxtyping import Bool
from torch import Tensor

__all__ = ["BufferGuard"]


class BufferGuard:
    """Takes back what blocked steps did to floating-point buffers.

    In a run of compiled steps with their update, only buffers that the first of them moved are
    looked after.

    Arguments:
        find_buffers: lists the buffers, some of which a step may replace.
    """

    def __init__(self, find_buffers: Callable[[], list[Tensor]]) -> None:
        self._find_buffers = find_buffers
        self._moving: list[Tensor] = []
        self._in_graph = False
        self._buffers: list[Tensor] = []
        self._values: list[Tensor] = []

    def save(self) -> None:
        """Keep the values of the buffers before a step."""
        self._buffers = self._moving if self._in_graph else self._find_floating()
        self._values = [buffer.clone() for buffer in self._buffers]

    def restore_if(self, blocked: Callable[[], Bool[Tensor, ""]], *, in_graph: bool) -> None:
        """Bring the values back where the step was blocked, without waiting for the device.

        Arguments:
            blocked: whether it was.
            in_graph: whether it was a compiled step with its update.
        """
        if in_graph and not self._in_graph:  # the first of a run
            pairs = zip(self._buffers, self._values, strict=True)
            self._moving = [buffer for buffer, value in pairs if not torch.equal(buffer, value)]
        self._in_graph = in_graph
        if not self._values:
            return
        buffers = self._buffers if in_graph else self._find_floating()
        with torch.no_grad():
            for buffer, value in zip(buffers, self._values, strict=False):
                if buffer.shape == value.shape:
                    buffer.copy_(torch.where(blocked(), value, buffer))

    def _find_floating(self) -> list[Tensor]:
        return [buffer for buffer in self._find_buffers() if buffer.is_floating_point()]
