"""All that pyrovae takes from private modules and attributes of torch.

Each use has a slower path with the same results, taken where torch no longer has what is named.
The exceptions are ``TorchDispatchMode``, which torch documents, and ``skipping_update``, whose test
fails loudly if torch ignores it. ``tests/infer/test_private_torch.py`` says in words what a release
of torch changed. Inductor is imported where it is used, so that only compiling loads it.
"""

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any
from unittest.mock import patch

import torch
from torch import Tensor
from torch.fx import GraphModule, Node
from torch.optim import Adam, AdamW, Optimizer
from torch.utils._python_dispatch import TorchDispatchMode  # "Extending PyTorch" documents it

__all__ = [
    "COMPILER_LOGGERS",
    "TESTED_VERSIONS",
    "GraphCall",
    "TorchDispatchMode",
    "can_skip_updates",
    "compile_graph",
    "has_onednn_linear",
    "is_operator",
    "lower_to_onednn",
    "mark_as_stepped",
    "observe_graph_calls",
    "onednn_linear",
    "skipping_update",
    "written_nodes",
]

TESTED_VERSIONS = ("2.14.1",)
"""Versions of torch on which all tests of this file have passed."""

COMPILER_LOGGERS = ("torch.utils.cpp_extension", "torch._inductor")
"""Names of the loggers on which the compiler reports what it imports and cannot call from C++."""

_Operator = type(torch.ops.aten.add.Tensor)


def is_operator(target: Any) -> bool:
    """Whether the target of a node is an operator of torch, rather than a Python function."""
    return isinstance(target, _Operator)


def written_nodes(node: Node) -> list[Node]:
    """The nodes whose tensors an operator writes to, by its schema.

    Without schemas (``torch._ops.OpOverload._schema``) this raises an AttributeError, and a step is
    not recorded.
    """
    target: Any = node.target
    if node.op != "call_function" or not is_operator(target):
        return []
    given = dict(zip((a.name for a in target._schema.arguments), node.args, strict=False))
    given |= node.kwargs
    written: list[Any] = []
    for declared in target._schema.arguments:
        alias, argument = declared.alias_info, given.get(declared.name)
        if alias is not None and alias.is_write:
            written += argument if isinstance(argument, list | tuple) else [argument]
    return [each for each in written if isinstance(each, Node)]


def compile_graph(graph: GraphModule, inputs: list[Any], *, cpp_wrapper: bool) -> Any:
    """Compile a graph for tensors of just these shapes with ``torch._inductor``.

    Arguments:
        graph: of tensors.
        inputs: tensors like those that the graph will be given.
        cpp_wrapper: whether kernels are called from C++; from Python otherwise.

    Raises:
        Exception: whatever stops the compiler. The recorded graph then runs uncompiled.
    """
    from torch._inductor import standalone_compile

    options = {"fallback_random": True, "cpp_wrapper": cpp_wrapper}
    return standalone_compile(
        graph,
        inputs,
        # Other settings give dynamic shapes, whose guards nobody checks.
        dynamic_shapes="from_example_inputs",
        options={"config_patches": options},
    )


@dataclass
class GraphCall:
    """A call of a compiled graph.

    Attributes:
        function: calls the graph alone.
        inputs: what the graph was given.
        results: what the graph returned.
    """

    function: Callable[[list[Tensor]], Sequence[Tensor]]
    inputs: list[Any]
    results: list[Any]


@contextmanager
def observe_graph_calls() -> Iterator[list[GraphCall]]:
    """Within, list the calls of compiled graphs.

    Where torch has no ``CompiledFxGraph.current_callable``, the list stays empty, and compiled
    functions are called with torch's wrappers, which cost some tens of microseconds.
    """
    calls: list[GraphCall] = []
    try:
        from torch._inductor.output_code import CompiledFxGraph
    except ImportError:
        yield calls
        return
    call_graph = CompiledFxGraph.__call__

    def observed(graph: Any, inputs: Sequence[Any]) -> Any:
        given = list(inputs)  # the graph clears its list of inputs
        results = call_graph(graph, inputs)
        function = getattr(graph, "current_callable", None)
        if function is not None:
            calls.append(GraphCall(function, given, list(results)))
        return results

    with patch.object(CompiledFxGraph, "__call__", observed):
        yield calls


def has_onednn_linear() -> bool:
    """Whether torch's build multiplies by oneDNN; by its BLAS alone otherwise."""
    return torch.backends.mkldnn.is_available() and hasattr(torch.ops.mkldnn, "_linear_pointwise")


def onednn_linear(x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
    """x W^T + b by oneDNN."""
    product: Tensor = torch.ops.mkldnn._linear_pointwise.default(x, weight, bias, "none", [], "")
    return product


def lower_to_onednn(operator: Any) -> None:
    """Have inductor call oneDNN for an operator with the arguments of :func:`onednn_linear`.

    Inductor's own lowering does so for constant weights alone. Where its classes have changed,
    inductor calls the operator itself, which adds the cost of a call from Python.
    """
    try:
        from torch._inductor.ir import FixedLayout, TensorBox
        from torch._inductor.lowering import register_lowering
        from torch._inductor.mkldnn_ir import LinearUnary, _create_output_node
    except ImportError:
        return

    def linear(x: Any, weight: Any, bias: Any) -> Any:
        # The first operand row by row, or torch would copy it; the second may be transposed.
        x = LinearUnary.require_contiguous(LinearUnary.realize_input(x))
        weight = LinearUnary.realize_input(weight)
        size = [x.get_size()[0], weight.get_size()[0]]
        layout = FixedLayout(device=x.get_device(), dtype=x.get_dtype(), size=size)
        inputs, no_bias = [x, weight], [None]
        if bias is not None:
            inputs, no_bias = [*inputs, LinearUnary.realize_input(bias)], []
        constants = [*no_bias, "none", [-1], ""]  # the operation after the product: none
        packed = LinearUnary(layout=layout, inputs=inputs, constant_args=constants)
        return TensorBox.create(_create_output_node(packed))

    register_lowering(operator, type_promotion_kind=None)(linear)


def can_skip_updates(optimiser: Optimizer) -> bool:
    """Whether the optimiser reads on the device that it shall skip an update.

    Fused Adam and AdamW do, for gradient scaling. Others than these may start from moments that do
    not exist yet, where the first update is skipped. Without it each step waits for the device.
    """
    return isinstance(optimiser, Adam | AdamW) and bool(
        getattr(optimiser, "_step_supports_amp_scaling", False)
    )


@contextmanager
def skipping_update(optimiser: Any, skipped: Tensor) -> Iterator[None]:
    """Within, ``optimiser.step()`` changes nothing where the boolean tensor is true."""
    optimiser.found_inf, optimiser.grad_scale = skipped.float(), None
    try:
        yield
    finally:
        del optimiser.found_inf, optimiser.grad_scale


def mark_as_stepped(optimiser: Any) -> None:
    """Let schedules know that an update was made without ``optimiser.step()``.

    Otherwise they warn that they are stepped before the optimiser.
    """
    optimiser._opt_called = True
