"""New data for a trained model, read as its training data were."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from jaxtyping import Float, Int, Num
from numpy.typing import NDArray
from torch import Tensor

from ..arguments import describe
from ..errors import InputError, did_you_mean, error_reason, short_repr
from .binarise import binarise, dequantise
from .description import DataDescription
from .files import SUFFIXES, as_column, read_arrays, read_csv_table
from .load import DATASETS, open_data_set

if TYPE_CHECKING:
    import pandas as pd

__all__ = [
    "FILE_SUFFIXES",
    "TABLES",
    "Rows",
    "as_table",
    "is_table",
    "prepare",
    "read_rows",
    "read_table",
    "rows_of_table",
]

TABLES = (".csv", ".parquet")
"""Ends of the names of files that hold tables."""

FILE_SUFFIXES = (*SUFFIXES, ".parquet")
"""Ends of the names of files that hold new data."""

_NOISE_SEED = 0
"""Seed with which new data are binarised or dequantised, so that equal files give equal results."""

_MOST_NAMED = 5
"""Number of columns or words that a message names."""


@dataclass(frozen=True)
class Rows:
    """New data, one row for each datum, in the order in which they were given.

    Attributes:
        name: what to call them in messages.
        x: data as the model takes them.
        y: class of each datum, -1 where it is missing; None without labels.
        exposure: exposure of each datum, if any.
        keys: what identifies each datum, if a column does.
        as_read: data before binarisation or dequantisation.
    """

    name: str
    x: Num[Tensor, "num *event"]
    y: Int[Tensor, "num"] | None = None
    exposure: Float[Tensor, "num"] | None = None
    keys: NDArray[Any] | None = None
    as_read: Num[Tensor, "num *event"] | None = None

    @property
    def title(self) -> str:
        """What to call them at the start of a sentence about several data."""
        return "x" if self.name == "x" else f"the data of {self.name}"

    def __len__(self) -> int:
        return len(self.x)

    def __getitem__(self, index: slice | Tensor) -> "Rows":
        place: Any = index.numpy() if isinstance(index, Tensor) else index
        return Rows(
            self.name,
            self.x[index],
            None if self.y is None else self.y[index],
            None if self.exposure is None else self.exposure[index],
            None if self.keys is None else self.keys[place],
            None if self.as_read is None else self.as_read[index],
        )


def is_table(value: Any) -> bool:
    """Whether a value is a data frame, with columns that have names."""
    if isinstance(value, Tensor | np.ndarray) or not hasattr(value, "columns"):
        return False
    import narwhals as nw

    return isinstance(nw.from_native(value, eager_only=True, pass_through=True), nw.DataFrame)


def read_rows(source: str | Path, about: DataDescription | None, key: str | None = None) -> Rows:
    """Read new data from a file, or all data of a data set that has a name.

    Arguments:
        source: path of a ``.csv``, ``.parquet``, ``.npy`` or ``.npz``, or the name of a data set.
        about: what the training data were. Columns of a table are matched by name; None to take
            numbers as they are.
        key: column of a table that identifies each row.

    Raises:
        InputError: if the file cannot be read, or holds other data than the model was trained on.
    """
    path = Path(source)
    suffix = path.suffix.lower()
    if str(source) in DATASETS:
        return _read_data_set(str(source), about, key)
    if suffix not in FILE_SUFFIXES:
        raise InputError(
            f"unknown data {short_repr(str(source))}: give a file that ends in "
            f"{', '.join(FILE_SUFFIXES)}, or a data set ({', '.join(DATASETS)})"
        )
    _check_is_file(path)
    if suffix in TABLES:
        return rows_of_table(read_table(path, about), about, str(path), key)
    _refuse_key(key, str(path))
    part = read_arrays(path)
    y = None if part.y is None else _renumber(part.y, about, str(path))
    return Rows(str(path), prepare(part.x, about, str(path)), y, as_read=part.x)


def read_table(path: Path, about: DataDescription | None) -> "pd.DataFrame":
    """Read a ``.csv`` or ``.parquet`` as it is.

    Raises:
        InputError: if it is missing, or cannot be read as a table.
    """
    _check_is_file(path)
    names = (about and about.features) or ()
    if path.suffix.lower() == ".csv":
        return read_csv_table(path, names)
    return _read_parquet(path)


def as_table(name: str, frame: Any) -> "pd.DataFrame":
    """A data frame of any library as one of pandas, with names of columns as text.

    Raises:
        InputError: if the library is not known.
    """
    import narwhals as nw
    import pandas as pd

    if isinstance(frame, pd.DataFrame):
        return frame.rename(columns=str)
    wrapped = nw.from_native(frame, eager_only=True, pass_through=True)
    if not isinstance(wrapped, nw.DataFrame):
        raise InputError(
            f"{name} is {describe(frame)}; give a data frame of pandas, polars or pyarrow"
        )
    return pd.DataFrame({column: wrapped[column].to_numpy() for column in wrapped.columns})


def rows_of_table(
    table: "pd.DataFrame", about: DataDescription | None, name: str, key: str | None = None
) -> Rows:
    """The data in a table, whose columns are matched with those of the training data by name.

    The table may also hold the label and the exposure, as the training data did, and a key.

    Arguments:
        table: the table, with names of columns as text.
        about: what the training data were; None to take all columns as numbers.
        name: what to call the table in messages.
        key: column that identifies each row.

    Raises:
        InputError: if a column is missing or was not in the training data, or holds a word that
            these never held, or something else than numbers.
    """
    if not len(table):
        raise InputError(f"{name} has no rows; give one row or more")
    keys = None
    if key is not None:
        _check_columns([key], table, name)
        keys = table[key].to_numpy()
    features = about.features if about else None
    if about is None or features is None:
        columns = [column for column in table.columns if column != key]
        x = torch.stack([as_column(name, each, table[each], False) for each in columns], 1)
        x = x.to(torch.get_default_dtype())
        return Rows(name, prepare(x, about, name), keys=keys, as_read=x)
    _check_columns(features, table, name)
    known = {*features, about.label, about.exposure, key}
    unknown = [column for column in table.columns if column not in known]
    if unknown:
        raise InputError(
            f"{name} has {_join(unknown)}, which the training data did not have; leave "
            f"{'it' if len(unknown) == 1 else 'them'} out, or name the column that identifies "
            "rows (--id)"
        )
    x = torch.stack([_read_feature(table, each, about, name) for each in features], 1)
    y = exposure = None
    if about.label is not None and about.label in table:
        y = _find_classes(table[about.label], about, name)
    if about.exposure is not None and about.exposure in table:
        exposure = as_column(name, about.exposure, table[about.exposure], False)
        exposure = exposure.to(torch.get_default_dtype())
    x = x.to(torch.get_default_dtype())
    return Rows(name, prepare(x, about, name), y, exposure, keys, x)


def prepare(
    x: Num[Tensor, "num *event"], about: DataDescription | None, name: str
) -> Num[Tensor, "num *event"]:
    """Binarise grey levels, or dequantise whole numbers, if this was done with the training data.

    Images of zeros and ones alone are taken as binarised already.

    Raises:
        InputError: if x are no grey levels of the range of the training data, or no whole numbers
            where they need be.
    """
    if about is None:
        return x
    is_whole = not x.is_floating_point() or bool(((x == x.round()) | x.isnan()).all())
    if about.levels is not None and about.levels > 1 and not is_whole:
        raise InputError(
            f"{name} holds numbers that are not whole; the model was trained on grey levels from 0 "
            f"to {about.levels:g}: multiply numbers from 0 to 1 by {about.levels:g} and round them"
        )
    generator = torch.Generator().manual_seed(_NOISE_SEED)
    if about.dequantise:
        if not is_whole:
            raise InputError(
                f"{name} holds numbers that are not whole; the model was trained on whole numbers"
            )
        return dequantise(x.cpu(), generator).to(x.device)
    missing = x.isnan()
    if about.binarise == "none" or bool(((x == 0) | (x == 1) | missing).all()):
        return x
    levels = about.levels or 1.0
    low, high = x[~missing].min().item(), x[~missing].max().item()
    if not (low >= 0 and high <= levels):
        raise InputError(
            f"{name} ranges from {low:.4g} to {high:.4g}; the model was trained on grey levels "
            f"from 0 to {levels:g}"
        )
    drawn = binarise(x.cpu(), levels, generator).to(x.device)
    return torch.where(missing, torch.nan, drawn) if bool(missing.any()) else drawn


def _check_is_file(path: Path) -> None:
    """Check that a file is there.

    Raises:
        InputError: if not, or the path cannot be that of a file.
    """
    name = short_repr(str(path))
    try:
        is_there = path.is_file()
    except (OSError, ValueError) as error:  # such as a name that is too long
        raise InputError(f"{name} cannot be read: {error_reason(error)}") from error
    if not is_there:
        raise InputError(f"there is no file {name}")


def _read_data_set(source: str, about: DataDescription | None, key: str | None) -> Rows:
    _refuse_key(key, source)
    raw = open_data_set(source)
    parts = [part for part in (raw.train, raw.test) if part is not None]
    x = torch.cat([part.x for part in parts])
    if x.is_floating_point():
        x = x.to(torch.get_default_dtype())
    features = about.features if about else None
    if features is not None:
        present = raw.features or ()
        if set(features) != set(present):
            raise InputError(f"{source} has {_join(present)}; the model needs {_join(features)}")
        x = x[:, [present.index(each) for each in features]]
    labels = [part.y for part in parts]
    y = torch.cat([each for each in labels if each is not None]) if None not in labels else None
    return Rows(source, prepare(x, about, source), y, as_read=x)


def _read_parquet(path: Path) -> "pd.DataFrame":
    try:
        import polars as pl
    except ImportError as error:
        raise InputError(
            "reading .parquet needs polars; install it with: pip install 'pyrovae[parquet]'"
        ) from error
    try:
        return as_table(str(path), pl.read_parquet(path))
    except (pl.exceptions.PolarsError, OSError) as error:
        raise InputError(f"{path} cannot be read as a table: {error}") from error


def _refuse_key(key: str | None, name: str) -> None:
    if key is not None:
        raise InputError(f"id names a column of a table, and {name} is none; leave it out")


def _check_columns(names: Sequence[str], table: "pd.DataFrame", source: str) -> None:
    missing = [name for name in names if name not in table]
    if missing:
        hint = did_you_mean(missing[0], list(map(str, table.columns)))
        raise InputError(f"{source} has no {_join(missing)}: {hint}")


def _read_feature(
    table: "pd.DataFrame", name: str, about: DataDescription, source: str
) -> Float[Tensor, "num"]:
    """The numbers of a column, in which words have the codes of the training data."""
    column = table[name]
    words = about.categories.get(name)
    if words is None:
        return as_column(source, name, column, False)
    codes = {word: float(code) for code, word in enumerate(words)}
    return torch.tensor(_find_codes(column, codes, "word", source))


def _find_classes(
    column: "pd.Series[Any]", about: DataDescription, source: str
) -> Int[Tensor, "num"]:
    """The class of each row, -1 where it is missing."""
    num_classes = len(about.class_counts or ())
    names = about.classes or tuple(map(str, range(num_classes)))
    codes = {name: float(code) for code, name in enumerate(names)}
    found = torch.tensor(_find_codes(column, codes, "class", source))
    return found.nan_to_num(-1).long()


def _find_codes(
    column: "pd.Series[Any]", codes: dict[str, float], what: str, source: str
) -> NDArray[np.float64]:
    """The code of each word; NaN where it is missing.

    Raises:
        InputError: naming the first word that has none.
    """
    import pandas as pd

    places, values = pd.factorize(column)
    found = [codes.get(_as_word(value, codes)) for value in values]
    for place, (value, code) in enumerate(zip(values, found, strict=True)):
        if code is None:
            row = int(np.flatnonzero(places == place)[0]) + 1
            known = ", ".join(list(codes)[:_MOST_NAMED])
            more = ", ..." if len(codes) > _MOST_NAMED else ""
            raise InputError(
                f"{source}: column {str(column.name)!r} holds {short_repr(value)} in row {row}, a "
                f"{what} that the training data never held; known are {known}{more}"
            )
    return np.array([*found, np.nan], dtype=float)[places]


def _as_word(value: Any, codes: dict[str, float]) -> str:
    """The name of a word; a whole number may stand in a column of reals, as 1 in [1, NaN]."""
    word = str(value)
    if word not in codes and isinstance(value, float) and value.is_integer():
        return str(int(value))
    return word


def _renumber(y: Tensor, about: DataDescription | None, source: str) -> Int[Tensor, "num"]:
    """Labels of a file as the model numbers them."""
    import pandas as pd

    if about is None or about.classes is None:
        return y
    column = pd.Series(y.numpy(), name="y").astype(object).where(y.numpy() >= 0, None)
    return _find_classes(column, about, source)


def _join(names: Sequence[str]) -> str:
    """Columns in words: ``column 'a'``, or ``columns 'a', 'b'``."""
    shown = ", ".join(repr(name) for name in names[:_MOST_NAMED])
    more = f" and {len(names) - _MOST_NAMED} more" if len(names) > _MOST_NAMED else ""
    return f"column {shown}" if len(names) == 1 else f"columns {shown}{more}"
