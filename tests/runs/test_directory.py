"""Run directories are written completely or not at all, and read back exactly, without pickle."""

import os
from pathlib import Path

import numpy as np
import pytest
import torch
from matplotlib.figure import Figure
from torch import nn

from pyrovae import InputError
from pyrovae.runs.config import RunConfig
from pyrovae.runs.directory import RunDirectory
from pyrovae.storage import weights


@pytest.fixture
def run(tmp_path: Path) -> RunDirectory:
    return RunDirectory.create(tmp_path / "run")


def test_weights_come_back_to_the_bit(run: RunDirectory) -> None:
    network = nn.Sequential(nn.Linear(3, 4), nn.BatchNorm1d(4))
    run.write_weights(network, {"event_shape": (1, 8, 8)})
    other = nn.Sequential(nn.Linear(3, 4), nn.BatchNorm1d(4))
    run.read_weights(other)
    torch.testing.assert_close(other.state_dict(), network.state_dict(), rtol=0, atol=0)
    assert run.read_metadata("event_shape") == [[1, 8, 8]]
    with pytest.raises(InputError, match="damaged, or not from a run: 'features'"):
        run.read_metadata("features")


def test_files_are_read_back(run: RunDirectory) -> None:
    config = RunConfig(epochs=3, likelihood={"family": "Normal", "scale": 0.1})
    run.write_config(config)
    run.write_metrics([{"epoch": 1, "loss": 2.5}, {"epoch": 2, "loss": None}])
    run.write_evaluation({"elbo": {"mean": -1.0}})
    run.write_arrays("samples", x=np.eye(2))
    run.write_figure("picture", Figure())
    assert run.read_config() == config
    assert (run.path / "metrics.csv").read_text() == "epoch,loss\n1,2.5\n2,\n"
    assert np.load(run.path / "samples.npz")["x"].tolist() == np.eye(2).tolist()
    assert (run.path / "picture.png").read_bytes().startswith(b"\x89PNG")
    names = {path.name for path in run.path.iterdir()}
    assert names == {"config.yaml", "metrics.csv", "evaluation.json", "samples.npz", "picture.png"}


def test_a_write_that_fails_leaves_the_old_file(
    run: RunDirectory, monkeypatch: pytest.MonkeyPatch
) -> None:
    run.write_metrics([{"epoch": 1}])

    def full(descriptor: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(InputError, match=r"metrics\.csv: No space left"):
        run.write_metrics([{"epoch": 1}, {"epoch": 2}])
    assert (run.path / "metrics.csv").read_text() == "epoch\n1\n"
    assert [path.name for path in run.path.iterdir()] == ["metrics.csv"]


def test_a_used_directory_is_refused(run: RunDirectory, tmp_path: Path) -> None:
    run.write_metrics([{"epoch": 1}])
    with pytest.raises(InputError, match="exists already"):
        RunDirectory.create(run.path)
    with pytest.raises(InputError, match="exists already"):
        RunDirectory.create(run.path / "metrics.csv")
    RunDirectory.create(tmp_path / "a" / "b")  # parents are made
    (tmp_path / "empty").mkdir()
    RunDirectory.create(tmp_path / "empty")
    with pytest.raises(InputError, match="cannot write to"):
        RunDirectory.create(run.path / "metrics.csv" / "below")


def test_a_directory_without_a_run_is_refused(run: RunDirectory, tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"is not a run directory: it holds no config\.yaml"):
        RunDirectory.open(tmp_path)
    run.write_config(RunConfig())
    with pytest.raises(InputError, match=r"it holds no model\.safetensors"):
        RunDirectory.open(run.path)


def test_damaged_weights_and_weights_of_another_model_are_refused(run: RunDirectory) -> None:
    run.write_weights(nn.Linear(3, 4), {})
    with pytest.raises(InputError, match=r"does not fit its config\.yaml.*size mismatch"):
        run.read_weights(nn.Linear(3, 5))
    path = run.path / "model.safetensors"
    path.write_bytes(path.read_bytes()[:20])
    with pytest.raises(InputError, match="is damaged"):
        run.read_metadata("event_shape")
    with pytest.raises(InputError, match="does not fit"):
        run.read_weights(nn.Linear(3, 4))


def test_runs_of_other_versions_are_read_or_the_versions_are_named(
    run: RunDirectory, monkeypatch: pytest.MonkeyPatch
) -> None:
    older = {"pyrovae": "0.0.9", "torch": "2.14.0", "pyro-ppl": "1.9.1"}
    with monkeypatch.context() as patch:
        patch.setattr(weights, "versions", lambda: older)
        run.write_weights(nn.Linear(2, 3), {})
        (run.path / "config.yaml").write_text("an_option: 3")
    run.read_weights(nn.Linear(2, 3))
    said = "; the run was trained under pyrovae 0.0.9, torch 2.14.0, pyro-ppl 1.9.1$"
    with pytest.raises(InputError, match=rf"does not fit its config\.yaml: .*{said}"):
        run.read_weights(nn.Linear(2, 4))
    with pytest.raises(InputError, match=f"unknown option 'an_option': .*{said}"):
        run.read_config()


def test_a_pickle_in_place_of_weights_is_not_loaded(run: RunDirectory, tmp_path: Path) -> None:
    class Harm:
        def __reduce__(self) -> tuple[object, ...]:
            return (Path.touch, (tmp_path / "harm",))

    torch.save({"weight": Harm()}, run.path / "model.safetensors")
    with pytest.raises(InputError):
        run.read_weights(nn.Linear(3, 4))
    assert not (tmp_path / "harm").exists()
