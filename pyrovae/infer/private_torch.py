"""All that pyrovae takes from private modules and attributes of torch.

Each use has a slower path with the same results, taken where torch no longer has what is named.
The exceptions are ``TorchDispatchMode``, which torch documents, and ``skipping_update``, whose test
fails loudly if torch ignores it. ``tests/infer/test_private_torch.py`` says in words what a release
of torch changed. Inductor is imported where it is used, so that only compiling loads it.
"""

from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass
from operator import getitem
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
    "global_module_hooks",
    "has_onednn_linear",
    "is_operator",
    "is_recording",
    "is_view",
    "lower_to_onednn",
    "lower_to_stored_copy",
    "mark_as_stepped",
    "not_recording",
    "observe_graph_calls",
    "onednn_linear",
    "recording_quickly",
    "returns_new_tensors",
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


def returns_new_tensors(target: Any) -> bool:
    """Whether an operator of torch neither returns views nor writes to its arguments."""
    return is_operator(target) and all(each.alias_info is None for each in target._schema.returns)


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


def is_view(node: Node) -> bool:
    """Whether a node shares the memory of its first argument, as views and parts of lists do."""
    target: Any = node.target
    if node.op != "call_function" or not node.args or not isinstance(node.args[0], Node):
        return False
    if target is getitem:
        return True
    if not is_operator(target) or not target._schema.arguments:
        return False
    alias = target._schema.arguments[0].alias_info
    return alias is not None and not alias.is_write


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


def global_module_hooks() -> list[dict[int, Any]]:
    """The hooks of all modules, where torch keeps them as dicts of known names."""
    kinds = ("forward_hooks", "forward_pre_hooks", "backward_hooks", "backward_pre_hooks")
    found = (getattr(torch.nn.modules.module, f"_global_{kind}", None) for kind in kinds)
    return [hooks for hooks in found if isinstance(hooks, dict)]


def is_recording() -> bool:
    """Whether ``make_fx`` records what is computed."""
    from torch.fx.experimental.proxy_tensor import get_proxy_mode

    return get_proxy_mode() is not None


def not_recording() -> AbstractContextManager[Any]:
    """Within, ``make_fx`` does not record, and tensors have the values of the recorded run."""
    from torch.utils._python_dispatch import _disable_current_modes

    return _disable_current_modes()


def recording_quickly() -> AbstractContextManager[Any]:
    """Within, ``make_fx`` notes shapes by means of one fake mode, not of a new one for each result.

    A new one lists the whole stack of Python calls, which takes most of the time of a recording.
    """
    try:
        from torch._guards import TracingContext, tracing
        from torch._subclasses.fake_tensor import FakeTensorMode
    except ImportError:
        return nullcontext()
    return tracing(TracingContext(FakeTensorMode(allow_fallback_kernels=True)))


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


def lower_to_stored_copy(operator: Any) -> None:
    """Have inductor compute the copy that an operator makes of its argument once, and keep it.

    Where its functions have changed, inductor calls the operator itself.
    """
    try:
        from torch._inductor.lowering import clone, register_lowering
    except ImportError:
        return

    def stored_copy(x: Any) -> Any:
        copy = clone(x)
        copy.realize()
        return copy

    register_lowering(operator, type_promotion_kind=None)(stored_copy)


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
