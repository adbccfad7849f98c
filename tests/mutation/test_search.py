"""A search in a small checkout: which mutants are caught, and which survive."""

import json
import subprocess
from dataclasses import replace
from pathlib import Path

import pytest

from benchmarks.mutation.copies import Copy, Outcome
from benchmarks.mutation.mutants import mutants_in
from benchmarks.mutation.search import Record, draw, read, search

PACKAGE = """
def double(x: int) -> int:
    return x * 2


def halve(x: int) -> int:
    return x / 2


def unused(x: int) -> int:
    return x - 2


def wait(x: int) -> int:
    while x > 0:
        x -= 1
    return x
"""

TESTS = """
import pytest
from pyrovae.toy import double, halve, wait


def test_double():
    assert double(3) == 6


def test_halve_is_run_but_not_checked():
    halve(3)


@pytest.mark.slow
def test_halve():
    assert halve(3) == 1.5


def test_wait():
    assert wait(3) == 0


def test_that_fails():
    assert double(3) == 7
"""


@pytest.fixture
def root(tmp_path: Path) -> Path:
    root = tmp_path / "checkout"
    for name, text in {
        "pyrovae/__init__.py": "",
        "pyrovae/toy.py": PACKAGE,
        "tests/__init__.py": "",
        "tests/test_toy.py": TESTS,
        "pyproject.toml": "[tool.pytest.ini_options]\nmarkers = ['slow: slow']\n",
    }.items():
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_text(text)
    subprocess.run(["git", "init", "-q"], cwd=root, check=True)
    return root


def survivors(record: Record) -> set[str]:
    return {record.mutants[number].before for number in record.survivors}


@pytest.mark.slow
def test_mutants_that_no_test_checks_survive(root: Path, tmp_path: Path) -> None:
    output = tmp_path / "mutation.json"
    record = draw(root, ("toy.py",), 100, seed=0)
    record.mutants = [m for m in record.mutants if m.before in ("x * 2", "x / 2", "x - 2")]
    assert len(record.mutants) == 3
    search(root, record, output)
    assert survivors(record) == {"x / 2", "x - 2"}
    by_mutant = {record.mutants[n].before: r for n, r in record.results.items()}
    assert by_mutant["x * 2"].by == "tests/test_toy.py::test_double"
    assert [by_mutant[each].num_running for each in ("x * 2", "x / 2", "x - 2")] == [1, 1, 0]
    assert (root / "pyrovae" / "toy.py").read_text() == PACKAGE

    # Go on after an interruption, with slow tests, and after a change of another function.
    kept = json.loads(output.read_text())
    del kept["results"]["0"]
    output.write_text(json.dumps(kept))
    (root / "pyrovae" / "toy.py").write_text(PACKAGE.replace("return x - 2", "return 0"))
    again, gone = read(root, output)
    assert [mutant.before for mutant in gone] == ["x - 2"]
    for number in again.survivors:
        del again.results[number]
    search(root, again, output, slow=True)
    assert survivors(again) == set()
    assert len(again.results) == 2


@pytest.mark.slow
def test_hanging_and_crashing_mutants_are_caught(root: Path, tmp_path: Path) -> None:
    copy = Copy(root, tmp_path / "copy")
    source = (root / "pyrovae" / "toy.py").read_bytes()
    (loop,) = (m for m in mutants_in(source, "pyrovae/toy.py") if m.before == "x -= 1")
    tests = ["tests/test_toy.py::test_double", "tests/test_toy.py::test_wait"]
    assert copy.try_mutant(loop, tests, 10.0) == Outcome(True, "no end within 10 s")
    crash = replace(loop, after="__import__('os')._exit(7)")
    assert copy.try_mutant(crash, tests, 60.0).by == "the process ended with exit code 7"
    harmless = replace(loop, after="x = x - 1")
    assert copy.try_mutant(harmless, tests, 60.0) == Outcome(False)
    assert (copy.root / "pyrovae" / "toy.py").read_bytes() == source
