"""The options of ``fit``: checked, and turned into what the loop uses."""

from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any, Literal, NamedTuple

from torch.distributed import ProcessGroup
from torch.optim import Optimizer
from torch.optim.lr_scheduler import CosineAnnealingLR, LRScheduler

from ..arguments import (
    as_callable,
    as_flag,
    as_instance,
    as_path,
    as_real,
    as_text,
    as_whole,
    describe,
)
from ..errors import InputError
from ..infer.parallel.processes import Processes
from .snapshots import Snapshots

__all__ = ["Options", "Schedule", "check_options", "make_schedule", "open_snapshots"]

Schedule = Literal["constant", "cosine"] | Callable[[Optimizer], LRScheduler]
"""The name of a learning-rate schedule, or a function that makes one from an optimiser."""


class Options(NamedTuple):
    """The options of ``fit`` that are numbers and words, in their plain form."""

    epochs: int
    batch_size: int
    lr: float
    clip_norm: float | None
    accumulate: int
    patience: int | None
    shards: int | None
    progress: bool


def check_options(
    *,
    model: Any,
    guide: Any,
    epochs: Any,
    batch_size: Any,
    lr: Any,
    optimiser: Any,
    clip_norm: Any,
    accumulate: Any,
    patience: Any,
    validation: Any,
    plate: Any,
    shards: Any,
    group: Any,
    progress: Any,
    on_epoch: Any,
) -> Options:
    """Check the options of ``fit``, and return those that are numbers and words.

    Raises:
        InputError: naming the first option that has no meaning.
    """
    as_callable("model", model, "a Pyro function")
    as_callable("guide", guide, "a Pyro function")
    if not (optimiser is None or callable(optimiser)):
        raise InputError(
            "optimiser must be a function from the list of parameters to an optimiser, such as "
            f"functools.partial(torch.optim.SGD, lr=0.1); got {type(optimiser).__name__}"
        )
    if patience is not None and validation is None:
        raise InputError("patience needs validation data; give validation=")
    if on_epoch is not None:
        as_callable("on_epoch", on_epoch, "a function of the history")
    if group is not None:
        as_instance("group", group, ProcessGroup, "a group of torch.distributed, or None")
    as_text("plate", plate)
    return Options(
        epochs=as_whole("epochs", epochs, 1),
        batch_size=as_whole("batch_size", batch_size, 1),
        lr=as_real("lr", lr, above=0),
        clip_norm=None if clip_norm is None else as_real("clip_norm", clip_norm, above=0),
        accumulate=as_whole("accumulate", accumulate, 1),
        patience=None if patience is None else as_whole("patience", patience, 1),
        shards=None if shards is None else as_whole("shards", shards, 1),
        progress=as_flag("progress", progress),
    )


def make_schedule(
    schedule: Schedule, num_updates: int
) -> Callable[[Optimizer], LRScheduler] | None:
    """A function that makes the learning-rate schedule; None for a constant rate.

    Arguments:
        schedule: a name or such a function.
        num_updates: number of updates in the fit.
    """
    if isinstance(schedule, str) and schedule == "constant":
        return None
    if isinstance(schedule, str) and schedule == "cosine":
        return partial(CosineAnnealingLR, T_max=num_updates)
    if callable(schedule):
        return schedule
    raise InputError(
        f"schedule is {describe(schedule)}; it may be 'constant', 'cosine' or a callable"
    )


def open_snapshots(
    checkpoint: Path | str | None, resume: Path | str | None, every: float, processes: Processes
) -> Snapshots | None:
    """Where states are saved, in a new folder or that of an earlier fit; None for nowhere."""
    as_real("checkpoint_every", every, 0, finite=False)
    if checkpoint is not None and resume is not None:
        raise InputError(
            "checkpoint is the folder of a new fit, and resume that of an earlier one, which "
            "saves its states there; give one of them"
        )
    if checkpoint is not None:
        folder, make = as_path("checkpoint", checkpoint), Snapshots.create
    elif resume is not None:
        folder, make = as_path("resume", resume), Snapshots.open
    else:
        return None
    processes.run_in_first(lambda: make(folder))
    return Snapshots(folder)
