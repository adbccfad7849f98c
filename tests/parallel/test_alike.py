"""Processes begin alike, and stay so, or say that they do not."""

from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import pyro
import pyro.distributions as dist
import torch
from torch import Tensor, nn
from torch.distributed import ProcessGroup, get_rank
from torch.optim import SGD
from torch.utils.data import DataLoader, DistributedSampler, RandomSampler, TensorDataset

from pyrovae import InputError

from .fits import counts, end_of, user_program, vae_with_patience
from .processes import Ended, found, together

Settings = dict[str, Any]


def _said(group: ProcessGroup | None, setup: Callable[[], Settings]) -> None:
    """Print the sentence that a fit ends with."""
    try:
        end_of(setup, group)
        print("no sentence")
    except InputError as error:
        print(error)
    finally:
        torch.set_default_dtype(torch.float32)


def _sentences(ended: list[Ended]) -> list[list[str]]:
    found(ended)
    return [each.out.splitlines() for each in ended]


def _data() -> Tensor:
    return counts().flatten(1)


def other_data(rank: int) -> Settings:
    return {"data": _data() + rank}


def another_part_of_the_data(rank: int) -> Settings:
    """As one shares data out without shards."""
    rows = TensorDataset(_data()[:16])
    return {"data": DataLoader(rows, 4, sampler=DistributedSampler(rows, 2, rank))}


def another_order(rank: int) -> Settings:
    rows = TensorDataset(_data())
    order = RandomSampler(rows, generator=torch.Generator().manual_seed(rank))
    return {"data": DataLoader(rows, 4, sampler=order)}


def other_steps(rank: int) -> Settings:
    return {"optimiser": partial(SGD, lr=1e-4 * (1 + rank))}


def a_datum_that_the_second_looks_at(rank: int) -> Settings:
    data = counts()
    data[12] = 17.0  # of 16
    return vae_with_patience() | {"data": data}


def a_parameter_that_comes_later(rank: int) -> Settings:
    program, seen = user_program(), []

    def model(x: Tensor) -> None:
        program["model"](x)
        seen.append(x)
        if len(seen) > 5:
            pyro.factor("lateness", -(pyro.param("late", torch.zeros(())) ** 2))

    return {"model": model}


REFUSED = {
    other_data: "process 1 has other data than the first one",
    another_part_of_the_data: "process 1 has other batches than the first one",
    another_order: "process 1 has other batches than the first one",
    other_steps: "processes came to hold different parameters",
    a_datum_that_the_second_looks_at: "17",
    a_parameter_that_comes_later: "a parameter first appeared after the first batch",
}


def _refusals(group: ProcessGroup) -> dict[str, Tensor]:
    for change in REFUSED:
        _said(group, lambda change=change: user_program() | change(get_rank(group)))
    _said(group, lambda: user_program() | {"shards": 1})
    return {}


def test_what_differs_is_refused_in_each_process(tmp_path: Path) -> None:
    first, second = _sentences(together(_refusals, folder=tmp_path))
    assert first == second
    *sentences, of_shards = first
    for sentence, words in zip(sentences, REFUSED.values(), strict=True):
        assert words in sentence
    assert "give at least as many shards as processes" in of_shards


def _other_start(group: ProcessGroup | None, rank: int) -> dict[str, Tensor]:
    """Buffers, too, are those of the first; one that memory does not hold in its order."""

    class Network(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.weight = nn.Parameter(torch.randn(5, 16) + rank)
            self.register_buffer("scale", torch.full((16, 5), 2.0 + rank).T)
            self.register_buffer("flag", torch.tensor(rank == 0))

        def forward(self, z: Tensor) -> Tensor:
            return z @ (self.weight * self.scale * self.flag)

    def setup() -> Settings:
        network = Network()

        def model(x: Tensor) -> None:
            pyro.module("network", network)
            with pyro.plate("data", len(x)):
                z = pyro.sample("z", dist.Normal(torch.zeros(5), 1.0).to_event(1))
                pyro.sample("x", dist.Normal(network(z), 3.0).to_event(1), obs=x)

        def guide(x: Tensor) -> None:
            with pyro.plate("data", len(x)):
                pyro.sample("z", dist.Normal(x[:, :5] / 16, 1.0).to_event(1))

        return {"model": model, "guide": guide, "data": _data(), "shards": 2}

    return end_of(setup, group)


def _other_starts(group: ProcessGroup) -> dict[str, Tensor]:
    return _other_start(group, get_rank(group))


def test_parameters_of_the_first_are_taken(tmp_path: Path) -> None:
    first, second = found(together(_other_starts, folder=tmp_path))
    alone = _other_start(None, 0)
    for name in {"param network$$$weight", "epochs"}:
        assert torch.equal(first[name], second[name])
        torch.testing.assert_close(first[name], alone[name], rtol=1e-9, atol=1e-9)
