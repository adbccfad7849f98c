"""Open a run that is to be trained: where it stopped, or further than it was asked for."""

from contextlib import AbstractContextManager, nullcontext
from pathlib import Path

import torch

from ..data import Dataset
from ..data.memory import parameter_budget
from ..described import from_plain
from ..device import find_device
from ..errors import InputError
from ..models.base import LatentVariableModel
from ..models.base.saved import Description
from ..training.snapshots import Snapshots
from .config import RunConfig
from .directory import RunDirectory
from .prepare import build_model, check_data, check_memory, check_step_memory, prepare_data
from .resolve import as_settings
from .start import start_from
from .trained import read_data

__all__ = [
    "check_further",
    "checkpoint_folder",
    "describe_finished",
    "go_further",
    "is_finished",
    "make_data_and_model",
    "reopen",
]

_RESULTS = ("evaluation.json", "held_out.json", "latent_space.png")
"""Files that a run writes after its training; the last of them in the end."""

_MOST_CHARACTERS = 20_000_000


def is_finished(path: Path) -> bool:
    """Whether a run has trained all its epochs, and written its results."""
    return all((path / name).is_file() for name in (_RESULTS[0], _RESULTS[-1]))


def count_epochs(path: Path) -> int:
    """The number of epochs that a run has trained."""
    try:
        with (path / "metrics.csv").open(encoding="utf-8", errors="replace") as file:
            return max(0, file.read(_MOST_CHARACTERS).count("\n") - 1)
    except OSError:
        return 0


def describe_finished(path: Path) -> str:
    """A sentence on a run that is finished, and on how to train it further."""
    done = count_epochs(path)
    advice = f"train it further with --epochs, as in --epochs {2 * done}"
    if _has_stopped_early(path, RunDirectory(path).read_config()):
        advice = "it stopped early, so start a new run from it with --from"
    return f"{path} is finished after {done} epochs; {advice}"


def _has_stopped_early(path: Path, config: RunConfig) -> bool:
    """Whether patience ran out, so that no more epochs would be trained."""
    return config.patience is not None and is_finished(path) and count_epochs(path) < config.epochs


def check_further(path: Path, epochs: int) -> None:
    """Check that a run can be trained for this number of epochs in all.

    Raises:
        InputError: if not.
    """
    run = RunDirectory.open(path, "config.yaml")
    config = run.read_config()
    done = count_epochs(path)
    if epochs <= done:
        raise InputError(f"{path} has {done} epochs already; give a larger number of --epochs")
    if _has_stopped_early(path, config):
        raise InputError(
            f"{path} stopped early after {done} epochs, with patience {config.patience}; start a "
            "new run from it with --from"
        )
    if config.schedule != "constant" and epochs != config.epochs:
        raise InputError(
            f"the learning rate of {path} falls to zero over {config.epochs} epochs (schedule "
            f"{config.schedule}); start a new run from it with --from"
        )
    if as_settings(config.model)["name"] == "ppca" or not Snapshots(checkpoint_folder(run)).exist():
        raise InputError(f"{path} has no checkpoint to go on from; train a new run with --from")


def go_further(path: Path, config: RunConfig) -> None:
    """Write a larger number of epochs, and remove the results of the smaller one."""
    RunDirectory(path).write_config(config)
    for name in _RESULTS:
        (path / name).unlink(missing_ok=True)


def reopen(
    path: Path, epochs: int | None = None
) -> tuple[RunConfig, Dataset, Dataset, LatentVariableModel]:
    """Open a run that is to go on.

    Arguments:
        path: the run directory.
        epochs: number of epochs in all; None for that of the run.

    Returns:
        Its options, its data before and after binarisation, and its model, whose weights are those
        of the start: the checkpoint has the others.

    Raises:
        InputError: if it cannot go on.
    """
    run = RunDirectory.open(path, "config.yaml")
    config = run.read_config().model_copy(update={"output": path})
    if epochs is not None:
        config = config.model_copy(update={"epochs": epochs})
    is_evaluated = (path / "evaluation.json").is_file()
    if (
        is_evaluated
        and as_settings(config.model)["name"] != "ppca"
        and not Snapshots(checkpoint_folder(run)).exist()
    ):
        raise InputError(
            f"{path} is a finished run without checkpoints, so there is nothing to continue"
        )
    if config.from_run is not None:
        return config, *_reopen_started(run, config)
    dataset = read_data(config)
    with _budget_of(run):
        return config, dataset, *make_data_and_model(config, dataset)


def _reopen_started(
    run: RunDirectory, config: RunConfig
) -> tuple[Dataset, Dataset, LatentVariableModel]:
    """Data and model of a run that started from another, which is not needed once there is a state.

    Raises:
        InputError: if nothing was saved yet, and the other run is gone.
    """
    description = Description.read(run.path)
    assert description.data is not None
    dataset = read_data(config, description.data)
    if not Snapshots(checkpoint_folder(run)).exist():
        return dataset, *make_data_and_model(config, dataset)
    prepared = prepare_data(config, dataset)
    with _budget_of(run):
        family = from_plain(description.model)
    assert isinstance(family, LatentVariableModel)
    return dataset, prepared, family.to(find_device(config.device))


def _budget_of(run: RunDirectory) -> AbstractContextManager[None]:
    """Within, the model must fit what the run has saved, where it has saved something."""
    paths = [run.path / "model.safetensors", *checkpoint_folder(run).glob("*.safetensors")]
    sizes = [path.stat().st_size for path in paths if path.is_file()]
    return parameter_budget(max(sizes)) if sizes else nullcontext()


def make_data_and_model(config: RunConfig, dataset: Dataset) -> tuple[Dataset, LatentVariableModel]:
    """Return the data as the likelihood sees them, and a model for them with new parameters."""
    device = find_device(config.device)
    torch.manual_seed(config.seed)
    prepared = prepare_data(config, dataset)
    if config.from_run is not None:
        family = start_from(config.from_run, dataset)
    else:
        family = build_model(config, dataset)
    check_memory(family, device)
    batch = min(config.batch_size, len(dataset.train))
    check_step_memory(config.model_copy(update={"batch_size": batch}), dataset.event_shape)
    family.to(device)
    check_data(family, prepared)
    if config.from_run is None:
        family.standardise(*(part.to(device) for part in prepared.train.parts))
    return prepared, family


def checkpoint_folder(run: RunDirectory) -> Path:
    """Where a run keeps states of its training."""
    return run.path / "checkpoint"
