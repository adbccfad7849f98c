"""Matrix products by oneDNN.

torch multiplies float32 matrices on a CPU by MKL, which does not use the widest vectors on AMD
processors. oneDNN, which torch ships for convolutions, takes about half the time there (two cores
of an EPYC with AVX-512; microseconds, the second operand stored transposed, as in x W^T):

    =====================  =====  ==========  ==============
    product                MKL    oneDNN x W  oneDNN (W x)^T
    =====================  =====  ==========  ==============
    (32, 784) (784, 400)   159    102         66
    (128, 784) (784, 400)  462    236         210
    (128, 50) (50, 400)    34.7   28.3        26.9
    (32, 50) (50, 400)     12.7   19.3        17.9
    =====================  =====  ==========  ==============

oneDNN copies a second operand that is stored transposed, but not a first one. Such products are
therefore computed transposed, and their readers transpose the result.
"""

from functools import cache

import torch
from torch import Tensor, library
from torch.fx import GraphModule, Node

from ..private_torch import has_onednn_linear, lower_to_onednn, onednn_linear

__all__ = ["use_onednn"]

_LEAST = 2**21
"""Multiplications in a product below which torch's own, whose call is cheaper, computes it."""

_aten = torch.ops.aten

_operators = library.Library("pyrovae", "DEF")
_operators.define("linear(Tensor x, Tensor weight, Tensor? bias) -> Tensor")


def _meta(x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
    return x.new_empty(x.shape[0], weight.shape[0])


_operators.impl("linear", onednn_linear, "CPU")
_operators.impl("linear", _meta, "Meta")
_linear_operator = torch.ops.pyrovae.linear.default


def use_onednn(graph: GraphModule) -> None:
    """Compute the large products of float32 matrices on the CPU by oneDNN in a recorded graph."""
    if not has_onednn_linear():
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
        _lower()
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
        # No real copy: inductor fuses it into the loops that read the result.
        product = call(_aten.clone.default, (turned,), {"memory_format": torch.contiguous_format})
    elif bias is None or bias.meta["val"].shape == (y.shape[1],):
        return call(_linear_operator, (a, transposed, bias))
    else:
        product = call(_linear_operator, (a, transposed, None))
    return product if bias is None else call(_aten.add.Tensor, (product, bias))


@cache
def _lower() -> None:
    """Tell inductor, once, how to call the operator."""
    lower_to_onednn(_linear_operator)
