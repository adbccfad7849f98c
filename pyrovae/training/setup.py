"""What ``fit`` does before the first step: check the data, and agree with other processes."""

from collections.abc import Iterator
from typing import Any

import torch
from pyro.infer.util import is_validation_enabled

from ..data.batches import Batches, LoaderBatches, compute_digest
from ..errors import InputError
from ..infer.pair.pair import Pair
from ..infer.pair.positional import find_positional_parameters
from ..infer.pair.scaling import find_scaled_sites
from ..infer.parallel.fsdp import is_split
from ..infer.parallel.processes import Processes
from ..infer.svi.svi import SVI
from .passes import own_batches

__all__ = ["check_data", "check_rows", "prepare_svi", "synchronise", "take_first_batch"]


def check_data(
    pair: Pair,
    batches: Batches | LoaderBatches | None,
    size: int,
    plate: str,
    processes: Processes,
    *,
    sums_out: bool,
) -> None:
    """Run the pair once on all data, leaving no trace in parameters or random states.

    Processes share the batches.

    Arguments:
        pair: the model and the guide.
        batches: the data, or None.
        size: number of training data.
        plate: name of the plate over data.
        processes: those that share the batches.
        sums_out: whether the objective sums over latents that the model marks for enumeration.
    """
    passed = batches.in_order() if isinstance(batches, Batches) else batches  # as a file reads best
    with torch.random.fork_rng(), pair.throwaway_store(), pair.eval_mode():
        for batch in own_batches(passed or (), processes):
            pair.check(*batch, size=size, plate=plate, sums_out=sums_out)


def check_rows(
    pair: Pair,
    batch: tuple[Any, ...],
    train: Batches | LoaderBatches,
    plate: str,
    *,
    has_one_batch: bool,
    sums_out: bool,
) -> None:
    """Check that the pair means the same whatever data are in a batch, and in whatever order.

    Arguments:
        pair: the model and the guide.
        batch: a batch in the form in which they get it.
        train: the training data.
        plate: name of the plate over data.
        has_one_batch: whether this batch is all that the pair will get.
        sums_out: whether the objective sums over latents that the model marks for enumeration.

    Raises:
        InputError: if a parameter has a row for each place in a batch, or a site follows the batch
            in a way that has no clear meaning.
    """
    if is_validation_enabled():
        with torch.random.fork_rng(), pair.throwaway_store(), pair.eval_mode():
            pair.check(*batch, size=train.size, plate=plate, sums_out=sums_out)
    if train.is_shuffled or not has_one_batch:
        for name in find_positional_parameters(pair, batch, plate):
            raise InputError(
                f"parameter {name.replace('$$$', '.')!r} has a row for each place in a batch, and "
                "other data take these places in the next batch: train on all data in one batch "
                f"(batch_size={train.size}, not shuffled), or give the numbers of the data as a "
                "further part of data and subsample the plate by them, as in "
                f"pyro.plate({plate!r}, {train.size}, subsample=number)"
            )
    refuse = None if has_one_batch else True
    pair.scaled = find_scaled_sites(
        pair, batch, {}, size=train.size, plate=plate, refuse_outside=refuse
    )


def take_first_batch(data: Batches | LoaderBatches) -> tuple[Any, ...]:
    """A batch in the form in which model and guide get it."""
    if isinstance(data, Batches):
        return data.take(torch.arange(min(data.size, data.batch_size), device=data.device))
    return next(iter(data))


def prepare_svi(svi: SVI, steps: Iterator[tuple[Any, ...]]) -> tuple[Any, ...]:
    """Meet all parameters on the first batch of the steps, and return that batch.

    Raises:
        InputError: if there are none.
    """
    batch = next(steps)
    svi.prepare(*batch)
    if not svi.parameters:
        raise InputError(
            "model and guide have nothing to train: declare parameters with pyro.param, and "
            "networks with pyro.module"
        )
    return batch


def synchronise(
    svi: SVI, data: Batches | LoaderBatches, batch: tuple[Any, ...], processes: Processes
) -> None:
    """Check that processes have the same data, and give them the parameters of the first one.

    Raises:
        InputError: in all processes, if data differ.
    """
    is_whole = isinstance(data, Batches)
    digest = data.digest() if isinstance(data, Batches) else compute_digest(batch)
    is_same = processes.broadcast_text(digest) == digest

    def refuse_difference() -> None:
        if not is_same:
            raise InputError(
                f"process {processes.rank} has other {'data' if is_whole else 'batches'} than the "
                "first one; give all processes the same, without a DistributedSampler, which gives "
                "each process a part"
            )

    processes.run_in_all(refuse_difference)
    for tensor in (*svi.parameters, *svi.buffers()):
        if not is_split(tensor):
            processes.broadcast(tensor.detach())
