"""``pyrovae train`` under ``torchrun``."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from .test_command import OPTIONS, STEPS, results, train, write_table

_TORCHRUN = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2"]


def run_torchrun(*arguments: str, folder: Path) -> subprocess.CompletedProcess[str]:
    """Run two processes by torchrun, in a folder."""
    environment = os.environ | {
        "PYTHONPATH": str(Path(__file__).parents[2]),
        "OMP_NUM_THREADS": "1",
        "COLUMNS": "100",
    }
    return subprocess.run(
        [*_TORCHRUN, *arguments],
        cwd=folder,
        env=environment,
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )


@pytest.mark.slow
def test_torchrun_restarts_after_a_process_is_killed(
    tmp_path: Path, tmp_path_factory: pytest.TempPathFactory
) -> None:
    """Both processes resume from the last state, and end with the bits of an undisturbed run."""
    other = tmp_path_factory.mktemp("whole")
    for folder in (tmp_path, other):
        write_table(folder)
    killed = ("--max-restarts", "1", "-m", "tests.parallel.kill_once")
    again = run_torchrun(
        *killed, "train", "table.csv", "--output", "run", *OPTIONS, folder=tmp_path
    )
    assert again.returncode == 0, again.stderr
    assert "pyrovae: process 0 of 2 stopped" in again.stderr
    num_steps = len((tmp_path / "steps").read_text().splitlines())
    assert 3 * STEPS <= num_steps <= 3 * STEPS + 1
    assert again.stdout.count("trained 3 epochs") == 1
    assert not list((tmp_path / "run").rglob("*.partial"))
    train(other)
    assert results(tmp_path / "run") == results(other / "run")


@pytest.mark.slow
def test_error_is_printed_once(tmp_path: Path) -> None:
    """The message is one sentence; the report of torchrun follows."""
    ended = run_torchrun("-m", "pyrovae", "train", "digitz", folder=tmp_path)
    assert ended.returncode == 1
    sentence, report = ended.stderr.split("\n", 1)
    assert sentence.startswith("pyrovae: ")
    assert "did you mean" in sentence
    assert "pyrovae: " not in report
    assert "exitcode  : 2" in report
