"""Tensors that are split over processes: torch's ``DTensor``, from ``fully_shard``."""

from collections.abc import Iterable, Sequence
from typing import TypeGuard

import torch
from torch import Tensor, nn
from torch.distributed.fsdp import FSDPModule
from torch.distributed.tensor import DTensor, Partial, distribute_tensor

from ...errors import InputError
from .processes import Processes

__all__ = ["check_split", "gather", "is_split", "shard_like", "sum_each", "total_norm"]


def is_split(tensor: Tensor) -> TypeGuard[DTensor]:
    """Whether each process holds only a part of the tensor."""
    return isinstance(tensor, DTensor)


def check_split(modules: Iterable[nn.Module], processes: Processes | None, num_shards: int) -> bool:
    """Check modules with split parameters; return whether there are any.

    ``fully_shard`` averages gradients over processes with equal weights, which is the mean over the
    shards of a batch only if each process has one shard. Split modules are set to free gathered
    parameters after each forward pass.

    Arguments:
        modules: the modules that are trained.
        processes: the processes that train together; None if batches are not sharded.
        num_shards: number of shards of a batch.

    Raises:
        InputError: if processes and shards do not match the split.
    """
    modules = list(modules)
    found = [p for module in modules for p in module.parameters(recurse=False) if is_split(p)]
    if not found:
        return False
    num = max(parameter.device_mesh.size() for parameter in found)
    if processes is None or not processes.num == num == num_shards:
        raise InputError(
            f"parameters are split over {num} processes (fully_shard), which must then train "
            f"together: give fit group=torch.distributed.group.WORLD, and leave shards at {num}"
        )
    for module in modules:
        if isinstance(module, FSDPModule):  # or the root would keep gathered parameters after use
            module.set_reshard_after_forward(True, recurse=False)
    return True


def gather(tensor: Tensor) -> Tensor:
    """The whole tensor, which all processes gather together."""
    return tensor.full_tensor() if is_split(tensor) else tensor


def shard_like(value: Tensor, tensor: Tensor) -> Tensor:
    """Split a value that each process holds as a whole, in the way that ``tensor`` is split."""
    if not is_split(tensor):
        return value
    mesh = tensor.device_mesh
    return distribute_tensor(value.to(tensor.device), mesh, tensor.placements, src_data_rank=None)


def sum_each(tensors: Sequence[Tensor]) -> list[Tensor]:
    """The sum of each tensor; one reduction over processes serves all split tensors."""
    local_sums = [
        tensor.to_local().sum() if is_split(tensor) else tensor.sum() for tensor in tensors
    ]
    split = [tensor for tensor in tensors if is_split(tensor)]
    if not split:
        return local_sums
    mesh = split[0].device_mesh
    parts = [each for each, tensor in zip(local_sums, tensors, strict=True) if is_split(tensor)]
    placements = [Partial()] * mesh.ndim
    totals = DTensor.from_local(torch.stack(parts), mesh, placements).full_tensor()
    remaining = iter(totals.unbind())
    return [
        next(remaining) if is_split(tensor) else each
        for each, tensor in zip(local_sums, tensors, strict=True)
    ]


def total_norm(tensors: Sequence[Tensor]) -> Tensor:
    """The Euclidean norm of all tensors together."""
    return torch.stack(sum_each([tensor * tensor for tensor in tensors])).sum().sqrt()
