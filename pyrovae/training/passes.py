"""Passes through the data, for training and for validation."""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from ..data.batches import Batches, LoaderBatches
from ..errors import InputError
from ..infer.compiler.preserve import preserve_state
from ..infer.parallel.processes import Processes
from ..infer.parallel.shards import Shards, seed_all
from ..infer.svi.state import State
from ..infer.svi.svi import SVI

__all__ = ["Figures", "Pass", "iterate_steps", "own_batches", "validate"]

_VALIDATION_SEED = 0
"""Each validation uses the same noise, so that epochs differ only in their parameters."""

_BETWEEN_STEPS = 0
"""Stands for the step number in the seeds of draws for a whole batch, such as its indices."""

Figures = tuple[float, float, float]
"""Loss, reconstruction and KL, in nats per datum."""


@dataclass
class Pass:
    """Progress of one pass through the data.

    Attributes:
        batches: the batches that remain.
        total: sums of the loss and its terms over the data seen, and the number of these data. If
            steps that are not finite are skipped, batches whose figures are not finite are left
            out.
        seen: number of all data seen.
        steps: number of batches used.
        random: random state at the start of the pass, which determines the order of its data.
        one: a 1 on the device, which counts the data of a batch in ``total``.
    """

    batches: Iterator[tuple[Any, ...]]
    total: Tensor | None = None
    seen: int = 0
    steps: int = 0
    random: State | None = None
    one: Tensor | None = None

    def add(self, figures: Iterable[Tensor], num: int, *, skip: bool) -> None:
        """Add the mean figures of a batch of ``num`` data; if ``skip``, only if they are finite."""
        figures = tuple(figures)
        if self.total is None:
            self.total = figures[0].new_zeros(len(figures) + 1)
        if self.one is None:
            self.one = self.total.new_ones(())
        row = torch.stack([*figures, self.one])
        if skip:
            row = torch.where(row.isfinite().all(), row, 0.0)
        self.total.add_(row, alpha=num)
        self.seen += num
        self.steps += 1

    def figures(self) -> Figures:
        """The mean figures of the data seen; this waits for the device.

        Raises:
            InputError: if there was no batch.
        """
        if self.total is None:
            raise InputError("the data gave no batch")
        *sums, num = self.total.tolist()
        loss, reconstruction, kl = (each / num if num else float("nan") for each in sums)
        return loss, reconstruction, kl


def iterate_steps(
    batches: Batches | LoaderBatches, shards: Shards | None, number: int
) -> Iterator[tuple[Any, ...]]:
    """The arguments of each step in a pass: for data on the device, their indices.

    Arguments:
        batches: the data.
        shards: the shards of each batch, if any; all processes then draw the same batches.
        number: number of the pass.
    """
    steps = map(batches.fetch, batches.indices()) if isinstance(batches, Batches) else iter(batches)
    return steps if shards is None else _seed_each(steps, shards.seed, _BETWEEN_STEPS, number)


def validate(
    svi: SVI, batches: Batches | LoaderBatches | None, processes: Processes
) -> tuple[float | None, float | None, float | None]:
    """The figures of held-out data, if any; processes share the batches."""
    if batches is None:
        return None, None, None
    done = Pass(iter(()))
    processes = Processes() if svi.is_split else processes  # all must run the same batches
    with preserve_state(()), svi.pair.eval_mode():
        for batch in own_batches(_seed_each(batches, _VALIDATION_SEED), processes):
            done.add(svi.evaluate_loss(*batch), len(batch[0]), skip=False)
    device = svi.parameters[0].device
    total = torch.zeros(4) if done.total is None else done.total
    done.total = total.to(device, torch.double)
    processes.all_reduce(done.total)
    return done.figures()


def own_batches(
    batches: Iterable[tuple[Any, ...]], processes: Processes
) -> Iterator[tuple[Any, ...]]:
    """The batches of this process: every P-th of P processes, from its rank on."""
    return (batch for i, batch in enumerate(batches) if i % processes.num == processes.rank)


def _seed_each(batches: Iterable[tuple[Any, ...]], *numbers: int) -> Iterator[tuple[Any, ...]]:
    """The batches, each drawn and used with its own random seed."""
    remaining, number = iter(batches), 0
    while True:
        number += 1
        seed_all(*numbers, number)
        try:
            batch = next(remaining)
        except StopIteration:
            return
        yield batch
