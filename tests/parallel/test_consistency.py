"""Processes start and stay alike, or stop with an error."""

from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import pyro
import pyro.distributions as dist
import pytest
import torch
from torch import Tensor, nn
from torch.distributed import ProcessGroup, get_rank
from torch.optim import SGD
from torch.utils.data import DataLoader, DistributedSampler, RandomSampler, TensorDataset

from pyrovae import InputError

from .fits import counts, result_of_fit, user_program, vae_with_patience
from .processes import ProcessResult, get_results, run_processes

Settings = dict[str, Any]


def _print_error(group: ProcessGroup | None, setup: Callable[[], Settings]) -> None:
    """Print the error of a fit."""
    try:
        result_of_fit(setup, group)
        print("no error")
    except InputError as error:
        print(error)
    finally:
        torch.set_default_dtype(torch.float32)


def _error_lines(ended: list[ProcessResult]) -> list[list[str]]:
    get_results(ended)
    return [each.out.splitlines() for each in ended]


def _data() -> Tensor:
    return counts().flatten(1)


def other_data(rank: int) -> Settings:
    return {"data": _data() + rank}


def other_part_of_the_data(rank: int) -> Settings:
    """A DistributedSampler, as for data parallelism without shards."""
    rows = TensorDataset(_data()[:16])
    return {"data": DataLoader(rows, 4, sampler=DistributedSampler(rows, 2, rank))}


def other_order(rank: int) -> Settings:
    rows = TensorDataset(_data())
    order = RandomSampler(rows, generator=torch.Generator().manual_seed(rank))
    return {"data": DataLoader(rows, 4, sampler=order)}


def other_steps(rank: int) -> Settings:
    return {"optimiser": partial(SGD, lr=1e-4 * (1 + rank))}


def bad_datum_in_the_second_process(rank: int) -> Settings:
    data = counts()
    data[12] = 17.0  # the total count is 16
    return vae_with_patience() | {"data": data}


def parameter_that_appears_later(rank: int) -> Settings:
    program, calls = user_program(), []

    def model(x: Tensor) -> None:
        program["model"](x)
        if torch.is_grad_enabled():  # not in checks of the data
            calls.append(x)
        if len(calls) > 3:
            pyro.factor("lateness", -(pyro.param("late", torch.zeros(())) ** 2))

    return {"model": model}


REFUSED = {
    other_data: "process 1 has other data than the first one",
    other_part_of_the_data: "process 1 has other batches than the first one",
    other_order: "process 1 has other batches than the first one",
    other_steps: "processes came to hold different parameters",
    bad_datum_in_the_second_process: "17",
    parameter_that_appears_later: "a parameter first appeared after the first batch",
}


def _refusals(group: ProcessGroup) -> dict[str, Tensor]:
    for change in REFUSED:
        _print_error(group, lambda change=change: user_program() | change(get_rank(group)))
    _print_error(group, lambda: user_program() | {"shards": 1})
    return {}


@pytest.mark.slow
def test_differences_raise_the_same_error_in_each_process(tmp_path: Path) -> None:
    first, second = _error_lines(run_processes(_refusals, folder=tmp_path))
    assert first == second
    *errors, error_of_shards = first
    for error, words in zip(errors, REFUSED.values(), strict=True):
        assert words in error
    assert "give at least as many shards as processes" in error_of_shards


def _other_start(group: ProcessGroup | None, rank: int) -> dict[str, Tensor]:
    """The first process also determines buffers, such as one that is not contiguous."""

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

    return result_of_fit(setup, group)


def _other_starts(group: ProcessGroup) -> dict[str, Tensor]:
    return _other_start(group, get_rank(group))


@pytest.mark.slow
def test_all_processes_start_from_the_parameters_of_the_first(tmp_path: Path) -> None:
    first, second = get_results(run_processes(_other_starts, folder=tmp_path))
    alone = _other_start(None, 0)
    for name in {"param network$$$weight", "epochs"}:
        assert torch.equal(first[name], second[name])
        torch.testing.assert_close(first[name], alone[name], rtol=1e-9, atol=1e-9)
