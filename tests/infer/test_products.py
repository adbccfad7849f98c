"""Products by oneDNN are those of torch, and only large ones of float32 are given to it."""

import pytest
import torch
from torch import Tensor
from torch.fx.experimental.proxy_tensor import make_fx

from pyrovae.infer.products import multiply_by_onednn


def products(bias: Tensor, a: Tensor, b: Tensor) -> list[Tensor]:
    return [a @ b, torch.addmm(bias, a, b), b.t() @ a.t()]


@pytest.mark.parametrize("size", [8, 96])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_products(size: int, dtype: torch.dtype) -> None:
    bias = torch.randn(size, dtype=dtype)
    a, b = torch.randn(size, 70, dtype=dtype), torch.randn(70, size, dtype=dtype)
    graph = make_fx(products, tracing_mode="fake")(bias, a, b)
    multiply_by_onednn(graph)
    ours = torch.ops.pyrovae.linear.default
    replaced = sum(node.target is ours for node in graph.graph.nodes)
    assert replaced == (3 if size == 96 and dtype is torch.float32 else 0)
    exact = products(bias.double(), a.double(), b.double())
    # A sum of 70 products in another order: 70 roundings of terms of order one, at the most.
    tolerance = 70 * torch.finfo(dtype).eps * a.abs().max().item() * b.abs().max().item() * 8
    for got, want in zip(graph(bias, a, b), exact, strict=True):
        assert (got.double() - want).abs().max().item() < tolerance
