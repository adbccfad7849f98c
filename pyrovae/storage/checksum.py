"""A checksum of tensors and text, by which a damaged file is told from a whole one."""

import hashlib
from collections.abc import Mapping

import safetensors.torch
from torch import Tensor

__all__ = ["checksum"]


def checksum(tensors: Mapping[str, Tensor], text: str) -> str:
    """SHA-256 of the text, and of each tensor with its name, type and shape.

    The order of the names does not matter.

    Arguments:
        tensors: on the CPU.
        text: what is kept beside them.
    """
    found = hashlib.sha256(text.encode())
    for name in sorted(tensors):
        tensor = tensors[name]
        found.update(f"{name} {tensor.dtype} {tuple(tensor.shape)}".encode())
        found.update(safetensors.torch.save({name: tensor.contiguous()}))
    return found.hexdigest()
