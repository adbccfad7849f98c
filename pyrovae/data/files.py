"""Data from files of the user's: arrays and tables. Nothing is unpickled."""

from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from ..errors import InputError, did_you_mean
from .dataset import Split

__all__ = ["SUFFIXES", "read_file"]

SUFFIXES = (".npz", ".npy", ".csv")

Read = tuple[Split, Split | None, float | None, tuple[str, ...] | None]
"""Training data, test data, levels, names of features."""


def read_file(path: Path, label: str | None = None) -> Read:
    """Read ``.npy`` (one array), ``.npz`` or ``.csv``.

    An ``.npz`` holds ``x`` and perhaps integer labels ``y``, or ``x_train``, ``y_train``,
    ``x_test``, ``y_test``, or one array of any name. Arrays are indexed by datum first; images
    without channels (three dimensions in all) get one. A ``.csv`` holds numbers, with or without
    a line of column names.

    Raises:
        InputError: if the file is missing, is not what its name says, or holds no numbers.
    """
    if not path.is_file():
        raise InputError(f"there is no file {path}")
    if path.suffix.lower() == ".csv":
        return _read_csv(path, label)
    if label is not None:
        raise InputError(f"label names a column of a CSV; {path.name} has none")
    arrays = _arrays(path)
    if "x_train" in arrays and "x_test" in arrays:
        train = _split(path, arrays, "_train")
        test = _split(path, arrays, "_test")
        if train.x.shape[1:] != test.x.shape[1:]:
            raise InputError(
                f"{path}: x_train has data of shape {tuple(train.x.shape[1:])}, x_test of "
                f"{tuple(test.x.shape[1:])}"
            )
        return train, test, _levels(train.x), None
    if "x" not in arrays:
        if len(arrays) != 1:
            raise InputError(
                f"{path} holds arrays {', '.join(arrays) or '(none)'}; name the data 'x', or "
                "'x_train' and 'x_test'"
            )
        arrays = {"x": next(iter(arrays.values()))}
    data = _split(path, arrays, "")
    return data, None, _levels(data.x), None


def _arrays(path: Path) -> dict[str, NDArray[Any]]:
    try:
        loaded = np.load(path, allow_pickle=False)
        return dict(loaded) if hasattr(loaded, "files") else {"x": loaded}
    except (ValueError, OSError, EOFError) as error:
        raise InputError(f"{path} cannot be read as {path.suffix}: {error}") from error


def _split(path: Path, arrays: dict[str, NDArray[Any]], suffix: str) -> Split:
    x = _tensor(path, f"x{suffix}", arrays[f"x{suffix}"])
    if x.ndim < 2:
        raise InputError(
            f"{path}: x{suffix} has shape {tuple(x.shape)}; it needs a first dimension of data and "
            "at least one of features"
        )
    if x.ndim == 3:
        x = x.unsqueeze(1)
    y = None
    if f"y{suffix}" in arrays:
        y = _tensor(path, f"y{suffix}", arrays[f"y{suffix}"])
        if y.shape != x.shape[:1] or y.is_floating_point():
            raise InputError(
                f"{path}: y{suffix} must hold one whole number for each of the {len(x)} data; got "
                f"{y.dtype} of shape {tuple(y.shape)}"
            )
        y = y.long()
    return Split(x, y)


def _tensor(path: Path, name: str, array: NDArray[Any]) -> Tensor:
    if array.dtype.kind not in "biuf":
        raise InputError(f"{path}: {name} has dtype {array.dtype}; it must hold real numbers")
    if array.dtype == np.uint8:
        return torch.from_numpy(array)
    return torch.from_numpy(array.astype(np.int64 if array.dtype.kind in "iu" else np.float32))


def _levels(x: Tensor) -> float | None:
    return 255.0 if x.dtype == torch.uint8 and x.ndim > 2 else None


def _read_csv(path: Path, label: str | None) -> Read:
    import pandas as pd

    try:
        head = pd.read_csv(path, nrows=1, header=None)
        named = not all(pd.api.types.is_numeric_dtype(dtype) for dtype in head.dtypes)
        table = pd.read_csv(path, header=0 if named else None)
    except (ValueError, OSError) as error:  # pandas' own parser errors are ValueErrors
        raise InputError(f"{path} cannot be read as a table: {str(error).strip()}") from error
    table.columns = table.columns.astype(str)
    y = None
    if label is not None:
        if label not in table:
            raise InputError(
                f"{path} has no column {label!r}: {did_you_mean(label, list(table.columns))}"
            )
        codes, _ = pd.factorize(table.pop(label), sort=True)
        y = torch.from_numpy(codes.astype(np.int64))
    if table.shape[0] < 1 or table.shape[1] < 1:
        raise InputError(f"{path} has no data: {table.shape[0]} rows of {table.shape[1]} columns")
    for column in table:
        if not pd.api.types.is_numeric_dtype(table[column]):
            numbers = pd.to_numeric(table[column], errors="coerce")
            row = int(np.flatnonzero(numbers.isna())[0])
            raise InputError(
                f"{path}: column {column!r} holds {table[column].iloc[row]!r} in row {row + 1}; "
                f"columns must be numbers. If it is the class, say --label {column}"
            )
    x = torch.from_numpy(table.to_numpy(dtype=np.float32, na_value=np.nan))
    return Split(x, y), None, None, tuple(table.columns)
