"""Edit a CSV file as text, so that a copy differs only in the cells that you change."""

import io
import re
from collections.abc import Hashable, Iterator, Mapping, Sequence
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..errors import InputError

if TYPE_CHECKING:
    import pandas as pd

__all__ = ["MISSING", "CsvText", "quote_cell"]

_CELL = re.compile(
    r'("(?>[^"]*(?:""[^"]*)*)"[^,\r\n]*|[^",\r\n][^,\r\n]*|)(,|\r\n|\n|\r|\Z)', flags=re.DOTALL
)
"""A cell as written, and its end; a quotation mark inside an unquoted cell is literal."""

_QUOTED = re.compile(r'"((?>[^"]*(?:""[^"]*)*))"', flags=re.DOTALL)

_WHOLE = r"\s*[+-]?[0-9]+\s*"

_LARGEST_WHOLE = 2**53
"""Floats represent all whole numbers exactly up to this one."""

_OTHER_SEPARATORS = (";", "\t", "|")

MISSING = frozenset(
    [
        "",
        "#N/A",
        "#N/A N/A",
        "#NA",
        "-1.#IND",
        "-1.#QNAN",
        "-NaN",
        "-nan",
        "1.#IND",
        "1.#QNAN",
        "<NA>",
        "N/A",
        "NA",
        "NULL",
        "NaN",
        "None",
        "n/a",
        "nan",
        "null",
    ]
)
"""Words that ``pandas.read_csv`` reads as missing, including the empty cell."""


class CsvText:
    """The text of a CSV file and the positions of its missing cells.

    Commas separate cells; a cell in quotation marks may hold commas, line ends and doubled
    quotation marks. The first line names the columns. A cell is missing if pandas reads it as
    missing: if it is empty, or a word such as ``NA`` or ``nan``.

    Arguments:
        text: contents of the file.
        name: name of the file in messages.

    Attributes:
        names: names of the columns.
        missing: for (row, column number) of each missing cell, its start and end in the text.

    Raises:
        InputError: if the text does not have this form, or pandas would read it differently.

    Example:
        >>> csv = CsvText('id,size\\r\\n"a",\\r\\n b ,2.50')
        >>> csv.names, csv.missing
        (('id', 'size'), {(0, 1): (13, 13)})
        >>> csv.with_cells({(0, 1): "3"}, {"size_low": ["1", ""]})
        'id,size,size_low\\r\\n"a",3,1\\r\\n b ,2.50,'
    """

    def __init__(self, text: str, name: str = "the text") -> None:
        self._text = text
        self._name = name
        self._start = len(text) - len(text.removeprefix("\ufeff"))
        self._ends: list[int] = []
        self.missing: dict[tuple[int, int], tuple[int, int]] = {}
        self.names = self._read_header()
        self._scan_rows()

    @classmethod
    def read(cls, path: Path) -> "CsvText":
        """Read a file.

        Raises:
            InputError: if it cannot be read, or does not have the form of a CSV file.
        """
        try:
            if not path.exists():
                raise InputError(f"there is no file {path}")
            if not path.is_file():
                raise InputError(f"{path} is not a regular file; give the name of a CSV file")
            data = path.read_bytes()
        except OSError as error:
            raise InputError(f"cannot read {path}: {error.strerror or error}") from error
        try:
            return cls(data.decode("utf-8"), str(path))
        except UnicodeDecodeError as error:
            raise InputError(
                f"{path} is not UTF-8: byte {error.start + 1:,} is invalid; save it as UTF-8"
            ) from error

    @property
    def num_rows(self) -> int:
        """Number of rows below the column names."""
        return len(self._ends) - 1

    def table(self) -> "pd.DataFrame":
        """The cells as pandas reads them: columns of numbers and columns of words.

        Words stay as written, without the quotation marks around them.

        Raises:
            InputError: if pandas finds other cells, or other missing cells.
        """
        table = self._strings.copy()
        for column in self.names:
            table[column] = _as_numbers(table[column])
        return table

    def spellings(self, column: int) -> dict[Hashable, str]:
        """For each value of a column of :meth:`table`, its first spelling in the file.

        Numbers are given without the spaces around them.

        >>> CsvText("zip,a\\n02134,x\\n90210,\\n").spellings(0)
        {2134: '02134', 90210: '90210'}

        Arguments:
            column: number of the column.

        Raises:
            InputError: as :meth:`table` does.
        """
        import pandas as pd

        words = self._strings.iloc[:, column].dropna()
        values = _as_numbers(words)
        is_number = pd.api.types.is_numeric_dtype(values)
        spellings: dict[Hashable, str] = {}
        for value, word in zip(values.tolist(), words.tolist(), strict=True):
            spellings.setdefault(value, word.strip() if is_number else word)
        return spellings

    @cached_property
    def _strings(self) -> "pd.DataFrame":
        """All cells as strings, as pandas reads them.

        Raises:
            InputError: if pandas finds other cells, or other missing cells.
        """
        import pandas as pd

        text = io.StringIO(self._text[self._start :], newline="")
        try:
            table = pd.read_csv(text, dtype=str, index_col=False)
        except (ValueError, OSError) as error:  # pandas' own parser errors are ValueErrors
            raise InputError(
                f"{self._name} cannot be read as a table: {' '.join(str(error).split())}"
            ) from error
        if table.shape != (self.num_rows, len(self.names)):
            raise InputError(
                f"pandas reads {self._name} as {table.shape[0]:,} rows of {table.shape[1]} "
                f"columns, but pyrovae as {self.num_rows:,} of {len(self.names)}; simplify its "
                "quotation marks"
            )
        table.columns = pd.Index(self.names)
        indices = table.isna().to_numpy().nonzero()
        differing = set(zip(*(each.tolist() for each in indices), strict=True)) ^ set(self.missing)
        if differing:
            row, number = min(differing)
            raise InputError(
                f"{self._name}: it is unclear whether column {self.names[number]!r} is missing in "
                f"row {row + 1}; leave missing cells empty"
            )
        return table

    def with_cells(
        self,
        cells: Mapping[tuple[int, int], str],
        columns: Mapping[str, Sequence[str]] | None = None,
    ) -> str:
        """The text with missing cells filled and columns appended; the rest is unchanged.

        Arguments:
            cells: for (row, column number), the value to write.
            columns: for each name of a new column, the values of its rows.
        """
        edits = [(*self.missing[cell], quote_cell(word)) for cell, word in cells.items()]
        if columns:
            lines = [columns.keys(), *zip(*columns.values(), strict=True)]
            for end, words in zip(self._ends, lines, strict=True):
                edits.append((end, end, "".join(f",{quote_cell(word)}" for word in words)))
        # The last cell of a row comes before the cells that are appended to the row.
        edits.sort(key=lambda edit: edit[:2])
        parts: list[str] = []
        position = 0
        for start, stop, word in edits:
            parts += [self._text[position:start], word]
            position = stop
        return "".join([*parts, self._text[position:]])

    def _read_header(self) -> tuple[str, ...]:
        first = self._text[self._start :].split("\n", 1)[0]
        if not first.strip():
            raise InputError(f"{self._name} needs a first line that names its columns")
        other = [mark for mark in _OTHER_SEPARATORS if mark in first]
        if "," not in first and other:
            raise InputError(
                f"{self._name} separates columns by {other[0]!r}; separate them by commas"
            )
        names = [_unquote(raw).strip() for raw, _, _ in next(self._read_lines())]
        if all(_is_number(name) for name in names):
            raise InputError(
                f"the first line of {self._name} holds numbers; make it name the columns"
            )
        for name in names:
            if not name:
                raise InputError(
                    f"column {names.index(name) + 1} of {self._name} has no name; give it one"
                )
            if names.count(name) > 1:
                raise InputError(f"{self._name} has two columns {name!r}; rename one")
        return tuple(names)

    def _scan_rows(self) -> None:
        blank: int | None = None
        for row, cells in enumerate(self._read_lines(), -1):
            stop = cells[-1][2]
            if len(cells) == 1 and not cells[0][0].strip():
                blank = blank or self._line_number(stop)
                continue
            if blank is not None:
                raise InputError(
                    f"line {blank} of {self._name} is blank; remove it or fill in its cells"
                )
            if row >= 0 and len(cells) != len(self.names):
                raise InputError(
                    f"line {self._line_number(cells[0][1])} of {self._name} has {len(cells)} "
                    f"cells, but the first line names {len(self.names)} columns; give each row one "
                    "cell per column"
                )
            self._ends.append(stop)
            for column, (raw, start, end) in enumerate(cells if row >= 0 else ()):
                if _unquote(raw) in MISSING:
                    self.missing[row, column] = (start, end)

    def _read_lines(self) -> Iterator[list[tuple[str, int, int]]]:
        """The cells of each line, as written, with their positions."""
        text, position = self._text, self._start
        cells: list[tuple[str, int, int]] = []
        while position < len(text) or cells:
            match = _CELL.match(text, position)
            if match is None:
                raise InputError(
                    f"a quotation mark in line {self._line_number(position)} of {self._name} is "
                    "never closed; close it"
                )
            cells.append((match[1], *match.span(1)))
            position = match.end()
            if match[2] != ",":
                yield cells
                cells = []

    def _line_number(self, position: int) -> int:
        """The number, from 1, of the line that contains a position."""
        return 1 + len(re.findall(r"\r\n|\n|\r", self._text[:position]))


def quote_cell(word: str) -> str:
    """Write a word as a cell, in quotation marks if it needs them.

    >>> quote_cell('5", flat'), quote_cell("5 mm")
    ('"5"", flat"', '5 mm')
    """
    if re.search(r'[",\r\n]|^\s|\s$', word):
        return '"' + word.replace('"', '""') + '"'
    return word


def _as_numbers(words: "pd.Series[Any]") -> "pd.Series[Any]":
    """Convert to numbers if all words are numbers; to Python ints if a float would round them."""
    import pandas as pd

    known = words.dropna()
    try:
        if known.str.fullmatch(_WHOLE).all():
            whole = [int(word) for word in known]
            if any(abs(number) > _LARGEST_WHOLE for number in whole):
                return pd.Series(whole, known.index, dtype=object).reindex(words.index)
        return pd.to_numeric(words)
    except (ValueError, TypeError):
        return words


def _unquote(raw: str) -> str:
    """The content of a cell as written."""
    match = _QUOTED.match(raw)
    return raw if match is None else match[1].replace('""', '"') + raw[match.end() :]


def _is_number(word: str) -> bool:
    try:
        float(word)
    except ValueError:
        return False
    return True
