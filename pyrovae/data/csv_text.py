"""A CSV file as the text that it is, so that a copy differs in nothing but what was meant to."""

import io
import re
from collections.abc import Hashable, Iterator, Mapping, Sequence
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..errors import InputError

if TYPE_CHECKING:
    import pandas as pd

__all__ = ["MISSING", "CsvText", "quoted"]

_CELL = re.compile(
    r'("(?>[^"]*(?:""[^"]*)*)"[^,\r\n]*|[^",\r\n][^,\r\n]*|)(,|\r\n|\n|\r|\Z)', flags=re.DOTALL
)
"""A cell as it is written, and what ends it; a quotation mark within an open cell is a letter."""

_QUOTED = re.compile(r'"((?>[^"]*(?:""[^"]*)*))"', flags=re.DOTALL)

_WHOLE = r"\s*[+-]?[0-9]+\s*"

_LARGEST_WHOLE = 2**53
"""Beyond it, a float may be another number."""

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
"""What ``pandas.read_csv`` takes for missing, the empty cell included."""


class CsvText:
    """The text of a CSV file and the places of its missing cells.

    Cells are separated by commas; a cell in quotation marks may hold commas, line ends and doubled
    quotation marks. The first line names the columns. A cell is missing where pandas takes it for
    missing: where it is empty, or one of pandas' own words such as ``NA`` and ``nan``.

    Arguments:
        text: what the file holds.
        name: what to call it in messages.

    Attributes:
        names: of the columns.
        missing: for each row and number of a column whose cell is missing, where the cell stands.

    Raises:
        InputError: if the text is not of this kind, or pandas would read it otherwise.

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
        self.names = self._header()
        self._scan_rows()

    @classmethod
    def read(cls, path: Path) -> "CsvText":
        """The text of a file.

        Raises:
            InputError: if it cannot be read, or is not of this kind.
        """
        try:
            if not path.exists():
                raise InputError(f"there is no file {path}")
            if not path.is_file():
                raise InputError(f"{path} is no plain file; give the name of a CSV file")
            data = path.read_bytes()
        except OSError as error:
            raise InputError(f"cannot read {path}: {error.strerror or error}") from error
        try:
            return cls(data.decode("utf-8"), str(path))
        except UnicodeDecodeError as error:
            raise InputError(
                f"{path} is not UTF-8, as its byte {error.start + 1:,} shows; save it as UTF-8"
            ) from error

    @property
    def num_rows(self) -> int:
        """How many rows there are below the names."""
        return len(self._ends) - 1

    def table(self) -> "pd.DataFrame":
        """The cells as pandas reads them: columns of numbers, and columns of words.

        Words are as they are written, without quotation marks around them.

        Raises:
            InputError: if pandas sees other cells, or others missing.
        """
        table = self._words.copy()
        for column in self.names:
            table[column] = _as_numbers(table[column])
        return table

    def spellings(self, column: int) -> dict[Hashable, str]:
        """For each value of a column of :meth:`table`, how it first stands in the file.

        Spaces around numbers are left away.

        >>> CsvText("zip,a\\n02134,x\\n90210,\\n").spellings(0)
        {2134: '02134', 90210: '90210'}

        Arguments:
            column: its number.

        Raises:
            InputError: as :meth:`table` does.
        """
        import pandas as pd

        words = self._words.iloc[:, column].dropna()
        values = _as_numbers(words)
        is_number = pd.api.types.is_numeric_dtype(values)
        found: dict[Hashable, str] = {}
        for value, word in zip(values.tolist(), words.tolist(), strict=True):
            found.setdefault(value, word.strip() if is_number else word)
        return found

    @cached_property
    def _words(self) -> "pd.DataFrame":
        """The cells as pandas reads them, all as words.

        Raises:
            InputError: if pandas sees other cells, or others missing.
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
                f"{self._name} is read by pandas as {table.shape[0]:,} rows of {table.shape[1]} "
                f"columns, and here as {self.num_rows:,} of {len(self.names)}; write it plainly"
            )
        table.columns = pd.Index(self.names)
        places = table.isna().to_numpy().nonzero()
        differing = set(zip(*(each.tolist() for each in places), strict=True)) ^ set(self.missing)
        if differing:
            row, number = min(differing)
            raise InputError(
                f"{self._name}: whether column {self.names[number]!r} is missing in row {row + 1} "
                "cannot be told; leave missing cells empty"
            )
        return table

    def with_cells(
        self,
        cells: Mapping[tuple[int, int], str],
        columns: Mapping[str, Sequence[str]] | None = None,
    ) -> str:
        """The text with some missing cells filled and columns appended, all else as it was.

        Arguments:
            cells: for a row and the number of a column, what to write.
            columns: for each name, what to write in each row.
        """
        edits = [(*self.missing[place], quoted(word)) for place, word in cells.items()]
        if columns:
            lines = [columns.keys(), *zip(*columns.values(), strict=True)]
            for end, words in zip(self._ends, lines, strict=True):
                edits.append((end, end, "".join(f",{quoted(word)}" for word in words)))
        # A cell that ends its row stands before what is appended there.
        edits.sort(key=lambda edit: edit[:2])
        parts: list[str] = []
        done = 0
        for start, stop, word in edits:
            parts += [self._text[done:start], word]
            done = stop
        return "".join([*parts, self._text[done:]])

    def _header(self) -> tuple[str, ...]:
        first = self._text[self._start :].split("\n", 1)[0]
        if not first.strip():
            raise InputError(f"{self._name} has no first line that names its columns")
        other = [mark for mark in _OTHER_SEPARATORS if mark in first]
        if "," not in first and other:
            raise InputError(
                f"{self._name} is separated by {other[0]!r}; separate columns by commas"
            )
        names = [_unquoted(raw).strip() for raw, _, _ in next(self._lines())]
        if all(_is_number(name) for name in names):
            raise InputError(
                f"the first line of {self._name} holds numbers; it must name the columns"
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
        for row, cells in enumerate(self._lines(), -1):
            stop = cells[-1][2]
            if len(cells) == 1 and not cells[0][0].strip():
                blank = blank or self._line_of(stop)
                continue
            if blank is not None:
                raise InputError(
                    f"line {blank} of {self._name} is blank; remove it, or write its cells"
                )
            if row >= 0 and len(cells) != len(self.names):
                raise InputError(
                    f"line {self._line_of(cells[0][1])} of {self._name} has {len(cells)} cells, "
                    f"and the first line {len(self.names)} names; give each row as many"
                )
            self._ends.append(stop)
            for column, (raw, start, end) in enumerate(cells if row >= 0 else ()):
                if _unquoted(raw) in MISSING:
                    self.missing[row, column] = (start, end)

    def _lines(self) -> Iterator[list[tuple[str, int, int]]]:
        """The cells of each line, as they are written, with their places."""
        text, place = self._text, self._start
        cells: list[tuple[str, int, int]] = []
        while place < len(text) or cells:
            found = _CELL.match(text, place)
            if found is None:
                raise InputError(
                    f"a quotation mark in line {self._line_of(place)} of {self._name} is never "
                    "closed; close it"
                )
            cells.append((found[1], *found.span(1)))
            place = found.end()
            if found[2] != ",":
                yield cells
                cells = []

    def _line_of(self, place: int) -> int:
        """The number of the line in which a place is, from 1."""
        return 1 + len(re.findall(r"\r\n|\n|\r", self._text[:place]))


def quoted(word: str) -> str:
    """The word as a cell, in quotation marks where it needs them.

    >>> quoted('5", flat'), quoted("5 mm")
    ('"5"", flat"', '5 mm')
    """
    if re.search(r'[",\r\n]|^\s|\s$', word):
        return '"' + word.replace('"', '""') + '"'
    return word


def _as_numbers(words: "pd.Series[Any]") -> "pd.Series[Any]":
    """Numbers where all are; Python's own, where they are whole and a float would round them."""
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


def _unquoted(raw: str) -> str:
    """What a cell says."""
    found = _QUOTED.match(raw)
    return raw if found is None else found[1].replace('""', '"') + raw[found.end() :]


def _is_number(word: str) -> bool:
    try:
        float(word)
    except ValueError:
        return False
    return True
