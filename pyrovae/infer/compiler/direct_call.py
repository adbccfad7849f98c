"""Call a compiled graph without the wrappers that torch puts around it."""

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor

from ..private_torch import observe_graph_calls

__all__ = ["DirectCall"]


class DirectCall:
    """Calls a compiled function, from the second call on without the wrappers around its graph.

    The wrappers cost some tens of microseconds. They are needed for functions that return views of
    their inputs, have gradients, or are compiled in pieces. The first call checks which case this
    is: where one graph takes just the arguments, after constants of its own, and returns just the
    results, later calls go to the graph. Otherwise they go to the function.

    Arguments:
        function: a compiled function of tensors; it runs without gradients.
    """

    def __init__(self, function: Callable[..., Any]) -> None:
        self._function = function
        self._graph: Callable[[list[Tensor]], Sequence[Tensor]] | None = None
        self._constants: list[Tensor] = []
        self._needs_wrappers = False

    @property
    def is_direct(self) -> bool:
        """Whether the next call goes to the graph."""
        return self._graph is not None

    def __call__(self, *tensors: Tensor) -> list[Tensor]:
        """The results of the function."""
        if self._graph is not None:
            had_grad = torch.is_grad_enabled()
            torch.set_grad_enabled(False)
            try:
                return list(self._graph([*self._constants, *tensors]))
            finally:
                torch.set_grad_enabled(had_grad)
        with torch.no_grad():
            if self._needs_wrappers:
                return self._call_function(tensors)
            return self._call_first(tensors)

    def _call_function(self, tensors: Sequence[Tensor]) -> list[Tensor]:
        results = self._function(*tensors)
        return [results] if isinstance(results, Tensor) else list(results)

    def _call_first(self, tensors: Sequence[Tensor]) -> list[Tensor]:
        """Call the function, and observe the calls of graphs within it."""
        with observe_graph_calls() as calls:
            results = self._call_function(tensors)
        self._needs_wrappers = True
        if len(calls) == 1:
            inputs, num_constants = calls[0].inputs, len(calls[0].inputs) - len(tensors)
            if _are_same(inputs[num_constants:], tensors) and _are_same(calls[0].results, results):
                self._constants = inputs[:num_constants]
                self._graph = calls[0].function
        return results


def _are_same(these: Sequence[Any], those: Sequence[Any]) -> bool:
    return len(these) == len(those) and all(a is b for a, b in zip(these, those, strict=True))
