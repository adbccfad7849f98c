"""On a GPU compiled steps are CUDA graphs: they do what the program does, with fresh noise."""

from functools import partial
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.optim import Adam

from pyrovae import VAE
from pyrovae.infer import SVI
from pyrovae.infer.compiler.cuda_graph import CudaGraph

pytestmark = pytest.mark.skipif(not torch.cuda.is_available(), reason="there is no GPU")


def trained(compile: Any, steps: int = 200) -> tuple[list[Tensor], Tensor]:
    torch.manual_seed(3)
    vae = VAE((6,), 2, "Normal").double().cuda()
    svi = SVI(vae.model, vae.guide, partial(Adam, lr=1e-2), compile=compile)
    x = torch.randn(steps, 12, 6, dtype=torch.float64, device="cuda")
    losses = [svi.step(x[i, : 5 if i % 4 == 3 else 12]).loss for i in range(steps)]
    return [p.detach() for p in vae.parameters()], torch.stack(losses)


def test_graphs_end_where_eager_steps_do() -> None:
    want, losses = trained(False)
    got, graph_losses = trained(True)
    torch.testing.assert_close(graph_losses, losses, rtol=1e-9, atol=1e-9)
    torch.testing.assert_close(got, want, rtol=1e-9, atol=1e-9)


def test_replays_write_to_what_is_held_and_draw_anew() -> None:
    held = torch.zeros(3, device="cuda")

    def run(x: Tensor) -> list[Tensor]:
        held.add_(x)
        return [torch.randn(3, device="cuda"), held * 2]

    graph = CudaGraph(run, [held])
    draws = [graph(torch.ones(3, device="cuda"))[0] for _ in range(6)]
    assert held.tolist() == [6.0] * 3
    assert len({tuple(draw.tolist()) for draw in draws}) == 6
    with torch.no_grad():
        held.set_(torch.full((3,), 10.0, device="cuda"))
    assert [graph(torch.ones(3, device="cuda"))[1].tolist() for _ in range(3)][-1] == [26.0] * 3


def test_what_waits_for_the_device_is_called_as_it_is() -> None:
    total = torch.zeros((), device="cuda")

    def run(x: Tensor) -> list[Tensor]:
        total.add_(x.sum() if x.sum().item() > 0 else 0.0)
        return [total + 0]

    graph = CudaGraph(run, [total])
    results = [graph(torch.ones(2, device="cuda"))[0].item() for _ in range(4)]
    assert results == [2.0, 4.0, 6.0, 8.0]
