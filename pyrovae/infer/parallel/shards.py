"""Data parallelism: processes share the shards of each batch, and each shard has its own noise."""

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

_NUM_SEEDS = 2**63 - 1

_STOP, _SAVE = range(2)


class Shards:
    """Splits each batch into S shards, and averages losses and gradients over them.

    The gradient of a batch of B data is the weighted mean over its shards of B_s data each,

        g = sum_s (B_s / B) g_s,

    where the plate over data scales each shard up to all data. This is the gradient of the whole
    batch for every objective that is a mean over data. Process p of P computes every P-th shard.
    Shard s of step t draws from its own seed, made of (seed, t, s), so that a fit depends, to
    round-off, on the number of shards but not on the number of processes.

    Buffers start from the same values in each shard, and end as the mean over shards; integer
    buffers end as in the first process.

    Arguments:
        num: S.
        processes: the processes that share the shards; all take the same steps.
        seed: seed of all noise; unless given, the first process draws one for all.

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
        shared = torch.randint(_NUM_SEEDS, ()) if seed is None else torch.tensor(seed)
        shared = shared.to(processes.device)
        processes.broadcast(shared)
        self.seed = int(shared)
        self._requests = [False, False]
        self.should_stop = False
        self.should_save = False

    @property
    def local_shards(self) -> range:
        """Numbers of the shards that this process computes."""
        return range(self.processes.rank, self.num, self.processes.num)

    def split(self, args: Sequence[Any]) -> list[tuple[float, tuple[Any, ...]]]:
        """The share in the batch, and the arguments, of each shard; a small batch has fewer."""
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
        """Yield share and arguments of each local shard, after seeding its noise."""
        parts = self.split(args)
        for number in self.local_shards:
            if number < len(parts):
                seed_all(self.seed, step, number)
                yield parts[number]

    def check_divisible(self, num: int) -> None:
        """Check that a batch of ``num`` data splits into shards of equal size.

        Raises:
            InputError: if it does not.
        """
        if num % self.num:
            raise Agreed(
                f"a batch of {num} data cannot be cut into {self.num} shards of equal size, which "
                "parameters that are split over processes need; give a batch_size, and a number of "
                f"data, that {self.num} divides"
            )

    def request(self, *, stop: bool = False, save: bool = False) -> None:
        """Ask all processes to stop, or to save a state, after the next step."""
        self._requests = [self._requests[_STOP] or stop, self._requests[_SAVE] or save]

    @torch.no_grad()
    def average(
        self,
        compute_shard: Callable[[tuple[Any, ...]], tuple[Any, Gradients]],
        args: tuple[Any, ...],
        step: int,
        parameters: Sequence[Tensor],
        buffers: Sequence[Tensor],
        loss_spec: TreeSpec,
    ) -> tuple[Any, Gradients]:
        """The loss and the gradients of a whole batch, as means over its shards.

        Arguments:
            compute_shard: computes loss and gradients from the arguments of a shard.
            args: arguments of the batch, the same in all processes.
            step: number of the step.
            parameters: the parameters, in the order of the gradients.
            buffers: the buffers that a shard may change.
            loss_spec: tree structure of the loss.

        Raises:
            InputError: in all processes, if a shard declares a new parameter.
        """
        real = [each for each in buffers if each.is_floating_point()]
        integer = [each for each in buffers if not each.is_floating_point()]
        before = [each.clone() for each in buffers]
        first = parameters[0]
        losses = [
            torch.zeros((), dtype=first.dtype, device=first.device)
            for _ in range(loss_spec.num_leaves)
        ]
        starts = [value for value in before if value.is_floating_point()]
        means = _RunningMeans([*losses, *parameters, *real])
        present, has_new = [False] * len(parameters), False
        if any(map(is_split, parameters)):
            self.check_divisible(len(args[0]))
        for share, part in self.iterate_local(args, step):
            _copy_into(buffers, before)
            loss, gradients = compute_shard(part)
            has_new = len(gradients) > len(parameters)
            if has_new:
                break
            # Average changes rather than values, so that constant buffers keep every bit.
            pairs = zip(real, starts, strict=True)
            changes = [torch.where(b == start, 0.0, b - start) for b, start in pairs]
            means.add(share, [*leaves_of(loss), *gradients, *changes])
            present = [was or g is not None for was, g in zip(present, gradients, strict=True)]
        means.reduce(self.processes)
        flags = self._combine_flags([*present, *self._requests, has_new], integer)
        self._requests = [False, False]
        *present, self.should_stop, self.should_save, has_new = flags
        if has_new:
            raise Agreed(
                "a parameter first appeared after the first batch, so that other shards do not "
                "know it; declare all parameters in each call of model and guide"
            )
        mean_losses = means.values[: len(losses)]
        mean_gradients = means.values[len(losses) : len(losses) + len(parameters)]
        mean_changes = means.values[len(losses) + len(parameters) :]
        _copy_into(real, [v + d for v, d in zip(starts, mean_changes, strict=True)])
        gradients = [
            mean if is_present else None
            for mean, is_present in zip(mean_gradients, present, strict=True)
        ]
        return unflatten(loss_spec, [each.clone() for each in mean_losses]), gradients

    def check_same_parameters(self, parameters: Sequence[Tensor]) -> None:
        """Check that all processes hold the same parameters.

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
                "processes came to hold different parameters, because model or guide depend on "
                "something that differs between processes, such as the time, a file, or a network "
                "that only one of them trains; make it the same in all"
            )

    def reseed(self) -> None:
        """Give all processes the same random state."""
        seed_all(self.seed)

    def _combine_flags(self, flags: list[bool], integer: list[Tensor]) -> list[bool]:
        """Set each flag that is set in any process; copy integer buffers from the first."""
        if self.processes.num == 1:
            return flags
        device = self.processes.device
        numbers = [each.to(device, torch.double).flatten() for each in integer]
        message = torch.cat([torch.tensor(flags, dtype=torch.double, device=device), *numbers])
        if not self.processes.is_first:
            message[len(flags) :] = 0
        self.processes.all_reduce(message)
        sizes = [each.numel() for each in integer]
        for each, values in zip(integer, message[len(flags) :].split(sizes), strict=True):
            each.copy_(values.view_as(each))
        return [count > 0 for count in message[: len(flags)].tolist()]


class _RunningMeans:
    """Weighted means of tensors over shards, in one flat tensor for each type and device.

    The gradient of a split parameter is a mean over processes already, each with one shard.

    Arguments:
        like: tensors of the same shapes and types.

    Attributes:
        values: the means.
    """

    def __init__(self, like: Sequence[Tensor]) -> None:
        indices: dict[tuple[torch.dtype, torch.device], list[int]] = {}
        for index, each in enumerate(like):
            if is_split(each):
                continue
            indices.setdefault((each.dtype, each.device), []).append(index)
        self.values = list(like)
        self._flat = []
        for (dtype, device), group in indices.items():
            sizes = [like[index].numel() for index in group]
            flat = torch.zeros(sum(sizes), dtype=dtype, device=device)
            self._flat.append(flat)
            for index, values in zip(group, flat.split(sizes), strict=True):
                self.values[index] = values.view(like[index].shape)

    def add(self, share: float, tensors: Sequence[Tensor | None]) -> None:
        """Add the tensors of a shard, weighted by its share in the batch."""
        for index, tensor in enumerate(tensors):
            if tensor is None:
                continue
            if is_split(tensor):
                self.values[index] = tensor
            else:
                self.values[index].add_(tensor, alpha=share)

    def reduce(self, processes: Processes) -> None:
        """Sum over processes."""
        for flat in self._flat:
            processes.all_reduce(flat)


def _copy_into(tensors: Sequence[Tensor], values: Sequence[Tensor]) -> None:
    for tensor, value in zip(tensors, values, strict=True):
        tensor.copy_(value)


def seed_all(*numbers: int) -> None:
    """Seed all random generators from these numbers together."""
    seed = int(SeedSequence(numbers).generate_state(1)[0])
    random.seed(seed)
    np.random.seed(seed)  # noqa: NPY002 - the generator that programs share
    if torch.accelerator.is_available():
        torch.manual_seed(seed)
    else:  # torch.manual_seed would take ten times as long, to seed devices that do not exist
        torch.default_generator.manual_seed(seed)
