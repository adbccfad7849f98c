"""Data parallelism: parts of each batch, each with noise of its own, shared out among processes."""

import random
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import numpy as np
import torch
from numpy.random import SeedSequence
from torch import Tensor

from ...errors import Agreed
from ..pair.rows import has_row_per_datum
from ..trees import TreeSpec, leaves_of, unflatten
from .fsdp import is_split
from .processes import Processes

__all__ = ["Shards", "seed_all"]

Gradients = list[Tensor | None]

_SEEDS = 2**63 - 1

_STOP, _KEEP = range(2)


class Shards:
    """S shards of each batch, and the means over them of what a step gives.

    The gradient of a batch of B data is the mean of those of its shards, of B_s data each,

        g = sum_s (B_s / B) g_s,

    where each shard stands for all data, as the plate over them scales it: this is the gradient
    of the whole batch for every objective that is a mean over data. Shard s of step t draws from
    a seed of its own, made of (seed, t, s), so that a fit depends on the number of its shards, to
    round-off, but not on that of the processes, which take every P-th of them.

    Buffers start from the same values in each shard, and end as the mean; whole numbers, as those
    of the first process.

    Arguments:
        num: S.
        processes: those that take part, which all go through the same steps.
        seed: of all noise; unless given, that of the first process is drawn for all.

    Raises:
        InputError: if there are fewer shards than processes.
    """

    def __init__(self, num: int, processes: Processes, seed: int | None = None) -> None:
        if num < processes.num:
            raise Agreed(
                f"there are {processes.num} processes for {num} shards of a batch; give at least "
                "as many shards as processes"
            )
        self.num = num
        self.processes = processes
        drawn = torch.randint(_SEEDS, ()) if seed is None else torch.tensor(seed)
        drawn = drawn.to(processes.device)
        processes.broadcast(drawn)
        self.seed = int(drawn)
        self._asked = [False, False]
        self.should_stop = False
        self.should_save = False

    @property
    def local_shards(self) -> range:
        """Numbers of the shards that this process takes."""
        return range(self.processes.rank, self.num, self.processes.num)

    def split(self, args: Sequence[Any]) -> list[tuple[float, tuple[Any, ...]]]:
        """The arguments of each shard, with its share in the batch; fewer of small batches."""
        total = len(args[0])
        size = -(-total // self.num)
        shards = []
        for start in range(0, total, size):
            rows = slice(start, start + size)
            part = tuple(each[rows] if has_row_per_datum(each, total) else each for each in args)
            shards.append((len(part[0]) / total, part))
        return shards

    def iterate_local(
        self, args: Sequence[Any], step: int
    ) -> Iterator[tuple[float, tuple[Any, ...]]]:
        """The shards of a step that this process takes, each with its share and its own noise."""
        parts = self.split(args)
        for number in self.local_shards:
            if number < len(parts):
                seed_all(self.seed, step, number)
                yield parts[number]

    def check_divisible(self, num: int) -> None:
        """Make sure that shards are of one size in a batch of so many data.

        Raises:
            InputError: if they are not.
        """
        if num % self.num:
            raise Agreed(
                f"parameters are split over processes, which weigh alike in their gradients, and a "
                f"batch of {num} data cannot be cut into {self.num} shards of one size; give a "
                f"batch_size, and a number of data, that {self.num} divides"
            )

    def request(self, *, stop: bool = False, save: bool = False) -> None:
        """Have all processes know, after the next step, that this one is to stop, or keep."""
        self._asked = [self._asked[_STOP] or stop, self._asked[_KEEP] or save]

    @torch.no_grad()
    def average(
        self,
        of_shard: Callable[[tuple[Any, ...]], tuple[Any, Gradients]],
        args: tuple[Any, ...],
        step: int,
        parameters: Sequence[Tensor],
        buffers: Sequence[Tensor],
        loss_spec: TreeSpec,
    ) -> tuple[Any, Gradients]:
        """The loss and the gradients of a whole batch, from those of its shards.

        Arguments:
            of_shard: gives them for the arguments of one.
            args: of the batch, the same in all processes.
            step: its number.
            parameters: those that have gradients.
            buffers: what a shard may write to.
            loss_spec: the tree of losses.

        Raises:
            InputError: in all processes, if there is a parameter more in one of the shards.
        """
        real = [each for each in buffers if each.is_floating_point()]
        whole = [each for each in buffers if not each.is_floating_point()]
        before = [each.clone() for each in buffers]
        of_one = parameters[0]
        losses = [
            torch.zeros((), dtype=of_one.dtype, device=of_one.device)
            for _ in range(loss_spec.num_leaves)
        ]
        starts = [value for value in before if value.is_floating_point()]
        means = _Means([*losses, *parameters, *real])
        present, has_new = [False] * len(parameters), False
        if any(map(is_split, parameters)):
            self.check_divisible(len(args[0]))
        for share, part in self.iterate_local(args, step):
            _write(buffers, before)
            loss, gradients = of_shard(part)
            has_new = len(gradients) > len(parameters)
            if has_new:
                break
            # Changes, which of constants are none, to the bit.
            pairs = zip(real, starts, strict=True)
            changes = [torch.where(b == start, 0.0, b - start) for b, start in pairs]
            means.add(share, [*leaves_of(loss), *gradients, *changes])
            present = [was or g is not None for was, g in zip(present, gradients, strict=True)]
        means.reduce(self.processes)
        flags = self._told([*present, *self._asked, has_new], whole)
        self._asked = [False, False]
        *present, self.should_stop, self.should_save, has_new = flags
        if has_new:
            raise Agreed(
                "a parameter first appeared after the first batch, and other shards do not know of "
                "it; declare all parameters in each call of model and guide"
            )
        mean_losses = means.values[: len(losses)]
        mean_gradients = means.values[len(losses) : len(losses) + len(parameters)]
        mean_changes = means.values[len(losses) + len(parameters) :]
        _write(real, [v + d for v, d in zip(starts, mean_changes, strict=True)])
        gradients = [
            mean if there else None for mean, there in zip(mean_gradients, present, strict=True)
        ]
        return unflatten(loss_spec, [each.clone() for each in mean_losses]), gradients

    def check_same_parameters(self, parameters: Sequence[Tensor]) -> None:
        """Make sure that all processes hold the same parameters.

        Raises:
            InputError: if they do not.
        """
        sums = torch.zeros(self.processes.num, dtype=torch.double, device=self.processes.device)
        for parameter in parameters:
            if is_split(parameter):
                continue
            sums[self.processes.rank] += parameter.detach().double().sum()
        self.processes.all_reduce(sums)
        if not torch.allclose(sums, sums[0], rtol=0, atol=0, equal_nan=True):
            raise Agreed(
                "processes came to hold different parameters: model or guide read what is not the "
                "same in all of them, such as the time, a file, or a network that is trained in "
                "one alone"
            )

    def reseed(self) -> None:
        """Go on, in all processes, with the same random numbers."""
        seed_all(self.seed)

    def _told(self, flags: list[bool], whole: list[Tensor]) -> list[bool]:
        """Flags that are set in any process; whole numbers become those of the first."""
        if self.processes.num == 1:
            return flags
        device = self.processes.device
        numbers = [each.to(device, torch.double).flatten() for each in whole]
        told = torch.cat([torch.tensor(flags, dtype=torch.double, device=device), *numbers])
        if not self.processes.is_first:
            told[len(flags) :] = 0
        self.processes.all_reduce(told)
        sizes = [each.numel() for each in whole]
        for each, values in zip(whole, told[len(flags) :].split(sizes), strict=True):
            each.copy_(values.view_as(each))
        return [count > 0 for count in told[: len(flags)].tolist()]


class _Means:
    """Means of tensors over shards, one stretch of memory for each of their types.

    Of parameters that are split, what the one shard of this process has is the mean already.

    Arguments:
        like: tensors of the same shapes and types.

    Attributes:
        values: the means.
    """

    def __init__(self, like: Sequence[Tensor]) -> None:
        places: dict[tuple[torch.dtype, torch.device], list[int]] = {}
        for place, each in enumerate(like):
            if is_split(each):
                continue
            places.setdefault((each.dtype, each.device), []).append(place)
        self.values = list(like)
        self._flat = []
        for (dtype, device), where in places.items():
            sizes = [like[place].numel() for place in where]
            flat = torch.zeros(sum(sizes), dtype=dtype, device=device)
            self._flat.append(flat)
            for place, values in zip(where, flat.split(sizes), strict=True):
                self.values[place] = values.view(like[place].shape)

    def add(self, share: float, tensors: Sequence[Tensor | None]) -> None:
        """Add what a shard has, by its share in the batch."""
        for place, tensor in enumerate(tensors):
            if tensor is None:
                continue
            if is_split(tensor):
                self.values[place] = tensor
            else:
                self.values[place].add_(tensor, alpha=share)

    def reduce(self, processes: Processes) -> None:
        """Add what other processes have."""
        for flat in self._flat:
            processes.all_reduce(flat)


def _write(tensors: Sequence[Tensor], values: Sequence[Tensor]) -> None:
    for tensor, value in zip(tensors, values, strict=True):
        tensor.copy_(value)


def seed_all(*numbers: int) -> None:
    """Let all random generators begin anew, as if each of these numbers had seeds of its own."""
    seed = int(SeedSequence(numbers).generate_state(1)[0])
    random.seed(seed)
    np.random.seed(seed)  # noqa: NPY002 - the one that programs share
    if torch.accelerator.is_available():
        torch.manual_seed(seed)
    else:  # what this also does costs ten times as much, to seed devices that are not there
        torch.default_generator.manual_seed(seed)
