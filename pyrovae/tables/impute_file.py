"""``pyrovae impute``: a CSV file with its missing cells filled, and nothing else changed."""

import tempfile
from collections.abc import Callable, Sequence
from math import floor, log10
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rich.console import Console
from rich.table import Table
from rich.text import Text

from ..data.csv_text import CsvText
from ..errors import InputError
from ..likelihoods import Likelihood, Mixed
from ..storage import atomic
from .columns import Column, columns_of
from .imputation import NUM_SAMPLES, check_level, impute
from .imputed import Imputation

if TYPE_CHECKING:
    import pandas as pd

__all__ = ["impute_file"]

_Writer = Callable[[Any], str]

_NUMBER = ("low", "high")
_WORD = ("probability",)
_MOST_IMPUTATIONS = 100
_DIGITS = 5
"""Of a number that is filled in, from the first one of the column's standard deviation."""


def impute_file(
    path: Path,
    output: Path,
    console: Console,
    *,
    likelihood: Any = None,
    num_imputations: int = 0,
    overwrite: bool = False,
    level: float = 0.9,
    **settings: Any,
) -> None:
    """Fill the missing cells of a CSV file, and say in further columns how sure they are.

    The copy has ``NAME_low`` and ``NAME_high`` for each column of numbers that had missing cells,
    and ``NAME_probability`` for each of words, empty where the cell was there. Every other cell is
    the same to the byte.

    Arguments:
        path: the file.
        output: the file to write.
        console: where to print.
        likelihood: as :func:`impute` takes it.
        num_imputations: how many further files ``OUTPUT-1.csv``, ... to write, each with its
            missing cells drawn, and no further columns.
        overwrite: whether files may be there already.
        level: probability that an interval holds.
        settings: of :func:`impute`.

    Raises:
        InputError: if a file cannot be read or written, or names clash; before training.
    """
    if not 0 <= num_imputations <= _MOST_IMPUTATIONS:
        raise InputError(
            f"imputations is {num_imputations}; it must be from 0 to {_MOST_IMPUTATIONS}"
        )
    check_level(level, NUM_SAMPLES)
    numbered = range(1, num_imputations + 1)
    targets = [_target(path, output, overwrite)]
    drawn = [output.with_name(f"{output.stem}-{i}{output.suffix}") for i in numbered]
    targets += [_target(path, each, overwrite) for each in drawn]
    csv = CsvText.read(path)
    table = csv.table()
    declared = None if likelihood is None else Likelihood.of(likelihood)
    _announce(path, csv, table, declared, console)
    result = impute(table, likelihood=declared, level=level, **settings)
    writers = _writers(result, csv)
    filled = _cells(result.filled, writers, result)
    _write(targets[0], csv.with_cells(filled, _beside(writers, result, csv.num_rows)))
    for number, target in enumerate(targets[1:]):
        _write(target, csv.with_cells(_cells(result.draw(number), writers, result)))
    _report(result, level, console)
    files = ", ".join(map(str, (output, *drawn)))
    console.print(f"{result.num_filled:,} cells filled in {files}", soft_wrap=True)


def _target(path: Path, output: Path, overwrite: bool) -> Path:
    """The file to write, which is the one that a link points to; made sure of, without making it.

    Raises:
        InputError: if it is the table or no plain file, may not be replaced, or cannot be written.
    """
    try:
        if output.exists() and path.exists() and output.samefile(path):
            raise InputError(f"{output} is the table itself; give another --output")
        if output.is_dir():
            raise InputError(f"{output} is a folder; give --output the name of a file in it")
        if output.exists() and not output.is_file():
            raise InputError(f"{output} is no plain file; give another --output")
        if output.exists() and not overwrite:
            raise InputError(
                f"{output} is there already; give another --output, or say --overwrite"
            )
        target = output.resolve() if output.is_symlink() else output
        with tempfile.TemporaryFile(dir=target.parent):
            return target
    except OSError as error:
        raise InputError(f"cannot write to {output}: {error.strerror or error}") from error
    except RuntimeError as error:
        raise InputError(f"{output} is a link to itself; give another --output") from error


def _write(target: Path, text: str) -> None:
    """Write a file whole or not at all.

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
    table: "pd.DataFrame",
    declared: Likelihood | Mixed | None,
    console: Console,
) -> None:
    """What each column is taken for; and that the names of further columns are free."""
    columns, left_out = columns_of(table, declared)
    incomplete = {csv.names[column] for _, column in csv.missing}
    for column in columns:
        if column.name in incomplete:
            for name in _names(column):
                if name in csv.names:
                    raise InputError(
                        f"{path} has a column {name!r}, which the interval of {column.name!r} "
                        "would be called; rename it"
                    )
    console.print(
        f"{path}: {csv.num_rows:,} rows of {len(csv.names)} columns, {len(csv.missing):,} cells "
        "missing",
        highlight=False,
        soft_wrap=True,
    )
    for column in columns:
        name = column.likelihood.family.name
        console.print(f"{column.name}: {name}, as {column.reason}", **_PLAIN)
    for reason in left_out.values():
        console.print(f"left out: {reason}", **_PLAIN)


_PLAIN: dict[str, Any] = {"highlight": False, "soft_wrap": True, "markup": False}


def _names(column: Column) -> list[str]:
    kinds = _NUMBER if column.words is None else _WORD
    return [f"{column.name}_{kind}" for kind in kinds]


def _cells(
    table: "pd.DataFrame", writers: Sequence[tuple[Column, _Writer]], result: Imputation
) -> dict[tuple[int, int], str]:
    """What to write in each cell that was missing and is not."""
    written = {}
    for column, write in writers:
        values = table.iloc[:, column.position]
        for row in _rows(column, result):
            written[row, column.position] = write(values.iloc[row])
    return written


def _beside(
    writers: Sequence[tuple[Column, _Writer]], result: Imputation, num_rows: int
) -> dict[str, Sequence[str]]:
    """What to write in further columns."""
    columns: dict[str, Sequence[str]] = {}
    for column, of_cell in writers:
        is_number = column.words is None
        write = of_cell if is_number else "{:.3f}".format
        parts = (result.low, result.high) if is_number else (result.probability,)
        for name, part in zip(_names(column), parts, strict=True):
            words = [""] * num_rows
            for row in _rows(column, result):
                words[row] = write(part.iloc[row, column.position])
            columns[name] = words
    return columns


def _writers(result: Imputation, csv: CsvText) -> list[tuple[Column, _Writer]]:
    """How the cells of each column that was filled are written."""
    columns = sorted(result.columns, key=lambda column: column.position)
    return [(each, _writer(each, result, csv)) for each in columns if _rows(each, result)]


def _rows(column: Column, result: Imputation) -> list[int]:
    """The rows in which the column was filled."""
    rows: list[int] = result.was_missing.iloc[:, column.position].to_numpy().nonzero()[0].tolist()
    return rows


def _writer(column: Column, result: Imputation, csv: CsvText) -> _Writer:
    """How the cells of a column are written."""
    if column.words is not None:
        return csv.spellings(column.position).__getitem__
    if column.is_whole:
        return "{:.0f}".format
    known = result.filled.iloc[:, column.position][~result.was_missing.iloc[:, column.position]]
    decimals = max(0, _DIGITS - 1 - floor(log10(known.std())))
    return lambda value: repr(round(float(value), decimals))


def _report(result: Imputation, level: float, console: Console) -> None:
    """What was filled, and how surely."""
    table = Table(box=None, padding=(0, 2, 0, 0), pad_edge=False)
    table.add_column("column")
    table.add_column("likelihood", no_wrap=True)
    table.add_column("filled", justify="right")
    table.add_column("typically", justify="right")
    for column in sorted(result.columns, key=lambda column: column.position):
        rows = _rows(column, result)
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
            f"typically: half the width of the {level:.0%} interval in the units of the column, or "
            "the probability of the word; the median over cells",
            **_PLAIN,
        )
    for note in result.notes:
        console.print(f"note: {note}", **_PLAIN)
