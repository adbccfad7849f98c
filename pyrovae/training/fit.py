"""``fit``: train any Pyro model and guide."""

from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import pyro
import torch
from pyro.infer.util import is_validation_enabled
from pyro.optim import PyroLRScheduler, PyroOptim
from torch.distributed import ProcessGroup
from torch.optim import Adam

from ..data.batches import Batches, LoaderBatches, Transform, as_batches
from ..errors import InputError
from ..infer.compiler.tiered import Compile
from ..infer.nonfinite.guard import NonFinite
from ..infer.objectives import ObjectiveLike, objective_of
from ..infer.objectives.enumerated import EnumeratedELBO
from ..infer.pair.bound import PyroFunction
from ..infer.parallel.processes import Processes
from ..infer.parallel.shards import Shards
from ..infer.svi.optimisation import MakeOptimiser
from ..infer.svi.svi import SVI
from .history import History
from .interrupts import interruptible
from .loop import TrainingLoop
from .options import Schedule, check_options, make_schedule, open_snapshots
from .passes import iterate_steps
from .progress import TrainingProgress
from .resumable import Resumable
from .setup import check_data, check_rows, prepare_svi, synchronise, take_first_batch
from .sources import Sources
from .symptoms import Symptoms

__all__ = ["fit"]


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
    trained in place. Parameters of ``pyro.param`` are in Pyro's store, which a second fit of the
    same pair goes on from, and another begins afresh; ``history.model`` and ``history.guide`` keep
    the values of this fit.

    Before the first step all data pass once through the pair under Pyro's validation, in eval mode
    and without gradients, so that bad data stop the fit before anything is trained. Turn this off
    with ``pyro.enable_validation(False)``. You get one warning of posterior collapse, and of scales
    that vanish or explode (:class:`~pyrovae.training.symptoms.Symptoms`).

    Arguments:
        model: p(x, z), with a ``pyro.plate`` over data.
        guide: q(z | x).
        data: a tensor or an array, or a tuple of these; :class:`~pyrovae.Batches`; or a
            ``DataLoader``. Tensors stay on their device, and memory-mapped arrays in their file.
        epochs: passes through the data.
        batch_size: data in a batch, where data are tensors or arrays.
        lr: learning rate of Adam.
        optimiser: makes another optimiser from the list of parameters; replaces lr.
        schedule: ``"constant"``, ``"cosine"`` (decays to zero over all steps), or a function that
            makes a torch schedule from the optimiser; stepped at each update.
        objective: what is maximised: a name, settings with a name, or an object (see
            :func:`~pyrovae.infer.objective_of`). ``fit`` tells an object the number of data; its
            count of steps goes on.
        clip_norm: largest global norm of the gradient of the loss per datum.
        accumulate: batches whose mean gradient makes one update; batches left over after the last
            epoch make none.
        autocast: floating-point type of matrix products and convolutions, such as
            ``torch.bfloat16``; None for that of the parameters.
        compile: whether steps are recorded and compiled; see :class:`~pyrovae.SVI`.
        validation: held-out data, in any form that ``data`` may have.
        patience: number of epochs without a lower validation loss after which to stop and go back
            to the parameters of the best epoch.
        transform: applied to the parts of each batch on the device, for training and validation,
            and recorded with the step where data are tensors; such as :func:`~pyrovae.binarise`,
            or ``lambda x, y: x`` to drop labels.
        device: device of the batches; that of the tensors unless given.
        plate: name of the ``pyro.plate`` over data.
        non_finite: what to do at a step whose loss or gradient is not finite: ``"stop"`` with the
            parameters as before it, or ``"skip"`` its update (up to a hundred in a row). The error
            or warning comes within a hundred steps, and names the batch, the site and the tensor;
            see :class:`~pyrovae.SVI`.
        shards: parts of each batch, each with its own noise, that the processes of the group share;
            as many as there are processes unless given. To round-off, the result of a fit depends
            on the number of shards but not on the number of processes; see
            :class:`~pyrovae.infer.parallel.shards.Shards`.
        group: a process group of ``torch.distributed``, such as
            ``torch.distributed.group.WORLD``. All its processes call ``fit`` with the same
            arguments and data, begin with the parameters of the first process, and end with the
            same parameters. The first process saves states and shows progress. Processes share the
            validation data, too; each reads a DataLoader for itself.
        progress: whether to show a progress bar.
        on_epoch: called with the history after each epoch.
        checkpoint: folder to save states in, so that a run that is killed can be resumed. No clock
            then decides what is compiled, and Ctrl-C and SIGTERM stop after the present step, whose
            state is saved.
        resume: folder of an earlier run with the same data, model and options. The run goes on from
            its last state and saves further states there. On the same machine it ends with the
            parameters and figures of a run that never stopped, to the bit. Random generators that
            samplers, data sets, transforms and programs keep are saved, and so are the numbers that
            samplers and data sets count. Not saved are Python values that model and guide count
            besides parameters and buffers, and the random states of a DataLoader's persistent
            workers.
        checkpoint_every: seconds between two saved states; the state after the last step is saved,
            too.

    Returns:
        The history, with the trained pair.

    Raises:
        InputError: if the arguments, the pair or the data are not valid, before the first step.
        NotFinite: if the loss or a gradient is not finite, as ``non_finite`` says.
        Separated: if another process of the group ended.
        Interrupted: at Ctrl-C or SIGTERM, where states are saved.
    """
    plain = check_options(
        model=model,
        guide=guide,
        epochs=epochs,
        batch_size=batch_size,
        lr=lr,
        optimiser=optimiser,
        clip_norm=clip_norm,
        accumulate=accumulate,
        patience=patience,
        validation=validation,
        plate=plate,
        shards=shards,
        group=group,
        progress=progress,
        on_epoch=on_epoch,
    )
    epochs, batch_size, lr, clip_norm, accumulate, patience, shards, progress = plain
    if isinstance(optimiser, PyroLRScheduler):
        raise InputError(
            "schedules of pyro.optim are stepped by hand, which fit does not do; give the schedule "
            "as schedule=, and the optimiser alone"
        )
    processes = Processes(group)
    snapshots = open_snapshots(checkpoint, resume, checkpoint_every, processes)
    make_batches = partial(as_batches, batch_size=batch_size, transform=transform, device=device)
    train = make_batches(data, shuffle=True)
    held_out = None if validation is None else make_batches(validation, shuffle=False)
    loss = objective_of(objective)
    loss.size, loss.plate = train.size, plate
    num_steps = epochs * len(train)
    if accumulate > num_steps:
        raise InputError(
            f"accumulate is {accumulate}, but there are {num_steps} batches in all, so that no "
            "update would be made; accumulate fewer"
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
        schedule=make_schedule(schedule, num_steps // accumulate),
        accumulate=accumulate,
        autocast=autocast,
        transform=train.finish if isinstance(train, Batches) else None,
        on_compile=bar.show_compiling,
        non_finite=non_finite,
        shards=parts,
        repeatable=snapshots is not None,
    )
    programs = (model, guide, loss, transform)
    sources = Sources(programs, (train, held_out), is_saved=snapshots is not None)
    random = sources.state()
    first = take_first_batch(train)
    has_one_batch = len(train) == 1 and held_out is None
    sums_out = isinstance(loss, EnumeratedELBO)
    rows = {"has_one_batch": has_one_batch, "sums_out": sums_out}
    processes.run_in_all(partial(check_rows, svi.pair, first, train, plate, **rows))
    if is_validation_enabled():
        # With split parameters, all processes must take part in each batch.
        sharing = Processes() if svi.is_split else processes
        check = partial(
            check_data,
            svi.pair,
            size=train.size,
            plate=plate,
            processes=sharing,
            sums_out=sums_out,
        )
        for batches in (train, held_out):
            processes.run_in_all(partial(check, batches))
    history = History(svi.pair)
    symptoms = Symptoms(svi.pair, loss, first)
    is_loaded = parts is None and isinstance(train, LoaderBatches)
    steps = iter([first]) if is_loaded else iterate_steps(train, parts, 0)
    batch = processes.run_in_all(partial(prepare_svi, svi, steps))
    if parts is not None:
        synchronise(svi, train, batch, processes)
    sources.restore(random)
    resumable = None
    if snapshots is not None:
        resumable = Resumable(snapshots, svi, history, checkpoint_every, sources, parts)
        scheduled = num_steps if schedule == "cosine" else None
        processes.run_in_all(
            partial(resumable.prepare, train, num_scheduled=scheduled, is_new=resume is None)
        )
        bar.start_at(len(history.epochs), resumable.num_steps)
    loop = TrainingLoop(
        svi=svi,
        train=train,
        held_out=held_out,
        history=history,
        epochs=epochs,
        patience=patience,
        skips=non_finite == "skip",
        processes=processes,
        shards=parts,
        resumable=resumable,
        symptoms=symptoms,
        progress=bar,
        on_epoch=on_epoch,
    )
    with bar, pyro.validation_enabled(False), interruptible(resumable):
        loop.run()
    loop.restore_best()
    if parts is not None:
        parts.reseed()
    svi.end()
    history.keep()
    return history
