"""What torch compiled, called without the wrappers that torch puts around it."""

from collections.abc import Callable, Sequence
from typing import Any
from unittest.mock import patch

import torch
from torch import Tensor
from torch._inductor.output_code import CompiledFxGraph

__all__ = ["Direct"]


class Direct:
    """Calls a compiled function, from the second call on without the wrappers around its graph.

    They cost some tens of microseconds, and serve functions that return views of their inputs,
    have gradients, or are compiled in pieces. Whether this is one of them is seen in the first
    call: where its one graph gets just the arguments, behind tensors of its own, and gives just the
    results, it is called in place of the function, which is kept otherwise.

    Arguments:
        function: of tensors; runs without gradients.
    """

    def __init__(self, function: Callable[..., Any]) -> None:
        self._function = function
        self._call: Callable[[list[Tensor]], Sequence[Tensor]] | None = None
        self._constants: list[Tensor] = []
        self._is_wrapped = False

    @property
    def is_direct(self) -> bool:
        """Whether the next call goes to the graph."""
        return self._call is not None

    def __call__(self, *tensors: Tensor) -> list[Tensor]:
        """The results of the function."""
        if self._call is not None:
            had_grad = torch.is_grad_enabled()
            torch.set_grad_enabled(False)
            try:
                return list(self._call([*self._constants, *tensors]))
            finally:
                torch.set_grad_enabled(had_grad)
        with torch.no_grad():
            return self._listed(tensors) if self._is_wrapped else self._first(tensors)

    def _listed(self, tensors: Sequence[Tensor]) -> list[Tensor]:
        results = self._function(*tensors)
        return [results] if isinstance(results, Tensor) else list(results)

    def _first(self, tensors: Sequence[Tensor]) -> list[Tensor]:
        """Call the function, and look at the calls of graphs within."""
        calls: list[tuple[Any, list[Any], list[Any]]] = []
        call_graph = CompiledFxGraph.__call__

        def seen(graph: CompiledFxGraph, inputs: Sequence[Any]) -> Any:
            given = list(inputs)  # which the graph lets go
            results = call_graph(graph, inputs)
            calls.append((graph, given, list(results)))
            return results

        with patch.object(CompiledFxGraph, "__call__", seen):
            results = self._listed(tensors)
        self._is_wrapped = True
        if len(calls) == 1:
            graph, given, given_back = calls[0]
            num_constants = len(given) - len(tensors)
            if _are_same(given[num_constants:], tensors) and _are_same(given_back, results):
                self._constants = given[:num_constants]
                self._call = graph.current_callable
        return results


def _are_same(these: Sequence[Any], those: Sequence[Any]) -> bool:
    return len(these) == len(those) and all(a is b for a, b in zip(these, those, strict=True))
