"""Two processes stop when one or both are stopped, and resume together."""

import signal
import sys
from pathlib import Path
from shutil import copytree
from time import perf_counter

import pytest
import torch
from torch import Tensor
from torch.distributed import ProcessGroup, get_rank

from pyrovae.errors import Interrupted, Separated
from pyrovae.training.snapshots import Snapshots

from .fits import Settings, result_of_fit, vae_with_patience
from .processes import get_results, run_processes
from .signals import send_at

STEPS = 3
"""Steps in an epoch."""


def _setup(states: Path, every: float = 0.0) -> Settings:
    is_there = Snapshots(states).exist()
    settings = vae_with_patience() | {"epochs": 4, "patience": 3, "shards": 2}
    del settings["schedule"]
    return settings | {"checkpoint_every": every, "resume" if is_there else "checkpoint": states}


def _fit_with_signals(
    group: ProcessGroup, states: Path, step: int, numbers: dict[int, int]
) -> dict[str, Tensor]:
    """Fit, and send signals to processes, by rank, in a step."""
    rank = get_rank(group)
    if rank in numbers:
        send_at(step, numbers[rank])
    start = perf_counter()
    try:
        return result_of_fit(lambda: _setup(states), group)
    except Interrupted as error:
        print(f"{error.number}: {str(error).partition(';')[0]}")
        return {}
    except Separated:
        print(f"separated after {perf_counter() - start}")
        sys.exit(1)


def _fit_or_resume(group: ProcessGroup | None, states: Path) -> dict[str, Tensor]:
    return result_of_fit(lambda: _setup(states), group)


def _fit_or_resume_alone(group: ProcessGroup, states: Path) -> dict[str, Tensor]:
    return _fit_or_resume(None, states)


@pytest.mark.slow
def test_kill_of_one_process_and_resume(tmp_path: Path) -> None:
    """The other process ends within seconds; a resumed fit ends the same, in two or one process."""
    (whole, _) = get_results(run_processes(_fit_or_resume, tmp_path / "whole", folder=tmp_path))
    states = tmp_path / "states"
    kill = {1: signal.SIGKILL}
    first, second = run_processes(_fit_with_signals, states, STEPS + 2, kill, folder=tmp_path)
    assert second.code == -signal.SIGKILL
    assert first.code == 1
    assert float(first.out.removeprefix("separated after ")) < 10
    copytree(states, tmp_path / "copied")
    for end in get_results(run_processes(_fit_or_resume, states, folder=tmp_path)):
        for name, value in whole.items():
            assert torch.equal(end[name], value), name
    (alone,) = get_results(
        run_processes(_fit_or_resume_alone, tmp_path / "copied", folder=tmp_path, num=1)
    )
    for name, value in whole.items():
        torch.testing.assert_close(alone[name], value, rtol=1e-9, atol=1e-9)


@pytest.mark.slow
@pytest.mark.parametrize(
    "numbers",
    [
        {0: signal.SIGINT, 1: signal.SIGINT},
        {0: signal.SIGTERM, 1: signal.SIGTERM},
        {0: signal.SIGTERM},
        {1: signal.SIGTERM},
    ],
    ids=["Ctrl-C", "SIGTERM", "SIGTERM_to_the_first", "SIGTERM_to_the_second"],
)
def test_both_processes_stop_after_the_same_step(numbers: dict[int, int], tmp_path: Path) -> None:
    """They stop one step after the signal."""
    states = tmp_path / "states"
    ended = run_processes(_fit_with_signals, states, STEPS + 1, numbers, folder=tmp_path)
    get_results(ended)
    (number,) = set(numbers.values())
    assert ended[0].out == ended[1].out == f"{number}: stopped after epoch 1 and 2 steps\n"
    assert Snapshots(states).exist()
