"""``pyrovae impute``: the files it writes, byte for byte, and its error messages."""

import csv
import io
import os
import re
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest

from pyrovae import InputError
from pyrovae.data.csv_text import CsvText
from pyrovae.tables.impute_file import _write

QUICK = ["--steps", "4", "--latent-dim", "2"]


def nasty(end: str) -> str:
    """A table with every way of writing a cell, and missing ones in each column that can be."""
    random = np.random.default_rng(0)
    z = random.normal(size=40)
    lines = ['﻿"who, exactly" ,height, visits,colour,smoker,always'.replace(", visits", ",visits")]
    for i, each in enumerate(z):
        cells = [
            f'"no {i}, ""the {i}th"""',
            f" {170 + 8 * each:.2f}" if i % 3 else f'"{170 + 8 * each:.1f}"',
            f"{random.poisson(np.exp(1 + 0.5 * each)):02d}",
            ['"light, green"', "red", 'dark "blue"'][int(np.clip(each + 1.5, 0, 2))],
            "TRUE" if each > 0 else "false",
            "1",
        ]
        for j, missing in enumerate(("", "NA", '""', "nan", "NULL", "n/a")):
            if (i + 3 * j) % 7 == 1:
                cells[j] = missing
        lines.append(",".join(cells))
    return end.join(lines) + (end if end == "\n" else "")


@pytest.mark.slow
@pytest.mark.parametrize("end", ["\n", "\r\n"], ids=["LF", "CRLF"])
def test_only_missing_cells_change(pyrovae: Any, tmp_path: Path, end: str) -> None:
    text = nasty(end)
    (tmp_path / "table.csv").write_bytes(text.encode())
    outcome = pyrovae("impute", "table.csv", "--output", "filled.csv", *QUICK)
    assert outcome.code == 0, outcome.err
    filled = (tmp_path / "filled.csv").read_bytes().decode()
    before, after = CsvText(text), CsvText(filled)
    added = [
        "height_low",
        "height_high",
        "visits_low",
        "visits_high",
        "colour_probability",
        "smoker_probability",
    ]
    assert after.names == (*before.names, *added)
    # What was added, taken away again, leaves the text as it was.
    rows = list(csv.reader(io.StringIO(filled.removeprefix("\ufeff"), newline="")))
    lines = filled.split(end)
    for i, row in enumerate(rows):
        lines[i] = lines[i].removesuffix("," + ",".join(row[len(before.names) :]))
    places = {place: CsvText(end.join(lines)) for place in before.missing}
    shortened = end.join(lines)
    for (row, column), (start, stop) in sorted(before.missing.items()):
        word = rows[row + 1][column]
        written = '"' + word.replace('"', '""') + '"' if re.search('[",]', word) else word
        assert shortened.startswith(written, start), (row, column)
        shortened = shortened[:start] + text[start:stop] + shortened[start + len(written) :]
    assert places
    assert shortened == text

    table = pd.read_csv(tmp_path / "filled.csv")
    old = pd.read_csv(tmp_path / "table.csv")
    assert table["always"].isna().equals(old["always"].isna())
    for name in ("height", "visits", "colour", "smoker"):
        assert table[name].notna().all()
        beside = [new for new in added if new.startswith(name)]
        for new in beside:
            assert table[new].notna().equals(old[name].isna())
    assert (table["visits"] == table["visits"].round()).all()
    at = old["visits"].isna()
    assert (table["visits_low"] <= table["visits"])[at].all()
    assert (table["visits"] <= table["visits_high"])[at].all()
    assert set(table["colour"]) == {"light, green", "red", 'dark "blue"'}
    for words in ("height", "left out: column 'always' is always 1", "cells in filled.csv"):
        assert words in outcome.out


@pytest.mark.slow
def test_imputations_are_separate_files(pyrovae: Any, tmp_path: Path) -> None:
    (tmp_path / "table.csv").write_text(nasty("\n"), encoding="utf-8")
    command = ("impute", "table.csv", "--output", "filled.csv", "--imputations", "2", *QUICK)
    assert pyrovae(*command).code == 0
    one, two = (pd.read_csv(tmp_path / f"filled-{i}.csv") for i in (1, 2))
    old = pd.read_csv(tmp_path / "table.csv")
    assert list(one) == list(two) == list(old)
    assert one["height"].notna().all()
    assert one["height"].mask(old["height"].isna()).equals(old["height"])
    assert not one["height"].equals(two["height"])
    refused = pyrovae(*command)
    assert (refused.code, refused.out) == (2, "")
    assert "filled.csv exists already" in refused.err
    first = (tmp_path / "filled.csv").read_bytes()
    assert pyrovae(*command, "--overwrite").code == 0
    assert (tmp_path / "filled.csv").read_bytes() == first


def two_values(num_rows: int = 24) -> str:
    """A table of columns with two values, the second and third those of whole numbers."""
    lines = ["x,zip,code"]
    for i, x in enumerate(np.random.default_rng(0).normal(size=num_rows)):
        zip_code, code = ("02134", "1234567") if x > 0 else ("90210", "7654321")
        cells = [f"{x:.3f}", zip_code, code]
        cells[i % 3] = "" if i % 4 == 0 else cells[i % 3]
        lines.append(",".join(cells))
    return "\n".join(lines) + "\n"


@pytest.mark.slow
def test_values_are_written_as_they_stand_in_the_file(pyrovae: Any, tmp_path: Path) -> None:
    (tmp_path / "table.csv").write_text(two_values())
    outcome = pyrovae("impute", "table.csv", "--output", "filled.csv", "--imputations", "1", *QUICK)
    assert outcome.code == 0, outcome.err
    for name in ("filled.csv", "filled-1.csv"):
        filled = pd.read_csv(tmp_path / name, dtype=str)
        assert set(filled["zip"]) == {"02134", "90210"}
        assert set(filled["code"]) == {"1234567", "7654321"}


def test_a_link_is_followed_and_only_plain_files_are_replaced(pyrovae: Any, tmp_path: Path) -> None:
    (tmp_path / "table.csv").write_text("a,b\n1.5,x\n2.5,y\n")
    (tmp_path / "real.csv").write_text("old")
    (tmp_path / "link.csv").symlink_to("real.csv")
    assert pyrovae("impute", "table.csv", "--output", "link.csv", "--overwrite").code == 0
    assert (tmp_path / "link.csv").is_symlink()
    assert (tmp_path / "real.csv").read_text() == (tmp_path / "table.csv").read_text()
    os.mkfifo(tmp_path / "pipe")
    outcome = pyrovae("impute", "table.csv", "--output", "pipe", "--overwrite")
    assert (outcome.code, outcome.err) == (
        2,
        "pyrovae: pipe is not a regular file; give another --output\n",
    )
    assert (tmp_path / "pipe").is_fifo()
    (tmp_path / "loop").symlink_to("loop")
    outcome = pyrovae("impute", "table.csv", "--output", "loop", "--overwrite")
    assert (outcome.code, outcome.err.count("\n")) == (2, 1)


def test_a_file_that_cannot_be_written_is_a_mistake(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="No such file"):
        _write(tmp_path / "nowhere" / "out.csv", "")


def test_a_table_without_missing_cells_is_copied(pyrovae: Any, tmp_path: Path) -> None:
    text = 'a,b\r\n1.50,"x"\r\n2,y'
    (tmp_path / "table.csv").write_bytes(text.encode())
    outcome = pyrovae("impute", "table.csv", "--output", "same.csv")
    assert outcome.code == 0, outcome.err
    assert (tmp_path / "same.csv").read_bytes() == text.encode()
    assert "filled 0 cells" in outcome.out


TABLE = "height,visits\n1.5,2\n,3\n2.5,\n3.25,1\n4.5,7\n"


@pytest.mark.parametrize(
    ("text", "arguments", "message"),
    [
        (TABLE, ["none.csv", "--output", "out.csv"], "there is no file none.csv"),
        (TABLE, ["table.csv", "--output", "table.csv"], "table.csv is the table itself"),
        (TABLE, ["table.csv", "--output", "./table.csv", "--overwrite"], "is the table itself"),
        (TABLE, ["table.csv", "--output", "nowhere/out.csv"], "cannot write to nowhere/out.csv"),
        (TABLE, ["table.csv", "--output", "."], "is a folder"),
        (TABLE, ["table.csv", "--output", "n" * 300], "cannot write to nnn"),
        (TABLE, ["n" * 300, "--output", "out.csv"], "cannot read nnn"),
        (TABLE, [".", "--output", "out.csv"], ". is not a regular file"),
        (TABLE, ["table.csv"], "requires an argument"),
        (TABLE, ["table.csv", "--output", "o.csv", "--level", "1.5"], "level is 1.5"),
        (TABLE, ["table.csv", "--output", "o.csv", "--level", "x"], "x"),
        (TABLE, ["table.csv", "--output", "o.csv", "--steps", "0"], "--steps is 0"),
        (TABLE, ["table.csv", "--output", "o.csv", "--imputations", "-1"], "--imputations is -1"),
        (TABLE, ["table.csv", "--output", "o.csv", "--imputations", "200"], "from 0 to 100"),
        (TABLE, ["table.csv", "--output", "o.csv", "--likelihood", "Nrmal"], "did you mean"),
        (TABLE, ["table.csv", "--output", "o.csv", "--likelihood", "Poisson"], "whole numbers"),
        (
            TABLE,
            ["table.csv", "--output", "o.csv", "--level", "0.9999"],
            "a level of 0.996 or less",
        ),
        ("a,a_low\n1.5,2\n,3\n2.5,4.5\n3.5,1\n", ["table.csv", "--output", "o.csv"], "'a_low'"),
        ("a;b\n1;2\n", ["table.csv", "--output", "o.csv"], "separates columns by ';'"),
        ("a,b\n1,2\n3\n", ["table.csv", "--output", "o.csv"], "line 3 of table.csv"),
        ("a,b\n,2\n,2\n", ["table.csv", "--output", "o.csv"], "no column can be used"),
    ],
)
def test_a_mistake_gets_one_line_and_exit_code_2(
    pyrovae: Any, tmp_path: Path, text: str, arguments: list[str], message: str
) -> None:
    (tmp_path / "table.csv").write_text(text)
    outcome = pyrovae("impute", *arguments)
    assert outcome.code == 2
    assert outcome.err.startswith("pyrovae: ")
    assert outcome.err.count("\n") == 1
    assert message in outcome.err
    assert [path.name for path in tmp_path.iterdir()] == ["table.csv"]
    assert (tmp_path / "table.csv").read_text() == text


def test_help_names_every_option(pyrovae: Any) -> None:
    shown = pyrovae("impute", "--help").out
    for name in ("output", "overwrite", "level", "likelihood", "latent-dim", "steps", "seed"):
        assert f"--{name}" in shown
