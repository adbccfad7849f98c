"""Tensors of which each process holds a part: torch's ``DTensor``, by ``fully_shard``."""

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
    """Whether each process holds a part of it alone."""
    return isinstance(tensor, DTensor)


def check_split(modules: Iterable[nn.Module], processes: Processes | None, num_shards: int) -> bool:
    """Whether parameters of modules are split; these then let go of what they gather after use.

    Their gradients are averaged as ``fully_shard`` does: over processes, with equal weights.

    Arguments:
        modules: that are trained.
        processes: those that train together; None where there are no shards of a batch.
        num_shards: of a batch.

    Raises:
        InputError: if that is not the mean over shards of a batch.
    """
    modules = list(modules)
    found = [p for module in modules for p in module.parameters(recurse=False) if is_split(p)]
    if not found:
        return False
    num = max(parameter.device_mesh.size() for parameter in found)
    if processes is None or not processes.num == num == num_shards:
        raise InputError(
            f"parameters are split over {num} processes (fully_shard): let these train together, "
            f"with group=torch.distributed.group.WORLD, and leave shards at {num}"
        )
    for module in modules:
        if isinstance(module, FSDPModule):  # else it would hold other parameters until it is used
            module.set_reshard_after_forward(True, recurse=False)
    return True


def gather(tensor: Tensor) -> Tensor:
    """All of it, which the processes gather together."""
    return tensor.full_tensor() if is_split(tensor) else tensor


def shard_like(value: Tensor, tensor: Tensor) -> Tensor:
    """A value that is whole in each process, split as a tensor is."""
    if not is_split(tensor):
        return value
    mesh = tensor.device_mesh
    return distribute_tensor(value.to(tensor.device), mesh, tensor.placements, src_data_rank=None)


def sum_each(tensors: Sequence[Tensor]) -> list[Tensor]:
    """The sum of each; those of all that are split are added over processes in one go."""
    found = [tensor.to_local().sum() if is_split(tensor) else tensor.sum() for tensor in tensors]
    split = [tensor for tensor in tensors if is_split(tensor)]
    if not split:
        return found
    mesh = split[0].device_mesh
    parts = [each for each, tensor in zip(found, tensors, strict=True) if is_split(tensor)]
    placements = [Partial()] * mesh.ndim
    totals = DTensor.from_local(torch.stack(parts), mesh, placements).full_tensor()
    left = iter(totals.unbind())
    return [
        next(left) if is_split(tensor) else each
        for each, tensor in zip(found, tensors, strict=True)
    ]


def total_norm(tensors: Sequence[Tensor]) -> Tensor:
    """The norm of all of them together."""
    return torch.stack(sum_each([tensor * tensor for tensor in tensors])).sum().sqrt()
