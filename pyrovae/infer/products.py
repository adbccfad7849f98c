"""Products of matrices by oneDNN.

torch multiplies float32 matrices on a CPU by MKL, which on AMD processors does not use the widest
vectors: oneDNN, which torch ships for convolutions, takes about half its time there (784 x 400
by 128 columns, two cores of an EPYC with AVX-512: 0.23 ms for 0.45 ms).
"""

import torch
from torch import Tensor, library
from torch.fx import GraphModule, Node

__all__ = ["multiply_by_onednn"]

_LEAST = 2**18
"""Multiplications in a product below which it stays torch's own, whose call is cheaper."""

_operators = library.Library("pyrovae", "DEF")
_operators.define("linear(Tensor x, Tensor weight, Tensor? bias) -> Tensor")


def _linear(x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
    product: Tensor = torch.ops.mkldnn._linear_pointwise.default(x, weight, bias, "none", [], "")
    return product


def _meta(x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
    return x.new_empty(x.shape[0], weight.shape[0])


_operators.impl("linear", _linear, "CPU")
_operators.impl("linear", _meta, "Meta")


def multiply_by_onednn(graph: GraphModule) -> None:
    """Let oneDNN have the large products of float32 matrices on the CPU in a recorded graph."""
    if not torch.backends.mkldnn.is_available():
        return
    aten = torch.ops.aten
    for node in list(graph.graph.nodes):
        if node.target is aten.mm.default:
            bias, (a, b) = None, node.args
        elif node.target is aten.addmm.default and not node.kwargs:
            bias, a, b = node.args
        else:
            continue
        if not _is_worth_it(a, b):
            continue
        with graph.graph.inserting_before(node):
            transposed = graph.graph.call_function(aten.permute.default, (b, [1, 0]))
            product = graph.graph.call_function(
                torch.ops.pyrovae.linear.default, (a, transposed, bias)
            )
        product.meta = node.meta
        node.replace_all_uses_with(product)
        graph.graph.erase_node(node)
    graph.recompile()


def _is_worth_it(a: Node, b: Node) -> bool:
    x, y = a.meta["val"], b.meta["val"]
    return (
        x.dtype is torch.float32
        and x.device.type == "cpu"
        and x.shape[0] * x.shape[1] * y.shape[1] >= _LEAST
    )
