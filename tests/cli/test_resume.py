"""``pyrovae train --resume`` continues a run that was interrupted or killed."""

import json
import signal
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import safetensors.torch

from ..training.killed_fits import Kill, Outcome, command

OPTIONS = ["--epochs", "3", "--hidden", "8", "--latent-dim", "2", "--batch-size", "16"]
STEPS = 5
"""In an epoch of 72 data."""


def write_table(folder: Path, *, changed: bool = False) -> None:
    rng = np.random.default_rng(0)
    table = pd.DataFrame(rng.normal(size=(100, 3)).round(3), columns=["a", "b", "c"])
    if changed:
        table += 1.0
    table.to_csv(folder / "table.csv", index=False)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    write_table(tmp_path)
    return tmp_path


def train(folder: Path, kill: Any = None) -> Outcome:
    return command("train", "table.csv", "--output", "run", *OPTIONS, folder=folder, kill=kill)


def resume(folder: Path, kill: Any = None, *more: str) -> Outcome:
    return command("train", "--resume", "run", *more, folder=folder, kill=kill)


def results(run: Path) -> tuple[Any, ...]:
    """All that a run leaves, but for seconds and pictures."""
    metrics = pd.read_csv(run / "metrics.csv").to_csv()
    tensors = safetensors.torch.load_file(run / "model.safetensors")
    weights = {name: tensor.numpy().tobytes() for name, tensor in tensors.items()}
    return metrics, weights, json.loads((run / "evaluation.json").read_text())


def one_line(outcome: Outcome) -> str:
    """What was said on standard error: one sentence, and no traceback."""
    (line,) = outcome.err.strip().splitlines()
    return line


@pytest.mark.slow
def test_an_interrupted_and_killed_run_ends_like_a_complete_one(
    folder: Path, tmp_path_factory: pytest.TempPathFactory
) -> None:
    other = tmp_path_factory.mktemp("whole")
    write_table(other)
    assert train(other).code == 0
    expected = results(other / "run")
    run = folder / "run"

    assert train(folder, Kill(STEPS + 1)).code == -signal.SIGKILL
    assert not list((run / "checkpoint").iterdir())  # killed before there is a state

    interrupted = resume(folder, Kill(STEPS + 2, number=signal.SIGINT))
    assert interrupted.code == 130
    said = "stopped after epoch 1 and 2 steps; continue with: pyrovae train --resume run"
    assert said in one_line(interrupted)
    states = [path.name for path in (run / "checkpoint").iterdir()]
    assert sorted(states) == ["best.safetensors", "last.safetensors"]

    terminated = resume(folder, Kill(2, number=signal.SIGTERM))
    assert terminated.code == 143
    assert said.replace("2 steps", "4 steps") in one_line(terminated)

    assert resume(folder, Kill(1)).code == -signal.SIGKILL
    assert resume(folder, signal.SIGKILL).code == -signal.SIGKILL  # as evaluation begins
    assert not (run / "evaluation.json").exists()
    again = resume(folder, signal.SIGINT)
    assert again.code == 130
    assert "interrupted; continue with: pyrovae train --resume run" in one_line(again)

    finished = resume(folder)
    assert finished.code == 0, finished.err
    assert results(run) == expected
    pictures = {path.name for path in (other / "run").glob("*.png")}
    assert {path.name for path in run.glob("*.png")} == pictures

    picture = (run / "samples.png").stat().st_mtime_ns
    again = resume(folder)
    assert again.code == 0
    assert "run is finished after 3 epochs; train it further with --epochs" in again.out
    assert results(run) == expected
    assert (run / "samples.png").stat().st_mtime_ns == picture


@pytest.mark.slow
def test_a_run_trained_further_equals_one_trained_so_long(
    folder: Path, tmp_path_factory: pytest.TempPathFactory
) -> None:
    other = tmp_path_factory.mktemp("whole")
    write_table(other)
    assert train(other).code == 0
    short = [*OPTIONS]
    short[1] = "1"
    done = command("train", "table.csv", "--output", "run", *short, folder=folder)
    assert done.code == 0
    first = results(folder / "run")
    refused = resume(folder, None, "--epochs", "1")
    assert refused.code == 2
    assert "run has 1 epochs already; give a larger number" in one_line(refused)
    assert results(folder / "run") == first
    (folder / "table.csv").rename(folder / "moved.csv")
    assert resume(folder, None, "--epochs", "3").code == 2
    assert results(folder / "run") == first  # refused before anything is removed
    (folder / "moved.csv").rename(folder / "table.csv")
    assert resume(folder, Kill(STEPS + 1, number=signal.SIGINT), "--epochs", "3").code == 130
    assert not (folder / "run" / "evaluation.json").exists()
    assert resume(folder).code == 0
    assert results(folder / "run") == results(other / "run")


@pytest.mark.slow
def test_a_run_that_stopped_early_is_not_trained_further(folder: Path) -> None:
    options = [*OPTIONS, "--patience", "1", "--lr", "0.5"]
    options[1] = "50"
    assert command("train", "table.csv", "--output", "run", *options, folder=folder).code == 0
    first = results(folder / "run")
    done = len(pd.read_csv(folder / "run" / "metrics.csv"))
    assert done < 50
    finished = resume(folder)
    assert finished.code == 0
    assert f"finished after {done} epochs; it stopped early" in finished.out
    refused = resume(folder, None, "--epochs", "60")
    assert refused.code == 2
    assert "stopped early" in one_line(refused)
    assert results(folder / "run") == first


@pytest.mark.slow
def test_a_decaying_rate_is_not_trained_further(folder: Path) -> None:
    options = [*OPTIONS, "--schedule", "cosine"]
    done = command("train", "table.csv", "--output", "run", *options, folder=folder)
    assert done.code == 0
    refused = resume(folder, None, "--epochs", "5")
    assert refused.code == 2
    assert "falls to zero over 3 epochs (schedule cosine); start a new run from it with --from" in (
        one_line(refused)
    )
    assert (folder / "run" / "evaluation.json").exists()


@pytest.mark.slow
def test_runs_that_cannot_continue_are_refused(folder: Path) -> None:
    assert train(folder, Kill(4, number=signal.SIGINT)).code == 130
    refused = {
        "--resume uses the options of the run; leave out lr": resume(folder, None, "--lr", "0.1"),
        "leave out config": resume(folder, None, "--config", "run/config.yaml"),
        "nowhere is not a run directory: it holds no config.yaml": command(
            "train", "--resume", "nowhere", folder=folder
        ),
    }
    write_table(folder, changed=True)
    refused["or other values"] = resume(folder)
    (folder / "table.csv").write_text("a,b\n" + "1.5,2.5\n2.5,3.5\n" * 30)
    refused["these are"] = resume(folder)
    (folder / "table.csv").unlink()
    refused["table.csv"] = resume(folder)
    write_table(folder)
    (folder / "run" / "checkpoint" / "last.safetensors").write_bytes(b"damaged")
    refused["is damaged or not a checkpoint"] = resume(folder)
    for words, outcome in refused.items():
        assert words in one_line(outcome)
        assert outcome.code == 2


@pytest.mark.slow
def test_a_finished_run_without_checkpoints_is_not_trained_again(folder: Path) -> None:
    run = folder / "run"
    run.mkdir()
    (run / "config.yaml").write_text("data: table.csv\n")
    (run / "evaluation.json").write_text("{}")
    outcome = resume(folder)
    assert outcome.code == 2
    assert "is a finished run without checkpoints" in one_line(outcome)
