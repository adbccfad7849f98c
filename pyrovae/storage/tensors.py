"""Tensors as the bytes of a safetensors file, the same bytes for the same tensors."""

import json
from collections.abc import Mapping

import safetensors.torch
from torch import Tensor

__all__ = ["save_tensors"]

_LENGTH = 8
"""Bytes that hold the length of the header."""

_METADATA = "__metadata__"


def save_tensors(tensors: Mapping[str, Tensor], metadata: Mapping[str, str]) -> bytes:
    """The bytes of a safetensors file with these tensors and metadata.

    The library writes metadata in an order that differs from process to process; here it is sorted,
    so that equal runs write equal files.

    Arguments:
        tensors: contiguous tensors on the CPU, by name.
        metadata: text by name.
    """
    data = safetensors.torch.save(dict(tensors), dict(metadata))
    size = int.from_bytes(data[:_LENGTH], "little")
    header = json.loads(data[_LENGTH : _LENGTH + size])
    ordered = {_METADATA: dict(sorted(header.pop(_METADATA, {}).items())), **header}
    text = json.dumps(ordered, separators=(",", ":"), ensure_ascii=False).encode()
    text += b" " * (-len(text) % _LENGTH)  # readers map tensors into memory, aligned
    return len(text).to_bytes(_LENGTH, "little") + text + data[_LENGTH + size :]
