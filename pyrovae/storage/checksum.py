"""A checksum of tensors and text, to detect damaged files."""

import hashlib
from collections.abc import Mapping

import safetensors.torch
from torch import Tensor

__all__ = ["checksum"]


def checksum(tensors: Mapping[str, Tensor], text: str) -> str:
    """SHA-256 of a text, and of tensors with their names, types and shapes.

    The order of the names does not matter.

    Arguments:
        tensors: tensors by name, on the CPU.
        text: text that is stored with them.
    """
    digest = hashlib.sha256(text.encode())
    for name in sorted(tensors):
        tensor = tensors[name]
        digest.update(f"{name} {tensor.dtype} {tuple(tensor.shape)}".encode())
        digest.update(safetensors.torch.save({name: tensor.contiguous()}))
    return digest.hexdigest()
