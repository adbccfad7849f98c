"""Training from a configuration, or on from where a run stopped."""

import shlex
import signal
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import datetime
from functools import partial
from pathlib import Path
from typing import Any

import torch
from rich.console import Console

from ..data import Batches, Dataset
from ..device import find_device
from ..errors import Agreed, InputError, Interrupted
from ..infer import objective_of
from ..infer.parallel.processes import Processes
from ..likelihoods import Likelihood
from ..models.base import LatentVariableModel
from ..models.catalogue import check_declared
from ..models.pca import ProbabilisticPCA
from ..storage import atomic
from ..training.fit import fit
from ..training.history import History
from ..training.launch import join_processes, may_restart
from ..training.snapshots import Snapshots
from . import plots
from .config import RunConfig
from .directory import RunDirectory
from .evaluation import evaluate_elbo
from .pictures import picture
from .prepare import (
    arrange_data,
    build_model,
    check_data,
    check_memory,
    load_data,
    make_training_batches,
    prepare_data,
)
from .resolve import INFER, resolve_options, resolve_parts
from .trained import Trained, in_order

__all__ = ["resume", "run_name", "train"]


def train(config: RunConfig, console: Console) -> Path:
    """Train a model, evaluate it on test data, and leave numbers and pictures in a run directory.

    Returns:
        The run directory.

    Raises:
        InputError: if the configuration, the data or the directory cannot be used; before training.
        FloatingPointError: if the loss becomes infinite or NaN.
        Interrupted: at Ctrl-C or SIGTERM; :func:`resume` goes on.
    """
    if config.output is None and may_restart():
        raise Agreed(
            "give --output, by which processes that are started again will find the run that they "
            "go on with"
        )
    with join_processes() as (processes, is_restarted):
        path = config.output or Path("runs") / processes.broadcast_text(run_name(config))
        if is_restarted and (path / "config.yaml").is_file():
            return _go_on(path, processes, console)
        shards = config.shards or (processes.num if processes.num > 1 else None)
        begin = partial(_begin, config.model_copy(update={"shards": shards}), path, console)
        config, dataset, prepared, family = processes.run_in_all(begin)
        run = RunDirectory(path)

        def create() -> None:
            RunDirectory.create(path).write_config(config)

        processes.run_in_first(create)
        try:
            with _way_to_go_on(path):
                _run(run, config, dataset, prepared, family, processes, console)
        except Exception:
            if processes.is_first:
                _leave_empty(run)
            raise
    return path


def resume(path: Path, console: Console) -> Path:
    """Go on with a run that was interrupted or killed, to the end that it would have had.

    Returns:
        The run directory.

    Raises:
        InputError: if it holds no run, or the data are no longer those of the run.
        FloatingPointError: if the loss becomes infinite or NaN.
        Interrupted: as :func:`train`.
    """
    with join_processes() as (processes, _):
        return _go_on(path, processes, console)


def _begin(
    config: RunConfig, path: Path, console: Console
) -> tuple[RunConfig, Dataset, Dataset, LatentVariableModel]:
    """The resolved configuration, the data as they are and as the likelihood sees them, a model."""
    if config.likelihood not in (None, INFER):
        Likelihood.of(config.likelihood)
    if config.objective is not None:
        objective_of(config.objective)
    check_declared(
        config.model, prior=config.prior, posterior=config.posterior, inference=config.inference
    )
    RunDirectory.refuse_used(path)
    dataset = load_data(config)
    config = resolve_options(config, dataset, path, console)
    dataset = arrange_data(config, dataset)
    return config, dataset, *_made(config, dataset)


def _go_on(path: Path, processes: Processes, console: Console) -> Path:
    config, dataset, prepared, family = processes.run_in_all(partial(_begin_again, path))
    processes.run_in_first(partial(atomic.remove_partial_files, path))
    with _way_to_go_on(path):
        _run(RunDirectory(path), config, dataset, prepared, family, processes, console)
    return path


def _begin_again(path: Path) -> tuple[RunConfig, Dataset, Dataset, LatentVariableModel]:
    run = RunDirectory.open(path, "config.yaml")
    config = run.read_config().model_copy(update={"output": path})
    is_finished = (path / "evaluation.json").is_file()
    if is_finished and _name(config.model) != "ppca" and not Snapshots(_states(run)).exist():
        raise InputError(f"{path} is of a finished run, and holds no states to go on from")
    dataset = arrange_data(config, load_data(config))
    return config, dataset, *_made(config, dataset)


def run_name(config: RunConfig) -> str:
    """A name for a run, by its data and the time."""
    return f"{Path(config.data).stem}-{datetime.now():%Y%m%d-%H%M%S}"


def _made(config: RunConfig, dataset: Dataset) -> tuple[Dataset, LatentVariableModel]:
    """The data as the likelihood sees them, and a model of them with new parameters."""
    device = find_device(config.device)
    torch.manual_seed(config.seed)
    prepared = prepare_data(config, dataset)
    family = build_model(config, dataset)
    check_memory(family, device)
    family.to(device)
    check_data(family, prepared)
    family.standardise(*(part.to(device) for part in prepared.train.parts))
    return prepared, family


def _run(
    run: RunDirectory,
    config: RunConfig,
    dataset: Dataset,
    prepared: Dataset,
    family: LatentVariableModel,
    processes: Processes,
    console: Console,
) -> None:
    """All that is left of a run, which processes share until the model is trained."""
    _announce(config, dataset, family, console)
    device = find_device(config.device)
    trained = Trained(run, config, prepared, family, device)
    if isinstance(family, ProbabilisticPCA):
        method = "em" if config.missing else "exact"
        family.fit(prepared.train.x.to(device), method)
        if processes.is_first:
            _keep(trained)
        console.print("fitted by EM" if config.missing else "fitted in closed form")
    else:
        batches = make_training_batches(config, dataset, prepared, device)
        objective = resolve_parts(config, dataset).objective or "elbo"
        _train(trained, objective, batches, processes, console)
    if not processes.is_first:
        return
    family.eval()
    evaluate_elbo(trained, console)
    picture(trained)
    pictures = ", ".join(sorted(picture.name for picture in run.path.glob("*.png")))
    console.print(f"pictures in {run.path}: {pictures}", soft_wrap=True)


def _train(
    trained: Trained,
    objective: str | dict[str, Any],
    batches: Batches,
    processes: Processes,
    console: Console,
) -> None:
    """Train by SVI, keeping each epoch."""
    config, family = trained.config, trained.family

    def keep(history: History) -> None:
        _keep(trained)
        trained.run.write_metrics(history.rows())

    folder = _states(trained.run)
    is_resumed = Snapshots(folder).exist()
    history = fit(
        family.model,
        family.guide,
        batches,
        validation=in_order(trained.data.validation, trained.device),
        epochs=config.epochs,
        lr=config.lr,
        schedule=config.schedule,
        objective=objective,
        clip_norm=config.clip_norm,
        compile=config.compile,
        patience=config.patience,
        non_finite=config.non_finite,
        shards=config.shards,
        group=processes.group,
        progress=True,
        on_epoch=keep if processes.is_first else None,
        checkpoint=None if is_resumed else folder,
        resume=folder if is_resumed else None,
    )
    if not processes.is_first:
        return
    keep(history)
    seconds = sum(history["seconds"])
    console.print(
        f"trained {len(history.epochs)} epochs in {seconds:.1f} s"
        + (f"; {history.num_skipped:,} steps were left out" if history.num_skipped else "")
        + (f"; stopped early, kept epoch {history.best.epoch}" if history.stopped_early else "")
    )
    trained.run.write_figure("training", plots.training_curves(history.rows()))


def _states(run: RunDirectory) -> Path:
    return run.path / "checkpoint"


def _leave_empty(run: RunDirectory) -> None:
    """Where nothing was trained, the name is free for another try."""
    states = Snapshots(_states(run))
    if not ((run.path / "model.safetensors").exists() or states.exist()):
        (run.path / "config.yaml").unlink()
        if states.folder.is_dir() and not any(states.folder.iterdir()):
            states.folder.rmdir()


@contextmanager
def _way_to_go_on(path: Path) -> Iterator[None]:
    """Within, an interruption says with which command a run goes on."""
    command = f"go on with: pyrovae train --resume {shlex.quote(str(path))}"
    try:
        yield
    except Interrupted as error:
        raise Interrupted(f"{str(error).partition(';')[0]}; {command}", error.number) from None
    except KeyboardInterrupt:
        raise Interrupted(f"interrupted; {command}", signal.SIGINT) from None


def _keep(trained: Trained) -> None:
    """Write what is needed to open the run again."""
    data = trained.data
    trained.run.write_weights(
        trained.family, {"event_shape": data.event_shape, "features": data.features}
    )


def _announce(
    config: RunConfig, dataset: Dataset, family: LatentVariableModel, console: Console
) -> None:
    sizes = ", ".join(f"{len(part):,} {name}" for name, part in dataset.splits.items())
    console.print(f"{dataset.name}: {sizes} data of shape {dataset.event_shape}", highlight=False)
    binarised = "" if config.binarise == "none" else f", {config.binarise} binarisation"
    parameters = sum(p.numel() for p in family.parameters())
    declared = {part: getattr(config, part) for part in ("prior", "posterior", "inference")}
    said = [f"{part} {_said(of)}" for part, of in declared.items() if of not in (None, "amortised")]
    console.print(
        f"{', '.join([_said(config.model), *said])}; {family.likelihood.likelihood}{binarised}; "
        f"latent_dim {config.latent_dim}, {config.network}, {parameters:,} parameters",
        highlight=False,
        soft_wrap=True,
    )


def _name(declared: str | dict[str, Any]) -> str:
    return declared if isinstance(declared, str) else str(declared["name"])


def _said(declared: str | dict[str, Any]) -> str:
    """A declaration in words: the name, and the settings in brackets."""
    if isinstance(declared, str):
        return declared
    settings = [f"{key} {value}" for key, value in declared.items() if key != "name"]
    return f"{declared['name']} ({', '.join(settings)})" if settings else str(declared["name"])
