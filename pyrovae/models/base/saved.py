"""A trained model in a folder: its description as text, and its weights.

::

    FOLDER/description.json     how to build the model, and what data it was trained on
    FOLDER/model.safetensors    the weights

Opening it needs neither the data nor the code that trained it, and runs no code of the file's.
"""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import nn

from ...data.description import DataDescription
from ...data.memory import parameter_budget
from ...described import from_plain
from ...errors import InputError, error_reason, short_repr
from ...storage import atomic, weights

__all__ = ["DESCRIPTION", "WEIGHTS", "read_description", "rebuild", "write_description"]

DESCRIPTION = "description.json"

WEIGHTS = "model.safetensors"

_FORMAT = 1
"""Files of later formats are refused."""

_MOST_CHARACTERS = 20_000_000


_DTYPES = {"float32": torch.float32, "float64": torch.float64}


def write_description(
    folder: Path, model: Mapping[str, Any], dtype: torch.dtype, data: DataDescription | None
) -> None:
    """Write ``description.json``.

    Arguments:
        folder: is made if it is not there.
        model: how to build the model, in plain values.
        dtype: type of its weights.
        data: what is known of the data; None if nothing is.

    Raises:
        InputError: if it cannot be written.
    """
    record = {
        "format": _FORMAT,
        "dtype": str(dtype).removeprefix("torch."),
        "model": model,
        "data": None if data is None else data.to_plain(),
    }
    text = json.dumps(record, indent=2, ensure_ascii=False) + "\n"
    try:
        folder.mkdir(parents=True, exist_ok=True)
        atomic.write(folder / DESCRIPTION, text.encode())
    except OSError as error:
        raise InputError(f"cannot write {folder / DESCRIPTION}: {error_reason(error)}") from error


def read_description(folder: Path) -> tuple[dict[str, Any], torch.dtype, DataDescription | None]:
    """Read ``description.json``: the model in plain values, its type, and what data it is for.

    Raises:
        InputError: if it cannot be read, or is of a later format.
    """
    path = folder / DESCRIPTION
    try:
        with path.open(encoding="utf-8") as file:
            record = json.loads(file.read(_MOST_CHARACTERS))
    except (OSError, ValueError, RecursionError) as error:
        raise InputError(f"{path} cannot be read: {error_reason(error)}") from error
    if not isinstance(record, dict) or not isinstance(record.get("model"), dict):
        raise InputError(f"{path} does not describe a model")
    if record.get("format") != _FORMAT:
        raise InputError(
            f"{path} has format {short_repr(record.get('format'))}, and this version of pyrovae "
            f"reads format {_FORMAT}; install a later version"
        )
    data, dtype = record.get("data"), record.get("dtype")
    if not isinstance(dtype, str) or dtype not in _DTYPES:
        raise InputError(f"{path} has dtype {short_repr(dtype)}; known are {', '.join(_DTYPES)}")
    about = None if data is None else DataDescription.parse(data, str(path))
    return record["model"], _DTYPES[dtype], about


def rebuild(folder: Path) -> tuple[nn.Module, DataDescription | None]:
    """The module that a folder holds, with its weights, on the CPU; and what data it is for.

    Raises:
        InputError: if a file is missing or damaged, or the two do not belong together.
    """
    model, dtype, data = read_description(folder)
    path = folder / WEIGHTS
    with parameter_budget(weights.size(path)):
        try:
            module = from_plain(model)
        except InputError as error:
            raise InputError(
                f"{folder / DESCRIPTION} cannot be used: {error}{weights.describe_versions(path)}"
            ) from error
    if not isinstance(module, nn.Module):
        raise InputError(f"{folder / DESCRIPTION} does not describe a model")
    module.to(dtype)
    weights.read(path, module, DESCRIPTION)
    return module, data
