"""Products by oneDNN are those of torch, and only large ones of float32 are given to it."""

from typing import Any

import pytest
import torch
from torch import Tensor
from torch.fx.experimental.proxy_tensor import make_fx

from pyrovae.infer.compiler.onednn import use_onednn


def products(bias: Tensor, matrix: Tensor, a: Tensor, b: Tensor) -> list[Tensor]:
    """As they are, with a bias, with a matrix added, with operands stored transposed."""
    c = b.t().contiguous()
    return [
        a @ b,
        torch.addmm(bias, a, b),
        torch.addmm(matrix, a, b),
        a @ c.t(),
        torch.addmm(bias, a, c.t()),
        torch.addmm(matrix, a[:100], c.t()),
        b.t() @ a.t(),
    ]


@pytest.mark.parametrize("compiled", [False, True])
@pytest.mark.parametrize("size", [8, 200])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_products(size: int, dtype: torch.dtype, compiled: bool) -> None:
    bias, matrix = torch.randn(size, dtype=dtype), torch.randn(1, size, dtype=dtype)
    a, b = torch.randn(size, 140, dtype=dtype), torch.randn(140, size, dtype=dtype)
    inputs = [bias, matrix, a, b]
    graph = make_fx(products, tracing_mode="fake")(*inputs)
    use_onednn(graph)
    ours = torch.ops.pyrovae.linear.default
    replaced = sum(node.target is ours for node in graph.graph.nodes)
    assert replaced == (7 if size == 200 and dtype is torch.float32 else 0)
    static: Any = "from_example_inputs"
    compile = torch._inductor.standalone_compile
    run = compile(graph, inputs, dynamic_shapes=static) if compiled else graph
    exact = products(*(each.double() for each in inputs))
    # A sum of 140 products in another order: 140 roundings of terms of order one, at the most.
    tolerance = 140 * torch.finfo(dtype).eps * a.abs().max().item() * b.abs().max().item() * 8
    for got, want in zip(run(*inputs), exact, strict=True):
        assert got.shape == want.shape
        assert (got.double() - want).abs().max().item() < tolerance
