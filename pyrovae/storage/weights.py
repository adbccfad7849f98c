"""The weights of a model in a safetensors file, with a checksum and the versions that wrote it."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import safetensors
from torch import nn

from ..errors import InputError, error_reason
from . import atomic
from .checksum import checksum
from .tensors import save_tensors
from .versions import versions

__all__ = ["describe_versions", "read", "read_metadata", "size", "write"]

_DIGEST = "sha256"
_VERSIONS = "versions"

_READ_ERRORS = (OSError, ValueError, RuntimeError, safetensors.SafetensorError)
"""Errors of reading a damaged file; RuntimeError includes RecursionError."""


def write(path: Path, module: nn.Module, metadata: Mapping[str, Any]) -> None:
    """Write the weights of a module, with metadata that can be JSON.

    Raises:
        InputError: if the file cannot be written; an old one then stays as it was.
    """
    tensors = {name: t.detach().cpu().contiguous() for name, t in module.state_dict().items()}
    entries = {**metadata, _VERSIONS: versions()}
    text = {key: json.dumps(value) for key, value in entries.items()}
    text[_DIGEST] = checksum(tensors, json.dumps(text, sort_keys=True))
    try:
        atomic.write(path, save_tensors(tensors, text))
    except OSError as error:
        raise InputError(f"cannot write {path}: {error_reason(error)}") from error


def read_metadata(path: Path, *names: str) -> list[Any]:
    """Read metadata that was written with the weights.

    Raises:
        InputError: if the file is damaged, or lacks one of the names.
    """
    try:
        with safetensors.safe_open(path, framework="pt") as file:
            texts = file.metadata() or {}
        return [json.loads(texts[name]) for name in names]
    except (*_READ_ERRORS, KeyError) as error:
        raise InputError(f"{path} is damaged, or not from a run: {error_reason(error)}") from error


def size(path: Path) -> int:
    """Bytes of the file.

    Raises:
        InputError: if it cannot be read.
    """
    try:
        return path.stat().st_size
    except OSError as error:
        raise InputError(f"cannot read {path}: {error_reason(error)}") from error


def read(path: Path, module: nn.Module, described_in: str) -> None:
    """Load the weights into a module of the same structure.

    Arguments:
        path: the file.
        module: the module, on the CPU.
        described_in: name of the file that describes the module, for messages.

    Raises:
        InputError: if the file is damaged, or holds weights of another model, or numbers that are
            not finite.
    """
    try:
        with safetensors.safe_open(path, framework="pt") as file:
            text = dict(file.metadata() or {})
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
    except _READ_ERRORS as error:
        raise InputError(
            f"{path} is damaged, and does not fit its {described_in}: {error_reason(error)}"
        ) from error
    digest = text.pop(_DIGEST, None)  # older files have none
    if digest not in (None, checksum(tensors, json.dumps(text, sort_keys=True))):
        raise InputError(f"{path} is damaged or was changed: its checksum does not match")
    own = module.state_dict()
    for name, tensor in tensors.items():
        if name in own and tensor.dtype != own[name].dtype:
            raise InputError(
                f"{path} does not fit its {described_in}: {name} has type {tensor.dtype}, and "
                f"should have {own[name].dtype}"
            )
        if not bool(tensor.isfinite().all()):
            raise InputError(f"{path} holds NaN or infinite numbers in {name}")
    try:
        module.load_state_dict(tensors)
    except RuntimeError as error:
        reason = " ".join(str(error).split())[:200]
        raise InputError(
            f"{path} does not fit its {described_in}: {reason}{describe_versions(path)}"
        ) from error


def describe_versions(path: Path) -> str:
    """A clause with the versions that wrote the file, if they differ from now; else empty."""
    try:
        (recorded,) = read_metadata(path, _VERSIONS)
    except InputError:
        return ""
    names = [f"{name} {recorded.get(name)}" for name in versions() if isinstance(recorded, dict)]
    return "" if recorded == versions() else f"; the run was trained under {', '.join(names)}"
