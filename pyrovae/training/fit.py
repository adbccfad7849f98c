"""``fit``: the loop round SVI, for any Pyro model and guide."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from functools import partial
from math import isfinite
from pathlib import Path
from time import perf_counter
from typing import Any, Literal

import pyro
import torch
from pyro.infer.util import is_validation_enabled
from pyro.optim import PyroOptim
from torch.distributed import ProcessGroup
from torch.optim import Adam, Optimizer
from torch.optim.lr_scheduler import CosineAnnealingLR, LRScheduler

from ..data.batches import Batches, LoaderBatches, Transform, as_batches, compute_digest
from ..errors import InputError, NotFinite
from ..infer.compiler.tiered import Compile
from ..infer.nonfinite.guard import NonFinite
from ..infer.objectives.catalogue import ObjectiveLike, objective_of
from ..infer.pair.bound import PyroFunction
from ..infer.pair.pair import Pair
from ..infer.parallel.fsdp import is_split
from ..infer.parallel.processes import Processes
from ..infer.parallel.shards import Shards
from ..infer.svi.optimisation import MakeOptimiser
from ..infer.svi.state import State
from ..infer.svi.svi import SVI
from .history import Epoch, History
from .passes import Figures, Pass, iterate_steps, own_batches, validate
from .progress import TrainingProgress
from .randomness import random_state, set_random_state
from .resumable import Resumable, interruptible
from .snapshots import Snapshots
from .symptoms import Symptoms

__all__ = ["fit"]

Schedule = Literal["constant", "cosine"] | Callable[[Optimizer], LRScheduler]

_ADVICE = "lower the learning rate (lr), clip the gradient (clip_norm=100), or standardise the data"


def fit(
    model: PyroFunction,
    guide: PyroFunction,
    data: Any,
    *,
    epochs: int,
    batch_size: int = 128,
    lr: float = 1e-3,
    optimiser: MakeOptimiser | PyroOptim | None = None,
    schedule: Schedule = "constant",
    objective: ObjectiveLike = "elbo",
    clip_norm: float | None = None,
    accumulate: int = 1,
    autocast: torch.dtype | None = None,
    compile: Compile = "auto",
    validation: Any = None,
    patience: int | None = None,
    transform: Transform | None = None,
    device: torch.device | str | None = None,
    plate: str = "data",
    non_finite: NonFinite = "stop",
    shards: int | None = None,
    group: ProcessGroup | None = None,
    progress: bool = True,
    on_epoch: Callable[[History], None] | None = None,
    checkpoint: Path | str | None = None,
    resume: Path | str | None = None,
    checkpoint_every: float = 10.0,
) -> History:
    """Train any Pyro model and guide by SVI, on the ELBO or another objective.

    Model and guide are functions with ``pyro.param`` and ``pyro.module``, ``PyroModule``s,
    autoguides, or models of this package; both are called with the parts of a batch. Networks are
    trained in place. What is declared with ``pyro.param`` starts afresh in each fit and ends in
    ``history.model`` and ``history.guide``; the global parameter store is neither read nor written.

    Before the first step all data pass through the pair once under Pyro's validation, in eval mode
    and without gradients, so that bad data are met before anything is trained; unless validation
    is off (``pyro.enable_validation(False)``). Posterior collapse, and scales that vanish or
    explode, are warned about once (:class:`~pyrovae.training.symptoms.Symptoms`).

    Arguments:
        model: p(x, z), with a ``pyro.plate`` over data.
        guide: q(z | x).
        data: a tensor or an array, or a tuple of these (kept on the device, or in their file if
            they are mapped), :class:`~pyrovae.Batches`, or a ``DataLoader``.
        epochs: passes through the data.
        batch_size: data in a batch, where data are tensors.
        lr: learning rate of Adam.
        optimiser: makes another optimiser from the list of parameters; replaces lr.
        schedule: ``"constant"``, ``"cosine"`` (down to zero over all steps), or what makes a torch
            schedule from the optimiser; stepped at each step.
        objective: what is maximised: a name, settings with a name, or an object, which is told how
            many data there are, and whose count of steps goes on; see
            :func:`~pyrovae.infer.objective_of`.
        clip_norm: largest global norm of the gradient of the loss per datum.
        accumulate: batches whose mean gradient makes one update; what is left over after the last
            epoch makes none.
        autocast: floating-point type of matrix products and convolutions, such as
            ``torch.bfloat16``; None for that of the parameters.
        compile: whether steps are recorded and compiled, as :class:`~pyrovae.SVI` explains.
        validation: held-out data in any form that data may have.
        patience: stop after this many epochs without a lower validation loss, and go back to the
            parameters of the best epoch.
        transform: applied to the parts of each batch on the device, for training and validation,
            and recorded with the step where data are tensors; such as :func:`~pyrovae.binarise`,
            or ``lambda x, y: x`` to drop labels.
        device: where batches shall be; tensors stay where they are unless given.
        plate: name of the plate over data.
        non_finite: what becomes of a step whose loss or gradient is not finite: ``"stop"``, and
            parameters stay what they were before it, or ``"skip"`` (up to a hundred in a row). It
            is noticed on the device, and told within a hundred steps, with the batch, the site and
            the tensor; see :class:`~pyrovae.SVI`.
        shards: parts of each batch, each with noise of its own, that the processes of the group
            share out; as many as there are processes unless given. A fit depends on the number of
            its shards, but not on that of the processes, to round-off; see
            :class:`~pyrovae.infer.parallel.shards.Shards`.
        group: of ``torch.distributed``, such as ``torch.distributed.group.WORLD``: all of its
            processes call ``fit`` with the same arguments and data, begin with the parameters of
            the first one, and end with the same. The first one keeps states and shows progress;
            validation data are shared out, too. A DataLoader is read by each of them.
        progress: show a progress bar.
        on_epoch: called with the history after each epoch.
        checkpoint: folder to keep states in, so that a run that is killed can be resumed. What is
            compiled then depends on no clock, and Ctrl-C, or SIGTERM, ends a step and keeps it.
        resume: folder of an earlier run of the same data, model and options, which goes on from
            its last state, and keeps further ones there. It ends as if it had never stopped: on the
            same machine with the same parameters and figures, to the bit. Not kept is what a
            program counts in Python, beside parameters and buffers, nor the random numbers of a
            DataLoader's persistent workers.
        checkpoint_every: seconds between two states that are kept; the last step's is, too.

    Returns:
        The history, with the trained pair.

    Raises:
        InputError: if the arguments, the pair or the data cannot be used; before any step is taken.
        NotFinite: if the loss or a gradient is not finite, by the policy.
        Separated: if another process of the group ended.
        Interrupted: at Ctrl-C or SIGTERM, where states are kept.
    """
    _check(epochs, lr, optimiser, clip_norm, patience, validation)
    if shards is not None and shards < 1:
        raise InputError(f"shards is {shards}; it must be 1 or more")
    processes = Processes(group)
    snapshots = _snapshots(checkpoint, resume, checkpoint_every, processes)
    make_batches = partial(as_batches, batch_size=batch_size, transform=transform, device=device)
    train = make_batches(data, shuffle=True)
    held_out = None if validation is None else make_batches(validation, shuffle=False)
    loss = objective_of(objective)
    loss.size, loss.plate = train.size, plate
    num_steps = epochs * len(train)
    if accumulate > num_steps:
        raise InputError(
            f"accumulate is {accumulate}, and there are {num_steps} batches in all, so that no "
            "update would be made; give fewer"
        )
    bar = TrainingProgress(epochs, len(train), enabled=progress and processes.is_first)
    parts = Shards(shards or processes.num, processes) if shards or processes.num > 1 else None
    svi = SVI(
        model,
        guide,
        optimiser or partial(Adam, lr=lr, fused=True),
        loss,
        compile=compile,
        num_steps=num_steps,
        clip_norm=clip_norm,
        schedule=_schedule(schedule, num_steps // accumulate),
        accumulate=accumulate,
        autocast=autocast,
        transform=train.finish if isinstance(train, Batches) else None,
        on_compile=bar.show_compiling,
        non_finite=non_finite,
        shards=parts,
        repeatable=snapshots is not None,
    )
    pair = svi.pair
    loaders = [each for each in (train, held_out) if isinstance(each, LoaderBatches)]
    generators = [generator for each in loaders for generator in each.generators()]
    random = random_state(*generators)
    if is_validation_enabled():
        for batches in (train, held_out):
            turns = Processes() if svi.is_split else processes  # each needs the others' parts
            processes.run_in_all(partial(_check_data, pair, batches, train.size, plate, turns))
    history = History(pair)
    symptoms = Symptoms(pair, loss, _first_batch(train))
    if snapshots is not None or parts is not None:
        batch = processes.run_in_all(partial(_prepare, svi, iterate_steps(train, parts, 0)))
        if parts is not None:
            _begin_alike(svi, train, batch, processes)
    set_random_state(random, *generators)
    resumable = None
    if snapshots is not None:
        resumable = Resumable(snapshots, svi, history, checkpoint_every, generators, parts)
        scheduled = num_steps if schedule == "cosine" else None
        processes.run_in_all(
            partial(resumable.prepare, train, num_scheduled=scheduled, is_new=resume is None)
        )
        bar.start_at(len(history.epochs), resumable.num_steps)
    best: State | None = None if resumable is None else resumable.best
    with bar, pyro.validation_enabled(False), interruptible(resumable):
        while len(history.epochs) < epochs and not history.stopped_early:
            number = len(history.epochs) + 1
            start = perf_counter()
            steps = iterate_steps(train, parts, number)
            pass_ = Pass(steps) if resumable is None else resumable.enter(steps)
            # A DataLoader runs code of others between steps.
            steady = svi.steady() if isinstance(train, Batches) else nullcontext()
            with _named(len(train)), steady:
                losses = _train(svi, pass_, bar, resumable, skip=non_finite == "skip")
            seconds = perf_counter() - start
            held = validate(svi, held_out, processes)
            epoch = Epoch(number, *losses, *held, svi.learning_rate, seconds)
            history.epochs.append(epoch)
            history.num_skipped = svi.num_skipped
            bar.epoch_done(epoch, train.size)
            if parts is not None:
                parts.check_same_parameters(svi.parameters)
            if patience is not None:
                history.stopped_early = number - history.best.epoch >= patience
            is_kept = patience is not None or resumable is not None
            if is_kept and held_out is not None and history.best is epoch:
                best = svi.state()
            is_last = number == epochs or history.stopped_early
            if processes.is_first or svi.is_split:  # else no other is needed for it
                symptoms.check(history.epochs, is_last)
            if on_epoch is not None:
                on_epoch(history)
            if resumable is not None:
                resumable.epoch_done(best, is_last=is_last)
    if patience is not None and best is not None:
        best.load("parameter", svi.parameters)
        best.load("buffer", svi.buffers())
    if parts is not None:
        parts.reseed()
    return history


def _check_data(
    pair: Pair,
    batches: Batches | LoaderBatches | None,
    size: int,
    plate: str,
    processes: Processes,
) -> None:
    """Let all data pass once, leaving no trace in parameters or random numbers."""
    passed = batches.in_order() if isinstance(batches, Batches) else batches  # a file's own order
    with torch.random.fork_rng(), pair.throwaway_store(), pair.eval_mode():
        for batch in own_batches(passed or (), processes):
            pair.check(*batch, size=size, plate=plate)


def _first_batch(data: Batches | LoaderBatches) -> tuple[Any, ...]:
    """Some data, as model and guide are given them."""
    if isinstance(data, Batches):
        return data.take(torch.arange(min(data.size, data.batch_size), device=data.device))
    return next(iter(data))


def _prepare(svi: SVI, steps: Iterator[tuple[Any, ...]]) -> tuple[Any, ...]:
    """Meet all parameters; the first batch, on which they were met."""
    batch = next(steps)
    svi.prepare(*batch)
    return batch


def _begin_alike(
    svi: SVI, data: Batches | LoaderBatches, batch: tuple[Any, ...], processes: Processes
) -> None:
    """Make sure that processes have the same data, and give them the parameters of the first."""
    is_whole = isinstance(data, Batches)
    digest = data.digest() if isinstance(data, Batches) else compute_digest(batch)
    is_same = processes.broadcast_text(digest) == digest

    def refuse() -> None:
        if not is_same:
            raise InputError(
                f"process {processes.rank} has other {'data' if is_whole else 'batches'} than the "
                "first one; give all processes the same, without a DistributedSampler, of which "
                "each takes its part"
            )

    processes.run_in_all(refuse)
    for tensor in (*svi.parameters, *svi.buffers()):
        if not is_split(tensor):
            processes.broadcast(tensor.detach())


def _train(
    svi: SVI, pass_: Pass, bar: TrainingProgress, resumable: Resumable | None, *, skip: bool
) -> Figures:
    """The rest of a pass, and the figures of all of it, before each step."""
    for batch in pass_.batches:
        pass_.add(svi.step(*batch), len(batch[0]), skip=skip)
        bar.step_done(pass_)
        if resumable is not None:
            resumable.step_done()
    svi.check_finite()
    figures = pass_.figures()
    if not (skip or isfinite(figures[0])):
        raise NotFinite("no loss since the start of the epoch was finite", svi.num_steps)
    return figures


@contextmanager
def _named(num_batches: int) -> Iterator[None]:
    """Within, steps that are not finite are named by epoch and batch."""
    try:
        yield
    except NotFinite as error:
        epoch, batch = divmod(error.step - 1, num_batches)
        raise NotFinite(
            f"in batch {batch + 1} of epoch {epoch + 1}, {error}: {_ADVICE}", error.step
        ) from None


def _schedule(schedule: Schedule, num_steps: int) -> Callable[[Optimizer], LRScheduler] | None:
    if schedule == "constant":
        return None
    if schedule == "cosine":
        return partial(CosineAnnealingLR, T_max=num_steps)
    if callable(schedule):
        return schedule
    raise InputError(f"schedule is {schedule!r}; it may be 'constant', 'cosine' or a callable")


def _snapshots(
    checkpoint: Path | str | None, resume: Path | str | None, every: float, processes: Processes
) -> Snapshots | None:
    if not every >= 0:
        raise InputError(f"checkpoint_every is {every}; it must be 0 seconds or more")
    if checkpoint is not None and resume is not None:
        raise InputError(
            "checkpoint is the folder of a new fit, and resume that of an earlier one, which "
            "keeps its states there; give one of them"
        )
    if checkpoint is not None:
        folder, make = Path(checkpoint), Snapshots.create
    elif resume is not None:
        folder, make = Path(resume), Snapshots.open
    else:
        return None
    processes.run_in_first(lambda: make(folder))
    return Snapshots(folder)


def _check(
    epochs: int,
    lr: float,
    optimiser: Any,
    clip_norm: float | None,
    patience: int | None,
    validation: Any,
) -> None:
    if epochs < 1:
        raise InputError(f"epochs is {epochs}; it must be 1 or more")
    if not lr > 0:
        raise InputError(f"lr is {lr}; it must be positive")
    if not (optimiser is None or callable(optimiser)):
        raise InputError(
            "optimiser is a function from the list of parameters to an optimiser, such as "
            f"functools.partial(torch.optim.SGD, lr=0.1); got {type(optimiser).__name__}"
        )
    if clip_norm is not None and not clip_norm > 0:
        raise InputError(f"clip_norm is {clip_norm}; it must be positive, or None for no limit")
    if patience is not None and patience < 1:
        raise InputError(f"patience is {patience}; it must be 1 or more")
    if patience is not None and validation is None:
        raise InputError("patience needs validation data to wait upon; give validation=")
