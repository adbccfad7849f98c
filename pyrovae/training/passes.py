"""Passes through the data: of training, and of validation."""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from ..data.batches import Batches, LoaderBatches
from ..errors import InputError
from ..infer.compiler.captured import without_trace
from ..infer.parallel.processes import Processes
from ..infer.parallel.shards import Shards, seed_all
from ..infer.svi.state import State
from ..infer.svi.svi import SVI

__all__ = ["Figures", "Pass", "iterate_steps", "own_batches", "validate"]

_VALIDATION_SEED = 0
"""Each validation uses the same noise, so that epochs differ by their parameters alone."""

_BETWEEN_STEPS = 0
"""In place of the number of a step, in the seeds of what is drawn for a whole batch."""

Figures = tuple[float, float, float]
"""Loss, reconstruction and KL, in nats a datum."""


@dataclass
class Pass:
    """How far a pass through the data has come.

    Attributes:
        batches: those that are left.
        total: sums of the loss and its terms over the data seen, and the number of these; those of
            batches whose figures are not finite are left out where such steps are skipped.
        seen: number of all data.
        steps: batches taken.
        random: random numbers at its start, from which its order follows.
        one: the number, beside the figures.
    """

    batches: Iterator[tuple[Any, ...]]
    total: Tensor | None = None
    seen: int = 0
    steps: int = 0
    random: State | None = None
    one: Tensor | None = None

    def add(self, figures: Iterable[Tensor], num: int, *, skip: bool) -> None:
        """Take in the mean figures of a batch of so many data."""
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
        """Their means, which waits for the device.

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
    """The arguments of each step in a pass: of data where steps can reach them, their numbers.

    Arguments:
        batches: what the pass is through.
        shards: where batches are shared out, so that all processes shall see the same ones.
        number: of the pass.
    """
    steps = map(batches.fetch, batches.indices()) if isinstance(batches, Batches) else iter(batches)
    return steps if shards is None else _seeded(steps, shards.seed, _BETWEEN_STEPS, number)


def validate(
    svi: SVI, batches: Batches | LoaderBatches | None, processes: Processes
) -> tuple[float | None, float | None, float | None]:
    """The figures of held-out data, if any, which processes share out batch by batch."""
    if batches is None:
        return None, None, None
    taken = Pass(iter(()))
    processes = Processes() if svi.is_split else processes  # each needs the others' parts
    with without_trace(()), svi.pair.eval_mode():
        for batch in own_batches(_seeded(batches, _VALIDATION_SEED), processes):
            taken.add(svi.evaluate_loss(*batch), len(batch[0]), skip=False)
    device = svi.parameters[0].device
    total = torch.zeros(4) if taken.total is None else taken.total
    taken.total = total.to(device, torch.double)
    processes.all_reduce(taken.total)
    return taken.figures()


def own_batches(
    batches: Iterable[tuple[Any, ...]], processes: Processes
) -> Iterator[tuple[Any, ...]]:
    """Every so manyth batch, beginning with that of this process."""
    return (batch for i, batch in enumerate(batches) if i % processes.num == processes.rank)


def _seeded(batches: Iterable[tuple[Any, ...]], *numbers: int) -> Iterator[tuple[Any, ...]]:
    """The batches, each drawn and used with random numbers of its own."""
    left, place = iter(batches), 0
    while True:
        place += 1
        seed_all(*numbers, place)
        try:
            batch = next(left)
        except StopIteration:
            return
        yield batch
