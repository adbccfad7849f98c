"""Train a model from a configuration, or continue an interrupted run."""

import shlex
import signal
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from datetime import datetime
from functools import partial
from pathlib import Path
from typing import Any

import torch
from rich.console import Console

from ..data import Batches, Dataset
from ..device import find_device
from ..errors import Agreed, Interrupted
from ..infer import objective_of
from ..infer.parallel.processes import Processes
from ..likelihoods import Likelihood
from ..models.base import LatentVariableModel
from ..models.base.saved import DESCRIPTION, Description
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
from .pictures import draw_pictures
from .prepare import (
    arrange_data,
    load_data,
    make_training_batches,
)
from .questions.evaluation import evaluate_elbo
from .questions.held_out import NUM_SAMPLES, HeldOut
from .reopen import (
    check_further,
    checkpoint_folder,
    describe_finished,
    go_further,
    is_finished,
    make_data_and_model,
    reopen,
)
from .resolve import INFER, resolve_options, resolve_parts
from .start import check_options, recode_as
from .trained import Trained, describe_data, make_ordered_batches, model_options

__all__ = ["resume", "run_name", "train"]


def train(config: RunConfig, console: Console) -> Path:
    """Train a model, evaluate it on test data, and write results and pictures to a run directory.

    Returns:
        The run directory.

    Raises:
        InputError: before training, if the configuration, the data or the directory cannot be used.
        FloatingPointError: if the loss becomes infinite or NaN.
        Interrupted: at Ctrl-C or SIGTERM; :func:`resume` continues the run.
    """
    if config.output is None and may_restart():
        raise Agreed(
            "torchrun may restart the processes, which then need to find their run; give --output"
        )
    with join_processes() as (processes, is_restarted):
        is_named_by_time = config.output is None
        path = config.output or Path("runs") / processes.broadcast_text(run_name(config))
        if is_restarted and (path / "config.yaml").is_file():
            return _continue(path, processes, console)
        shards = config.shards or (processes.num if processes.num > 1 else None)
        set_up = partial(_set_up, config.model_copy(update={"shards": shards}), path, console)
        config, dataset, prepared, family = processes.run_in_all(set_up)

        created: list[Path] = []

        def create() -> None:
            make = RunDirectory.create_free if is_named_by_time else RunDirectory.create
            run = make(path)
            created.append(run.path)
            run.write_config(config)

        processes.run_in_first(create)
        path = Path(processes.broadcast_text(str((created or [path])[0])))
        run = RunDirectory(path)
        try:
            with _advise_to_resume(path):
                _run(run, config, dataset, prepared, family, processes, console)
        except Exception:
            if processes.is_first:
                _clear_untrained(run)
            raise
    return path


def resume(path: Path, console: Console, epochs: int | None = None) -> Path:
    """Continue a run that was interrupted or killed; it ends as it would have without a break.

    A run that is finished is left as it is, unless there are more epochs to train.

    Arguments:
        path: the run directory.
        console: to print to.
        epochs: number of epochs in all; None for that of the run.

    Returns:
        The run directory.

    Raises:
        InputError: if the directory holds no run, or the data have changed since.
        FloatingPointError: if the loss becomes infinite or NaN.
        Interrupted: as in :func:`train`.
    """
    with join_processes() as (processes, _):
        if epochs is not None:
            processes.run_in_first(partial(check_further, path, epochs))
        if epochs is None and is_finished(path):
            console.print(describe_finished(path), soft_wrap=True)
            return path
        return _continue(path, processes, console, epochs)


def _set_up(
    config: RunConfig, path: Path, console: Console
) -> tuple[RunConfig, Dataset, Dataset, LatentVariableModel]:
    """Check the options, and return them resolved, the data, the prepared data, and a model."""
    if config.likelihood not in (None, INFER):
        Likelihood.of(config.likelihood)
    if config.objective is not None:
        objective_of(config.objective)
    check_declared(
        config.model, prior=config.prior, posterior=config.posterior, inference=config.inference
    )
    if config.output is not None:
        RunDirectory.refuse_used(path)
    check_options(config)
    dataset = load_data(config)
    if config.from_run is not None:
        dataset = recode_as(config.from_run, dataset)
    config = resolve_options(config, dataset, path, console)
    dataset = arrange_data(config, dataset)
    return config, dataset, *make_data_and_model(config, dataset)


def _continue(
    path: Path, processes: Processes, console: Console, epochs: int | None = None
) -> Path:
    config, dataset, prepared, family = processes.run_in_all(partial(reopen, path, epochs))
    processes.run_in_first(partial(atomic.remove_partial_files, path))
    if epochs is not None:
        processes.run_in_first(partial(go_further, path, config))
    with _advise_to_resume(path):
        _run(RunDirectory(path), config, dataset, prepared, family, processes, console)
    return path


def run_name(config: RunConfig) -> str:
    """Return a name for a run from its data and the time."""
    return f"{Path(config.data).stem}-{datetime.now():%Y%m%d-%H%M%S}"


def _run(
    run: RunDirectory,
    config: RunConfig,
    dataset: Dataset,
    prepared: Dataset,
    family: LatentVariableModel,
    processes: Processes,
    console: Console,
) -> None:
    """Train, evaluate and draw pictures. All processes train; only the first does the rest."""
    _announce(config, dataset, family, console)
    device = find_device(config.device)
    about = describe_data(config, dataset)
    trained = Trained(run, config, family, about, device, prepared)
    if processes.is_first:
        dtype, options = torch.get_default_dtype(), model_options(config)
        Description(family.describe(), dtype, about, options).write(run.path)
    if isinstance(family, ProbabilisticPCA):
        method = "em" if config.missing else "exact"
        family.fit(prepared.train.x.to(device), method)
        if processes.is_first:
            _write_weights(trained)
        console.print("fitted by EM" if config.missing else "fitted in closed form")
    else:
        batches = make_training_batches(config, dataset, prepared, device)
        objective = resolve_parts(config, dataset).objective or "elbo"
        _train(trained, objective, batches, processes, console)
    if not processes.is_first:
        return
    family.eval()
    evaluate_elbo(trained, console)
    if family.has_prior:
        HeldOut.of(trained, NUM_SAMPLES).write(run)
    draw_pictures(trained)
    pictures = ", ".join(sorted(picture.name for picture in run.path.glob("*.png")))
    console.print(f"wrote pictures to {run.path}: {pictures}", soft_wrap=True)


def _train(
    trained: Trained,
    objective: str | dict[str, Any],
    batches: Batches,
    processes: Processes,
    console: Console,
) -> None:
    """Train by SVI, and write weights and metrics after each epoch."""
    config, family = trained.config, trained.family

    def write_epoch(history: History) -> None:
        _write_weights(trained)
        trained.run.write_metrics(history.rows())

    folder = checkpoint_folder(trained.run)
    is_resumed = Snapshots(folder).exist()
    history = fit(
        family.model,
        family.guide,
        batches,
        validation=make_ordered_batches(trained.data.validation, trained.device),
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
        on_epoch=write_epoch if processes.is_first else None,
        checkpoint=None if is_resumed else folder,
        resume=folder if is_resumed else None,
    )
    if not processes.is_first:
        return
    write_epoch(history)
    seconds = sum(history["seconds"])
    console.print(
        f"trained {len(history.epochs)} epochs in {seconds:.1f} s"
        + (f"; skipped {history.num_skipped:,} steps" if history.num_skipped else "")
        + (
            f"; stopped early, kept the best epoch, {history.best.epoch}"
            if history.stopped_early
            else ""
        )
    )
    trained.run.write_figure("training", plots.training_curves(history.rows()))


def _clear_untrained(run: RunDirectory) -> None:
    """Empty the directory if nothing was trained, so that another run can use it.

    Errors are ignored, as the error that ended the run is the one to tell.
    """
    snapshots = Snapshots(checkpoint_folder(run))
    with suppress(OSError):
        if not ((run.path / "model.safetensors").exists() or snapshots.exist()):
            for name in ("config.yaml", DESCRIPTION):
                (run.path / name).unlink(missing_ok=True)
            if snapshots.folder.is_dir() and not any(snapshots.folder.iterdir()):
                snapshots.folder.rmdir()


@contextmanager
def _advise_to_resume(path: Path) -> Iterator[None]:
    """Add the command that continues the run to the message of an interruption."""
    command = f"continue with: pyrovae train --resume {shlex.quote(str(path))}"
    try:
        yield
    except Interrupted as error:
        raise Interrupted(f"{str(error).partition(';')[0]}; {command}", error.number) from None
    except KeyboardInterrupt:
        raise Interrupted(f"interrupted; {command}", signal.SIGINT) from None


def _write_weights(trained: Trained) -> None:
    """Write the weights, with what is needed to open the run again."""
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
    parts = [
        f"{part} {_describe(each)}"
        for part, each in declared.items()
        if each not in (None, "amortised")
    ]
    model = ", ".join([_describe(config.model), *parts])
    console.print(
        f"{model}; {family.likelihood.likelihood}{binarised}; "
        f"latent_dim {config.latent_dim}, {config.network}, {parameters:,} parameters",
        highlight=False,
        soft_wrap=True,
    )


def _describe(declared: str | dict[str, Any]) -> str:
    """Return a declared part in words: its name, and its settings in brackets."""
    if isinstance(declared, str):
        return declared
    settings = [f"{key} {value}" for key, value in declared.items() if key != "name"]
    return f"{declared['name']} ({', '.join(settings)})" if settings else str(declared["name"])
