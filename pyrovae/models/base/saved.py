"""A trained model in a folder: its description as text, and its weights.

::

    FOLDER/description.json     how to build the model, and what data it was trained on
    FOLDER/model.safetensors    the weights

Opening it needs neither the data nor the code that trained it, and runs no code of the file's.
"""

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import nn

from ...data.description import DataDescription
from ...data.memory import parameter_budget
from ...described import from_plain
from ...errors import InputError, error_reason, short_repr
from ...storage import atomic, weights

__all__ = ["DESCRIPTION", "WEIGHTS", "Description", "rebuild"]

DESCRIPTION = "description.json"

WEIGHTS = "model.safetensors"

_FORMAT = 1
"""Files of later formats are refused."""

_MOST_CHARACTERS = 20_000_000

_DTYPES = {"float32": torch.float32, "float64": torch.float64}


@dataclass(frozen=True)
class Description:
    """What ``description.json`` holds.

    Attributes:
        model: how to build the model, in plain values.
        dtype: type of its weights.
        data: what is known of the data; None if nothing is.
        options: the options of the run that determine the model, in plain values.
    """

    model: Mapping[str, Any]
    dtype: torch.dtype
    data: DataDescription | None = None
    options: Mapping[str, Any] = field(default_factory=dict)

    def write(self, folder: Path) -> None:
        """Write the file, into a folder that is made if it is not there.

        Raises:
            InputError: if it cannot be written.
        """
        record = {
            "format": _FORMAT,
            "dtype": str(self.dtype).removeprefix("torch."),
            "model": self.model,
            "data": None if self.data is None else self.data.to_plain(),
            "options": self.options,
        }
        path = folder / DESCRIPTION
        text = json.dumps(record, indent=2, ensure_ascii=False) + "\n"
        try:
            folder.mkdir(parents=True, exist_ok=True)
            atomic.write(path, text.encode())
        except OSError as error:
            raise InputError(f"cannot write {path}: {error_reason(error)}") from error

    @classmethod
    def read(cls, folder: Path) -> "Description":
        """Read the file.

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
                f"{path} has format {short_repr(record.get('format'))}, and this version of "
                f"pyrovae reads format {_FORMAT}; install a later version"
            )
        data, dtype, options = (record.get(name) for name in ("data", "dtype", "options"))
        if not isinstance(dtype, str) or dtype not in _DTYPES:
            known = ", ".join(_DTYPES)
            raise InputError(f"{path} has dtype {short_repr(dtype)}; known are {known}")
        if not isinstance(options, dict):
            raise InputError(f"{path} has options {short_repr(options)}, which are no mapping")
        about = None if data is None else DataDescription.parse(data, str(path))
        return cls(record["model"], _DTYPES[dtype], about, options)


def rebuild(folder: Path) -> tuple[nn.Module, Description]:
    """The module that a folder holds, with its weights, on the CPU; and its description.

    Raises:
        InputError: if a file is missing or damaged, or the two do not belong together.
    """
    description = Description.read(folder)
    path = folder / WEIGHTS
    with parameter_budget(weights.size(path)):
        try:
            module = from_plain(description.model)
        except InputError as error:
            raise InputError(
                f"{folder / DESCRIPTION} cannot be used: {error}{weights.describe_versions(path)}"
            ) from error
    if not isinstance(module, nn.Module):
        raise InputError(f"{folder / DESCRIPTION} does not describe a model")
    module.to(description.dtype)
    weights.read(path, module, DESCRIPTION)
    return module, description
