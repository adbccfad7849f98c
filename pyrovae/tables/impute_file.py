"""``pyrovae impute``: fill the missing cells of a CSV file, and change nothing else."""

import tempfile
from collections.abc import Callable, Mapping, Sequence
from math import floor, log10
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rich.console import Console
from rich.table import Table
from rich.text import Text

from ..data.csv_text import CsvText
from ..errors import InputError
from ..likelihoods import Likelihood
from ..models.base import LatentVariableModel
from ..storage import atomic
from .columns import Column, choose_columns
from .imputation import NUM_SAMPLES, check_level, impute
from .imputed import Imputation
from .with_model import columns_of_model, impute_with

if TYPE_CHECKING:
    import pandas as pd

__all__ = ["impute_file"]

_Writer = Callable[[Any], str]

_NUMBER_SUFFIXES = ("low", "high")
_WORD_SUFFIXES = ("probability",)
_MAX_IMPUTATIONS = 100
_DIGITS = 5
"""Digits of a filled-in number, counted from the first digit of the column's standard deviation."""


def impute_file(
    path: Path,
    output: Path,
    console: Console,
    *,
    likelihood: Any = None,
    model: LatentVariableModel | None = None,
    num_imputations: int = 0,
    overwrite: bool = False,
    level: float = 0.9,
    **settings: Any,
) -> None:
    """Fill the missing cells of a CSV file, and add columns with their uncertainty.

    For each column with missing cells, the output has further columns: ``NAME_low`` and
    ``NAME_high`` for numbers, ``NAME_probability`` for words. They are empty where the cell was not
    missing. All other cells are copied byte for byte.

    Arguments:
        path: the file to read.
        output: the file to write.
        console: where to print.
        likelihood: as for :func:`impute`.
        model: a model that was trained on a table with these columns; None to train one.
        num_imputations: number of further files ``OUTPUT-1.csv``, ... to write, each with a draw of
            the missing cells, and without further columns.
        overwrite: whether to replace files that exist already.
        level: probability that an interval contains the value.
        settings: other arguments of :func:`impute`, or of :func:`impute_with`.

    Raises:
        InputError: before training, if a file cannot be read or written, or names clash.
    """
    if not 0 <= num_imputations <= _MAX_IMPUTATIONS:
        raise InputError(
            f"imputations is {num_imputations}; it must be from 0 to {_MAX_IMPUTATIONS}"
        )
    check_level(level, NUM_SAMPLES)
    numbered = range(1, num_imputations + 1)
    targets = [_find_target(path, output, overwrite)]
    drawn = [output.with_name(f"{output.stem}-{i}{output.suffix}") for i in numbered]
    targets += [_find_target(path, each, overwrite) for each in drawn]
    csv = CsvText.read(path)
    table = csv.table()
    if model is None:
        declared = None if likelihood is None else Likelihood.of(likelihood)
        _announce(path, csv, *choose_columns(table, declared), console)
        result = impute(table, likelihood=declared, level=level, **settings)
    else:
        _announce(path, csv, *columns_of_model(model, table), console)
        result = impute_with(model, table, level=level, **settings)
    writers = _make_writers(result, csv)
    filled = _format_cells(result.filled, writers, result)
    _write(targets[0], csv.with_cells(filled, _format_uncertainty(writers, result, csv.num_rows)))
    for number, target in enumerate(targets[1:]):
        _write(target, csv.with_cells(_format_cells(result.draw(number), writers, result)))
    _report(result, level, console)
    files = ", ".join(map(str, (output, *drawn)))
    console.print(f"filled {result.num_filled:,} cells in {files}", soft_wrap=True)


def _find_target(path: Path, output: Path, overwrite: bool) -> Path:
    """Check the output, and return the file to write; a link is followed.

    Raises:
        InputError: if it is the table itself, not a regular file, exists already, or cannot be
            written.
    """
    try:
        if output.exists() and path.exists() and output.samefile(path):
            raise InputError(f"{output} is the table itself; give another --output")
        if output.is_dir():
            raise InputError(f"{output} is a folder; give the name of a file as --output")
        if output.exists() and not output.is_file():
            raise InputError(f"{output} is not a regular file; give another --output")
        if output.exists() and not overwrite:
            raise InputError(f"{output} exists already; give another --output, or add --overwrite")
        target = output.resolve() if output.is_symlink() else output
        with tempfile.TemporaryFile(dir=target.parent):
            return target
    except OSError as error:
        raise InputError(f"cannot write to {output}: {error.strerror or error}") from error
    except RuntimeError as error:
        raise InputError(f"{output} is a link to itself; give another --output") from error


def _write(target: Path, text: str) -> None:
    """Write a file completely or not at all.

    Raises:
        InputError: if it cannot be written.
    """
    try:
        atomic.write(target, text.encode())
    except OSError as error:
        raise InputError(f"cannot write to {target}: {error.strerror or error}") from error


def _announce(
    path: Path,
    csv: CsvText,
    columns: Sequence[Column],
    left_out: Mapping[str, str],
    console: Console,
) -> None:
    """Print the likelihood of each column, after checking that names of added columns are free."""
    incomplete = {csv.names[column] for _, column in csv.missing}
    for column in columns:
        if column.name in incomplete:
            for name in _list_added_names(column):
                if name in csv.names:
                    raise InputError(
                        f"{path} has a column {name!r}, but a column of that name is to be added "
                        f"for {column.name!r}; rename it"
                    )
    console.print(
        f"{path}: {csv.num_rows:,} rows, {len(csv.names)} columns, "
        f"{len(csv.missing):,} missing cells",
        highlight=False,
        soft_wrap=True,
    )
    for column in columns:
        name = column.likelihood.family.name
        console.print(f"{column.name}: {name}, as {column.reason}", **_PLAIN)
    for reason in left_out.values():
        console.print(f"left out: {reason}", **_PLAIN)


_PLAIN: dict[str, Any] = {"highlight": False, "soft_wrap": True, "markup": False}


def _list_added_names(column: Column) -> list[str]:
    kinds = _NUMBER_SUFFIXES if column.words is None else _WORD_SUFFIXES
    return [f"{column.name}_{kind}" for kind in kinds]


def _format_cells(
    table: "pd.DataFrame", writers: Sequence[tuple[Column, _Writer]], result: Imputation
) -> dict[tuple[int, int], str]:
    """Return the text of each cell that was filled."""
    written = {}
    for column, write in writers:
        values = table.iloc[:, column.position]
        for row in _filled_rows(column, result):
            written[row, column.position] = write(values.iloc[row])
    return written


def _format_uncertainty(
    writers: Sequence[tuple[Column, _Writer]], result: Imputation, num_rows: int
) -> dict[str, Sequence[str]]:
    """Return the cells of the columns to add."""
    columns: dict[str, Sequence[str]] = {}
    for column, of_cell in writers:
        is_number = column.words is None
        write = of_cell if is_number else "{:.3f}".format
        parts = (result.low, result.high) if is_number else (result.probability,)
        for name, part in zip(_list_added_names(column), parts, strict=True):
            words = [""] * num_rows
            for row in _filled_rows(column, result):
                words[row] = write(part.iloc[row, column.position])
            columns[name] = words
    return columns


def _make_writers(result: Imputation, csv: CsvText) -> list[tuple[Column, _Writer]]:
    """Return each column that was filled, with a function that formats its cells."""
    columns = sorted(result.columns, key=lambda column: column.position)
    return [
        (each, _make_writer(each, result, csv)) for each in columns if _filled_rows(each, result)
    ]


def _filled_rows(column: Column, result: Imputation) -> list[int]:
    """Return the rows in which the column was filled."""
    rows: list[int] = result.was_missing.iloc[:, column.position].to_numpy().nonzero()[0].tolist()
    return rows


def _make_writer(column: Column, result: Imputation, csv: CsvText) -> _Writer:
    """Return a function that formats the cells of a column."""
    if column.words is not None:
        return csv.spellings(column.position).__getitem__
    if column.is_whole:
        return "{:.0f}".format
    known = result.filled.iloc[:, column.position][~result.was_missing.iloc[:, column.position]]
    decimals = max(0, _DIGITS - 1 - floor(log10(known.std())))
    return lambda value: repr(round(float(value), decimals))


def _report(result: Imputation, level: float, console: Console) -> None:
    """Print how many cells were filled, and how uncertain they are."""
    table = Table(box=None, padding=(0, 2, 0, 0), pad_edge=False)
    table.add_column("column")
    table.add_column("likelihood", no_wrap=True)
    table.add_column("filled", justify="right")
    table.add_column("uncertainty", justify="right")
    for column in sorted(result.columns, key=lambda column: column.position):
        rows = _filled_rows(column, result)
        if not rows:
            continue
        low, high, probability = (
            part.iloc[rows, column.position].median()
            for part in (result.low, result.high, result.probability)
        )
        typical = f"± {(high - low) / 2:.3g}" if column.words is None else f"p = {probability:.2f}"
        name = column.likelihood.family.name
        table.add_row(Text(column.name), name, f"{len(rows):,}", typical)
    if table.row_count:
        console.print(table)
        console.print(
            f"uncertainty: half the width of the {level:.0%} interval, or the probability p of the "
            "word; the median over cells",
            **_PLAIN,
        )
    for note in result.notes:
        console.print(f"note: {note}", **_PLAIN)
