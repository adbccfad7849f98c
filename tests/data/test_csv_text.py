"""CSV files as text: only edited cells change, and pandas reads the same cells."""

import io
import os
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from pandas._libs.parsers import STR_NA_VALUES

from pyrovae import InputError
from pyrovae.data.csv_text import MISSING, CsvText, quote_cell

NASTY = {
    "plain": "a,b\n1,2\n,4\n",
    "no last line end": "a,b\n1,2\n,4",
    "ends in a missing cell": "a,b\n1,2\n4,",
    "windows": "a,b\r\n1,\r\n3,4\r\n",
    "old mac": "a,b\r1,\r3,4\r",
    "mixed line ends": "a,b\r\n1,\n3,4\r5,6",
    "byte order mark": "\ufeffa,b\n1,NA\n3,4\n",
    "quoted first name": '\ufeff"a, x",b\n1,nan\n3,4\n',
    "quotes": 'a,b\n"1",""\n"x ""y"", z",4\n',
    "line ends in cells": 'a,b\n"two\nlines",\n"a\r\nb",4\n',
    "quotes within": 'a,b\n5" pipe,\n"q"r,4\n',
    "spaces": "a , b\n 1 ,\t\n 2,NA\n",
    "words for missing": "a,b\nNULL,n/a\nnone,<NA>\n#N/A,-nan\n",
    "quoted words for missing": 'a,b\n"NA",x\n"",y\n',
    "numbers as written": "a,b\n1.50,\n+2e3,007\n.5,-0\n",
    "one column": "a\n1\nNA\n3\n",
    "blank lines at the end": "a,b\n1,\n3,4\n\n  \n\n",
    "letters": "größe,名\n1,ä\n,\u2028\n",
    "no rows": "a,b\n",
    "nothing missing": "a,b\n1,2\n",
}


def missing_mask(csv: CsvText) -> np.ndarray:
    mask = np.zeros((csv.num_rows, len(csv.names)), dtype=bool)
    for cell in csv.missing:
        mask[cell] = True
    return mask


@pytest.mark.parametrize("text", NASTY.values(), ids=NASTY)
def test_pandas_reads_the_same_cells(text: str, tmp_path: Path) -> None:
    path = tmp_path / "table.csv"
    path.write_bytes(text.encode())
    csv = CsvText.read(path)
    direct = pd.read_csv(path, index_col=False)
    assert direct.shape == (csv.num_rows, len(csv.names))
    np.testing.assert_array_equal(direct.isna().to_numpy(), missing_mask(csv))
    table = csv.table()
    np.testing.assert_array_equal(table.isna().to_numpy(), missing_mask(csv))
    assert tuple(table.columns) == csv.names


@pytest.mark.parametrize("text", NASTY.values(), ids=NASTY)
def test_removing_all_edits_restores_the_text(text: str) -> None:
    csv = CsvText(text)
    assert csv.with_cells({}) == text
    marks = {cell: f"<<{i}>>" for i, cell in enumerate(csv.missing)}
    columns = {"x_low": [f"«{i}" for i in range(csv.num_rows)], "x_high": ["»"] * csv.num_rows}
    changed = csv.with_cells(marks, columns)
    direct = pd.read_csv(io.StringIO(changed.removeprefix("\ufeff"), newline=""), index_col=False)
    assert direct.shape == (csv.num_rows, len(csv.names) + 2)
    assert direct["x_low"].tolist() == columns["x_low"]
    assert direct["x_high"].tolist() == columns["x_high"]
    for (row, column), mark in marks.items():
        assert direct.iloc[row, column] == mark
    for mark, (start, stop) in zip(marks.values(), csv.missing.values(), strict=True):
        assert changed.count(mark) == 1
        changed = changed.replace(mark, text[start:stop])
    for i in range(csv.num_rows):
        changed = changed.replace(f",«{i},»", "", 1)
    assert changed.replace(",x_low,x_high", "", 1) == text


def test_words_are_quoted_only_if_needed() -> None:
    words = ["plain", "5 mm", "a,b", 'say "x"', "two\nlines", "\r", " led", "trailed ", '"', "ä"]
    csv = CsvText("a,b\n" + "1,\n" * len(words))
    filled = csv.with_cells({(i, 1): word for i, word in enumerate(words)}, {"n, 1": words})
    read = pd.read_csv(io.StringIO(filled, newline=""), keep_default_na=False)
    assert read["b"].tolist() == words
    assert read["n, 1"].tolist() == words
    assert [quote_cell(word) for word in words[:2]] == words[:2]


def test_words_stay_as_written_and_numbers_are_converted() -> None:
    table = CsvText('a,b,c,d\n1,TRUE,007,"x"\n,false,,y\n2.5,TRUE,8,NA\n').table()
    assert table["a"].dtype == float
    assert table["c"].dtype == float
    assert table["b"].tolist() == ["TRUE", "false", "TRUE"]
    assert table["d"].tolist()[:2] == ["x", "y"]


def test_large_whole_numbers_are_not_rounded_to_floats() -> None:
    table = CsvText("a,b\n9007199254740993,1e30\n,2\n10000000000000000000,3\n").table()
    assert table["a"].dropna().tolist() == [2**53 + 1, 10**19]
    assert table["a"].isna().tolist() == [False, True, False]
    assert table["b"].dtype == float


def test_words_for_missing_agree_with_pandas() -> None:
    assert MISSING == STR_NA_VALUES


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (b"", "needs a first line"),
        (b"\n\n", "needs a first line"),
        (b"a;b\n1;2\n", "separates columns by ';'"),
        (b"a\tb\n1\t2\n", "separates columns by '\\t'"),
        (b"a,b\n1,2\n3\n", "line 3 of table.csv has 1 cells, but the first line names 2"),
        (b"a,b\n1,2\n3,4,5\n", "line 3 of table.csv has 3 cells"),
        (b'a,b\n"x\ny",2\n3,4,5\n', "line 4 of table.csv has 3 cells"),
        (b"a,b\n1,2\n\n3,4\n", "line 3 of table.csv is blank"),
        (b"a,b\n1,2\n  \n3,4\n", "line 3 of table.csv is blank"),
        (b"a\n1\n\n3\n", "line 3 of table.csv is blank"),
        (b"a,b,a\n1,2,3\n", "two columns 'a'"),
        (b"a,\n1,2\n", "column 2 of table.csv has no name"),
        (b"1,2\n3,4\n", "the first line of table.csv holds numbers"),
        ("größe,b\n1,2\n".encode("latin-1"), "table.csv is not UTF-8"),
        (b'a,b\n1,"2\n3,4\n', "quotation mark in line 2 of table.csv is never closed"),
        (b'a,b\n1,"2""\n', "quotation mark in line 2 of table.csv is never closed"),
    ],
)
def test_files_in_another_format_are_refused(
    data: bytes, message: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("table.csv").write_bytes(data)
    with pytest.raises(InputError) as caught:
        CsvText.read(Path("table.csv"))
    assert message in str(caught.value)
    assert "\n" not in str(caught.value)


def test_paths_that_are_not_readable_files_are_refused(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="there is no file"):
        CsvText.read(tmp_path / "none.csv")
    with pytest.raises(InputError, match="is not a regular file"):
        CsvText.read(tmp_path)
    with pytest.raises(InputError, match="name too long"):
        CsvText.read(tmp_path / ("n" * 300))
    os.mkfifo(tmp_path / "pipe")
    with pytest.raises(InputError, match="is not a regular file"):
        CsvText.read(tmp_path / "pipe")


def test_spellings_are_the_first_in_the_file() -> None:
    csv = CsvText('zip,big,who\n02134,1234567, x\n2134,7654321,"y, z"\n 90210 ,,\n')
    assert csv.spellings(0) == {2134: "02134", 90210: "90210"}
    assert csv.spellings(1) == {1234567.0: "1234567", 7654321.0: "7654321"}
    assert csv.spellings(2) == {" x": " x", "y, z": "y, z"}
