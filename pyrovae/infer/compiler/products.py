"""Products of matrices by oneDNN.

torch multiplies float32 matrices on a CPU by MKL, which on AMD processors does not use the widest
vectors: oneDNN, which torch ships for convolutions, takes about half its time there (two cores of
an EPYC with AVX-512; microseconds, the second operand stored transposed, as in x W^T):

    =====================  =====  ==========  ==============
    product                MKL    oneDNN x W  oneDNN (W x)^T
    =====================  =====  ==========  ==============
    (32, 784) (784, 400)   159    102         66
    (128, 784) (784, 400)  462    236         210
    (128, 50) (50, 400)    34.7   28.3        26.9
    (32, 50) (50, 400)     12.7   19.3        17.9
    =====================  =====  ==========  ==============

oneDNN copies a second operand that is stored transposed, and not a first one: so such products are
turned round, and the transposing of their results is left to what reads these.
"""

from functools import cache
from typing import Any

import torch
from torch import Tensor, library
from torch.fx import GraphModule, Node

__all__ = ["multiply_by_onednn"]

_LEAST = 2**21
"""Multiplications in a product below which it stays torch's own, whose call is cheaper."""

_aten = torch.ops.aten

_operators = library.Library("pyrovae", "DEF")
_operators.define("linear(Tensor x, Tensor weight, Tensor? bias) -> Tensor")


def _linear(x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
    product: Tensor = torch.ops.mkldnn._linear_pointwise.default(x, weight, bias, "none", [], "")
    return product


def _meta(x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
    return x.new_empty(x.shape[0], weight.shape[0])


_operators.impl("linear", _linear, "CPU")
_operators.impl("linear", _meta, "Meta")
_linear_operator = torch.ops.pyrovae.linear.default


def multiply_by_onednn(graph: GraphModule) -> None:
    """Let oneDNN have the large products of float32 matrices on the CPU in a recorded graph."""
    if not torch.backends.mkldnn.is_available():
        return
    for node in list(graph.graph.nodes):
        if node.target is _aten.mm.default:
            bias, (a, b) = None, node.args
        elif node.target is _aten.addmm.default and not node.kwargs:
            bias, a, b = node.args
        else:
            continue
        if not _is_worth_it(a, b):
            continue
        with graph.graph.inserting_before(node):
            product = _product(graph, a, b, bias)
        product.meta = node.meta
        node.replace_all_uses_with(product)
        graph.graph.erase_node(node)
        _lower_to_onednn()
    graph.recompile()


def _is_worth_it(a: Node, b: Node) -> bool:
    x, y = a.meta["val"], b.meta["val"]
    return (
        x.dtype is torch.float32
        and x.device.type == "cpu"
        and x.shape[0] * x.shape[1] * y.shape[1] >= _LEAST
    )


def _product(graph: GraphModule, a: Node, b: Node, bias: Node | None) -> Node:
    call = graph.graph.call_function
    x, y = a.meta["val"], b.meta["val"]
    transposed = call(_aten.permute.default, (b, [1, 0]))
    is_stored_transposed = y.stride(0) == 1 and y.stride(1) != 1
    if is_stored_transposed and y.shape[1] >= x.shape[0]:
        turned = call(_linear_operator, (transposed, a, None))
        turned = call(_aten.permute.default, (turned, [1, 0]))
        # A copy in name only: it becomes part of the loops that read it.
        product = call(_aten.clone.default, (turned,), {"memory_format": torch.contiguous_format})
    elif bias is None or bias.meta["val"].shape == (y.shape[1],):
        return call(_linear_operator, (a, transposed, bias))
    else:
        product = call(_linear_operator, (a, transposed, None))
    return product if bias is None else call(_aten.add.Tensor, (product, bias))


@cache
def _lower_to_onednn() -> None:
    """Have inductor call oneDNN itself, which its own lowering does for constant weights alone."""
    from torch._inductor.ir import FixedLayout, TensorBox
    from torch._inductor.lowering import register_lowering
    from torch._inductor.mkldnn_ir import LinearUnary, _create_output_node

    def linear(x: Any, weight: Any, bias: Any) -> Any:
        # The first operand row by row, lest torch copies it; the second may be transposed.
        x = LinearUnary.require_contiguous(LinearUnary.realize_input(x))
        weight = LinearUnary.realize_input(weight)
        size = [x.get_size()[0], weight.get_size()[0]]
        layout = FixedLayout(device=x.get_device(), dtype=x.get_dtype(), size=size)
        inputs, no_bias = [x, weight], [None]
        if bias is not None:
            inputs, no_bias = [*inputs, LinearUnary.realize_input(bias)], []
        constants = [*no_bias, "none", [-1], ""]  # what is to follow the product, and how
        packed = LinearUnary(layout=layout, inputs=inputs, constant_args=constants)
        return TensorBox.create(_create_output_node(packed))

    register_lowering(_linear_operator, type_promotion_kind=None)(linear)
