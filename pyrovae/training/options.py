"""The options of ``fit``: checked, and turned into what the loop uses."""

from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any, Literal

from torch.optim import Optimizer
from torch.optim.lr_scheduler import CosineAnnealingLR, LRScheduler

from ..errors import InputError
from ..infer.parallel.processes import Processes
from .snapshots import Snapshots

__all__ = ["Schedule", "check_options", "make_schedule", "open_snapshots"]

Schedule = Literal["constant", "cosine"] | Callable[[Optimizer], LRScheduler]
"""The name of a learning-rate schedule, or a function that makes one from an optimiser."""


def check_options(
    *,
    epochs: int,
    lr: float,
    optimiser: Any,
    clip_norm: float | None,
    accumulate: int,
    patience: int | None,
    validation: Any,
    shards: int | None,
) -> None:
    """Raise an InputError if an option of ``fit`` has no meaning."""
    if epochs < 1:
        raise InputError(f"epochs is {epochs}; it must be 1 or more")
    if not lr > 0:
        raise InputError(f"lr is {lr}; it must be positive")
    if not (optimiser is None or callable(optimiser)):
        raise InputError(
            "optimiser must be a function from the list of parameters to an optimiser, such as "
            f"functools.partial(torch.optim.SGD, lr=0.1); got {type(optimiser).__name__}"
        )
    if clip_norm is not None and not clip_norm > 0:
        raise InputError(f"clip_norm is {clip_norm}; it must be positive, or None for no limit")
    if accumulate < 1:
        raise InputError(f"accumulate is {accumulate}; it must be 1 or more")
    if patience is not None and patience < 1:
        raise InputError(f"patience is {patience}; it must be 1 or more")
    if patience is not None and validation is None:
        raise InputError("patience needs validation data; give validation=")
    if shards is not None and shards < 1:
        raise InputError(f"shards is {shards}; it must be 1 or more")


def make_schedule(
    schedule: Schedule, num_updates: int
) -> Callable[[Optimizer], LRScheduler] | None:
    """A function that makes the learning-rate schedule; None for a constant rate.

    Arguments:
        schedule: a name or such a function.
        num_updates: number of updates in the fit.
    """
    if schedule == "constant":
        return None
    if schedule == "cosine":
        return partial(CosineAnnealingLR, T_max=num_updates)
    if callable(schedule):
        return schedule
    raise InputError(f"schedule is {schedule!r}; it may be 'constant', 'cosine' or a callable")


def open_snapshots(
    checkpoint: Path | str | None, resume: Path | str | None, every: float, processes: Processes
) -> Snapshots | None:
    """Where states are saved, in a new folder or that of an earlier fit; None for nowhere."""
    if not every >= 0:
        raise InputError(f"checkpoint_every is {every}; it must be 0 seconds or more")
    if checkpoint is not None and resume is not None:
        raise InputError(
            "checkpoint is the folder of a new fit, and resume that of an earlier one, which "
            "saves its states there; give one of them"
        )
    if checkpoint is not None:
        folder, make = Path(checkpoint), Snapshots.create
    elif resume is not None:
        folder, make = Path(resume), Snapshots.open
    else:
        return None
    processes.run_in_first(lambda: make(folder))
    return Snapshots(folder)
