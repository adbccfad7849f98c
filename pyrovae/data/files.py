"""Read your own files of arrays and tables. Nothing is unpickled."""

import lzma
import struct
import tokenize
import zipfile
import zlib
from collections.abc import Collection
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from ..errors import InputError, did_you_mean
from .dataset import RawDataset, Split
from .memory import check_fits_memory, memory_guard

if TYPE_CHECKING:
    import pandas as pd

__all__ = ["SUFFIXES", "as_column", "read_arrays", "read_csv_table", "read_file"]

SUFFIXES = (".npz", ".npy", ".csv")

_PARTS = {"x_train", "x_test"}

_READ_ERRORS = (
    ValueError,
    OSError,
    EOFError,
    LookupError,
    RuntimeError,  # from zipfile, if a password is needed or the compression is unknown
    TypeError,
    AttributeError,
    struct.error,
    tokenize.TokenError,
    SyntaxError,
    zipfile.BadZipFile,
    zlib.error,
    lzma.LZMAError,
)
"""Errors that NumPy and zipfile raise for files that do not hold arrays."""


def read_file(
    path: Path, label: str | None = None, exposure: str | None = None, words: bool = False
) -> RawDataset:
    """Read ``.npy`` (one array), ``.npz`` or ``.csv``.

    An ``.npz`` holds ``x`` and optionally integer labels ``y``; or ``x_train``, ``y_train``,
    ``x_test``, ``y_test``; or one array of any name. The first dimension indexes data. Images have
    shape (data, channels, height, width). Those of shape (data, height, width) get a channel, and
    1, 3 or 4 channels at the end are moved to the front. A ``.csv`` holds numbers, separated by
    commas. Its first line names the columns if it holds fewer numbers than the second.

    Arguments:
        path: the file.
        label: column of a CSV that holds the class.
        exposure: column of a CSV that holds the exposure of each datum.
        words: whether columns of a CSV may hold words; they are numbered in alphabetical order.

    Raises:
        InputError: if the file is missing, damaged, of another format than its name says, or does
            not hold numbers.
    """
    if not path.is_file():
        raise InputError(f"there is no file {path}")
    if path.suffix.lower() == ".csv":
        return _read_csv(path, label, exposure, words)
    for option, column in (("label", label), ("exposure", exposure)):
        if column is not None:
            raise InputError(
                f"{option} must name a column of a CSV file, and {path.name} is not one"
            )
    arrays = _load_arrays(path)
    if arrays.keys() >= _PARTS:
        train = _make_split(path, arrays, "_train")
        test = _make_split(path, arrays, "_test")
        if train.x.shape[1:] != test.x.shape[1:] or train.x.dtype != test.x.dtype:
            raise InputError(
                f"{path}: x_train and x_test must agree; x_train has data of shape "
                f"{tuple(train.x.shape[1:])} ({train.x.dtype}), x_test of "
                f"{tuple(test.x.shape[1:])} ({test.x.dtype})"
            )
        return _renumber_labels(RawDataset(train, test, _grey_levels(train.x)))
    data = _make_split(path, _name_single(path, arrays), "")
    return _renumber_labels(RawDataset(data, None, _grey_levels(data.x)))


def read_arrays(path: Path) -> Split:
    """Read all data of a ``.npy`` or ``.npz``, with labels as the file holds them.

    Raises:
        InputError: as :func:`read_file` does; or if the file holds training and test data.
    """
    if not path.is_file():
        raise InputError(f"there is no file {path}")
    arrays = _load_arrays(path)
    if arrays.keys() >= _PARTS:
        raise InputError(
            f"{path} holds both x_train and x_test; save the data that you mean as one array 'x'"
        )
    return _make_split(path, _name_single(path, arrays), "")


def _name_single(path: Path, arrays: dict[str, NDArray[Any]]) -> dict[str, NDArray[Any]]:
    """The arrays of data that are not split, where a single array is called x."""
    if "x" in arrays:
        return arrays
    if len(arrays) != 1:
        raise InputError(
            f"{path} holds arrays {', '.join(arrays) or '(none)'}; name the data 'x', or "
            "'x_train' and 'x_test'"
        )
    return {"x": next(iter(arrays.values()))}


def _renumber_labels(raw: RawDataset) -> RawDataset:
    """Renumber labels as 0, 1, ... if there are gaps, and keep the old ones as class names.

    Missing labels (-1) stay.
    """
    labels = [part.y for part in (raw.train, raw.test) if part is not None and part.y is not None]
    present = torch.cat(labels).unique() if labels else torch.zeros(0)
    present = present[present >= 0]
    if torch.equal(present, torch.arange(len(present), dtype=present.dtype)):
        return raw

    def renumber(part: Split) -> Split:
        if part.y is None:
            return part
        return replace(part, y=torch.where(part.y < 0, -1, torch.searchsorted(present, part.y)))

    test = None if raw.test is None else renumber(raw.test)
    names = tuple(str(label) for label in present.tolist())
    return replace(raw, train=renumber(raw.train), test=test, classes=names)


def _load_arrays(path: Path) -> dict[str, NDArray[Any]]:
    try:
        with path.open("rb") as file, memory_guard(f"{path}", "give fewer data"):
            if zipfile.is_zipfile(file):
                with zipfile.ZipFile(file) as archive:
                    num_bytes = sum(member.file_size for member in archive.infolist())
                check_fits_memory(num_bytes, f"{path}", "give fewer data")
            file.seek(0)
            loaded = np.load(file, allow_pickle=False)
            arrays = dict(loaded) if hasattr(loaded, "files") else {"x": loaded}
    except InputError:
        raise
    except _READ_ERRORS as error:
        raise InputError(
            f"{path} cannot be read as {path.suffix}: it is damaged, has another format, or holds "
            "Python objects instead of numbers"
        ) from error
    for name, array in arrays.items():
        if not isinstance(array, np.ndarray):
            raise InputError(f"{path}: {name} is not an array; save arrays with numpy.savez")
    return arrays


def _make_split(path: Path, arrays: dict[str, NDArray[Any]], suffix: str) -> Split:
    x = _as_tensor(path, f"x{suffix}", arrays[f"x{suffix}"])
    if x.ndim < 2 or x.numel() == 0:
        raise InputError(
            f"{path}: x{suffix} has shape {tuple(x.shape)}; it needs a first dimension of data and "
            "at least one dimension of features, none of them empty"
        )
    if x.ndim == 3:
        x = x.unsqueeze(1)
    if x.ndim == 4 and x.shape[-1] in (1, 3, 4) and x.shape[1] not in (1, 3, 4):
        x = x.movedim(-1, 1).contiguous()
    y = None
    if f"y{suffix}" in arrays:
        y = _as_tensor(path, f"y{suffix}", arrays[f"y{suffix}"])
        if y.shape != x.shape[:1] or y.is_floating_point():
            raise InputError(
                f"{path}: y{suffix} must hold one whole number for each of the {len(x)} data; got "
                f"{y.dtype} of shape {tuple(y.shape)}"
            )
        y = y.long()
    return Split(x, y)


def _as_tensor(path: Path, name: str, array: NDArray[Any]) -> Tensor:
    if array.dtype.kind not in "biuf":
        raise InputError(f"{path}: {name} has dtype {array.dtype}; it must hold real numbers")
    if array.dtype == np.uint64 and array.size and array.max() > np.iinfo(np.int64).max:
        raise InputError(
            f"{path}: {name} holds {array.max()}, too large for a signed 64-bit integer"
        )
    if array.dtype == np.uint8:
        return torch.tensor(array)
    if array.dtype == np.float32:
        return torch.tensor(array)
    return torch.tensor(array.astype(np.int64 if array.dtype.kind in "biu" else np.float64))


def _grey_levels(x: Tensor) -> float | None:
    return 255.0 if x.dtype == torch.uint8 and x.ndim > 2 else None


def read_csv_table(path: Path, names: Collection[str] = ()) -> "pd.DataFrame":
    """Read a ``.csv`` as it is, with names of columns as text.

    The first line names the columns if it holds one of ``names``, or fewer numbers than the second.

    Raises:
        InputError: if the file is missing, or cannot be read as a table.
    """
    import pandas as pd

    if not path.is_file():
        raise InputError(f"there is no file {path}")
    with path.open(encoding="utf-8", errors="replace") as file:
        line = file.readline()
    if "," not in line and (";" in line or "\t" in line):
        raise InputError(f"{path} separates columns by semicolons or tabs; separate them by commas")
    try:
        start = pd.read_csv(path, nrows=2, header=None, dtype=str)
        has_names = len(start) > 1 and _count_numbers(start.iloc[0]) < _count_numbers(start.iloc[1])
        has_names = has_names or (len(start) == 1 and _count_numbers(start.iloc[0]) == 0)
        has_names = has_names or bool(start.iloc[0].isin(list(names)).any())
        table = pd.read_csv(path, header=0 if has_names else None)
    except (ValueError, OSError) as error:  # pandas' own parser errors are ValueErrors
        raise InputError(f"{path} cannot be read as a table: {str(error).strip()}") from error
    table.columns = table.columns.astype(str)
    return table


def _read_csv(path: Path, label: str | None, exposure: str | None, words: bool) -> RawDataset:
    import pandas as pd

    table = read_csv_table(path)
    y, classes = None, None
    if label is not None:
        y, classes = _pop_labels(path, table, label)
    exposures = None
    if exposure is not None:
        _check_column_exists(path, table, exposure)
        exposures = as_column(path, exposure, table.pop(exposure))
        if not bool(((exposures > 0) & exposures.isfinite()).all()):
            raise InputError(
                f"{path}: column {exposure!r} holds exposures that are not positive and finite"
            )
    if table.shape[0] < 1 or table.shape[1] < 1:
        raise InputError(f"{path} has no data: {table.shape[0]} rows of {table.shape[1]} columns")
    categories: dict[str, tuple[str, ...]] = {}
    columns = []
    for name in table.columns:
        column = table[name]
        if words and not pd.api.types.is_numeric_dtype(column):
            codes, found = pd.factorize(column, sort=True)
            categories[name] = tuple(str(word) for word in found)
            column = pd.Series(codes, dtype=float).where(codes >= 0)
        columns.append(as_column(path, name, column))
    data = Split(torch.stack(columns, dim=1), y, exposures)
    return RawDataset(data, None, None, tuple(table.columns), classes, categories)


def _check_column_exists(path: Path, table: "pd.DataFrame", name: str) -> None:
    if name not in table:
        known = map(str, table.columns)
        raise InputError(f"{path} has no column {name!r}: {did_you_mean(name, known)}")


def _count_numbers(row: "pd.Series[str]") -> int:
    import pandas as pd

    return int(pd.to_numeric(row, errors="coerce").notna().sum())


def _pop_labels(
    path: Path, table: "pd.DataFrame", label: str
) -> tuple[Tensor, tuple[str, ...] | None]:
    import pandas as pd

    _check_column_exists(path, table, label)
    codes, names = pd.factorize(table.pop(label), sort=True)
    if (codes < 0).any():
        row = int(np.flatnonzero(codes < 0)[0]) + 1
        raise InputError(
            f"{path}: the class {label!r} is missing in row {row}; remove the row or fill it in"
        )
    return torch.tensor(codes.astype(np.int64)), tuple(str(name) for name in names)


def as_column(path: Path | str, name: str, column: "pd.Series[Any]", label: bool = True) -> Tensor:
    """The numbers of a column in double precision, NaN where they are missing.

    Arguments:
        path: what to call the table, for the message.
        name: name of the column.
        column: the column.
        label: whether the column may be the class, which is said if it holds words.

    Raises:
        InputError: if it holds something else than numbers, or numbers that overflow in single
            precision.
    """
    import pandas as pd

    if column.dtype.kind in "mMc":
        raise InputError(f"{path}: column {name!r} holds {column.dtype}; columns must be numbers")
    numbers = pd.to_numeric(column, errors="coerce")
    wrong = np.flatnonzero(numbers.isna() & column.notna())
    if len(wrong):
        hint = "columns must be numbers"
        if label and len(wrong) == column.notna().sum():
            hint += f". If it is the class, pass --label {name}"
        value = column.iloc[wrong[0]]
        raise InputError(f"{path}: column {name!r} holds {value!r} in row {wrong[0] + 1}; {hint}")
    values = torch.tensor(numbers.to_numpy(dtype=np.float64, na_value=np.nan))
    too_large = values.isfinite() & ~values.float().isfinite()
    if bool(too_large.any()):
        raise InputError(
            f"{path}: column {name!r} holds {values[too_large][0].item():.3g}, too large for "
            "single precision; rescale it"
        )
    return values
