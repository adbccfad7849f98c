"""``pyrovae train`` in two processes, as ``torchrun`` starts them."""

import os
import signal
import socket
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
import torch

from pyrovae import cli
from tests.cli.test_resume import results

from .processes import ProcessResult, start_processes
from .signals import send_at

OPTIONS = ["--epochs", "3", "--hidden", "8", "--latent-dim", "2", "--batch-size", "16"]
STEPS = 5
"""Steps in an epoch of 72 data."""


def _main(
    rank: int,
    port: int,
    folder: Path,
    arguments: tuple[str, ...],
    restarts: int,
    at: dict[int, Any],
) -> None:
    os.chdir(folder)
    os.environ |= {
        "TORCHELASTIC_RUN_ID": "tested",
        "TORCHELASTIC_RESTART_COUNT": str(restarts),
        "MASTER_ADDR": "127.0.0.1",
        "MASTER_PORT": str(port),
        "WORLD_SIZE": "2",
        "RANK": str(rank),
        "LOCAL_RANK": str(rank),
    }
    if rank in at:
        send_at(*at[rank])
    cli.main(arguments)


def run_command(
    *arguments: str, folder: Path, at: dict[int, tuple[int, int]] | None = None, restarts: int = 0
) -> list[ProcessResult]:
    """Run a command in two processes, as torchrun does.

    Arguments:
        arguments: as on the command line.
        folder: working folder.
        at: by rank, the step in which a process sends itself a signal, and the signal.
        restarts: number of restarts so far.
    """
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    output = folder / "output"
    output.mkdir(exist_ok=True)
    each = ((rank, port, folder, arguments, restarts, at or {}) for rank in range(2))
    return start_processes(_main, *each, folder=output)


def train(folder: Path, **options: Any) -> list[ProcessResult]:
    return run_command("train", "table.csv", "--output", "run", *OPTIONS, folder=folder, **options)


def write_table(folder: Path) -> None:
    with torch.random.fork_rng():
        torch.manual_seed(0)
        table = pd.DataFrame(torch.randn(100, 3).numpy().round(3), columns=["a", "b", "c"])
    table.to_csv(folder / "table.csv", index=False)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    write_table(tmp_path)
    return tmp_path


def one_line(text: str) -> str:
    (line,) = text.strip().splitlines()
    return line


@pytest.mark.slow
def test_run_is_killed_interrupted_terminated_and_resumed(
    folder: Path, tmp_path_factory: pytest.TempPathFactory
) -> None:
    other = tmp_path_factory.mktemp("whole")
    write_table(other)
    first, second = train(other)
    assert (first.code, second.code) == (0, 0), second.err
    assert "trained 3 epochs" in first.out
    assert second.out == second.err == ""
    expected = results(other / "run")

    killed = train(folder, at={1: (STEPS + 1, signal.SIGKILL)})
    assert [each.code for each in killed] == [1, -signal.SIGKILL]
    assert one_line(killed[0].err).startswith("pyrovae: process 0 of 2 stopped, as another one")

    resume = ("train", "--resume", "run")
    both = dict.fromkeys(range(2), (STEPS + 2, signal.SIGINT))
    interrupted = run_command(*resume, folder=folder, at=both)
    assert [each.code for each in interrupted] == [130, 130]
    message = "stopped after epoch 1 and 3 steps; continue with: pyrovae train --resume run"
    assert message in one_line(interrupted[0].err)
    assert interrupted[1].err == ""

    terminated = run_command(*resume, folder=folder, at={0: (1, signal.SIGTERM)})
    assert [each.code for each in terminated] == [143, 143]

    # torchrun restarts the processes with the original command.
    again = train(folder, restarts=1)
    assert [each.code for each in again] == [0, 0], again[1].err
    assert results(folder / "run") == expected
    assert not list((folder / "run").rglob("*.partial"))


@pytest.mark.slow
def test_one_process_prints_each_error(folder: Path) -> None:
    (folder / "run").mkdir()
    (folder / "run" / "kept").write_text("")
    errors = {
        "run exists already": train(folder),
        "processes, which only the command train can use": run_command(
            "evaluate", "run", folder=folder
        ),
        "2 processes for 1 shards": run_command(
            "train", "table.csv", "--shards", "1", folder=folder
        ),
    }
    for words, (first, second) in errors.items():
        assert words in one_line(first.err)
        assert (first.code, second.code) == (2, 2)
        assert second.err == second.out == ""
