"""Which tests run each line of the package, and how long each test takes."""

import hashlib
import json
import sys
from collections import defaultdict
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from types import CodeType, FrameType
from typing import Any

import pytest

from .mutants import Mutant

__all__ = ["LineMap", "LineTracer", "Trace", "Traced", "rank_of"]


Lines = dict[str, int]
"""For each file of the package, lines of it, as the bits of a number."""

Traced = dict[str, tuple[float, Lines]]
"""The seconds and lines of each test that passes."""


@dataclass(frozen=True)
class Trace:
    """What a test that passes runs.

    Attributes:
        seconds: how long it takes.
        lines: what it runs.
    """

    seconds: float
    lines: Lines

    def runs(self, mutant: Mutant) -> bool:
        """Whether the test runs the statement of a mutant."""
        return bool(self.lines.get(mutant.path, 0) & _bits_of(mutant))


class LineTracer:
    """A plugin of pytest that records the lines that each test runs.

    The lines that a test runs before it starts count for all tests of its file, since they share
    fixtures. Lines that a cached function ran for an earlier test are missing.

    Attributes:
        result: what is recorded, once the tests have run.
    """

    def __init__(self, root: Path) -> None:
        self.result: Traced = {}
        self._prefix = f"{root / 'pyrovae'}/"
        self._root = f"{root}/"
        self._paths: dict[CodeType, str | None] = {}
        self._lines: Lines = {}
        self._of_set_up: dict[str, Lines] = defaultdict(lambda: defaultdict(int))
        self._of_call: dict[str, Lines] = defaultdict(lambda: defaultdict(int))
        self._seconds: dict[str, float] = defaultdict(float)
        self._failed: set[str] = set()

    @pytest.hookimpl(wrapper=True)
    def pytest_runtest_setup(self, item: pytest.Item) -> Any:
        """Record what runs before a test."""
        self._lines = self._of_set_up[_file_of(item.nodeid)]
        sys.settrace(self._enter)
        return (yield)

    @pytest.hookimpl(wrapper=True)
    def pytest_runtest_call(self, item: pytest.Item) -> Any:
        """Record what runs in a test."""
        self._lines = self._of_call[item.nodeid]
        sys.settrace(self._enter)
        return (yield)

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        """Record how long a test takes, and whether it passes."""
        self._seconds[report.nodeid] += report.duration
        if not report.passed:
            self._failed.add(report.nodeid)

    def pytest_sessionfinish(self) -> None:
        """Stop to record, and sum up."""
        sys.settrace(None)
        for test, lines in self._of_call.items():
            if test in self._failed:
                continue
            total = dict(lines)
            for path, bits in self._of_set_up[_file_of(test)].items():
                total[path] = total.get(path, 0) | bits
            self.result[test] = round(self._seconds[test], 3), total

    def _enter(self, frame: FrameType, event: str, argument: Any) -> Any:
        code = frame.f_code
        if code not in self._paths:
            is_ours = code.co_filename.startswith(self._prefix)
            self._paths[code] = code.co_filename.removeprefix(self._root) if is_ours else None
        path = self._paths[code]
        if path is None:
            return None

        def see(frame: FrameType, event: str, argument: Any) -> Any:
            self._lines[path] |= 1 << frame.f_lineno
            return see

        return see(frame, event, argument)


class LineMap:
    """The traces of all tests, kept in a file from one call of the command to the next.

    A test file is traced again if it, or the package, has changed.

    Arguments:
        path: the file.
        root: root of the checkout.
    """

    def __init__(self, path: Path, root: Path) -> None:
        self._path, self._root = path, root
        self._package = _digest(sorted((root / "pyrovae").rglob("*.py")))
        kept = json.loads(path.read_text()) if path.exists() else {}
        if kept.get("package") != self._package:
            kept = {"files": {}}
        self._files: dict[str, dict[str, Any]] = kept["files"]
        self.traces: dict[str, Trace] = {}
        for test in (test for each in self._files.values() for test in each["tests"].items()):
            name, (seconds, lines) = test
            self.traces[name] = Trace(seconds, {p: int(bits, 16) for p, bits in lines.items()})

    def stale_files(self, slow: bool) -> list[str]:
        """Test files, and files with doctests, without traces of their present contents."""
        tests = (self._root / "tests").rglob("test_*.py")
        doctests = (
            path for path in (self._root / "pyrovae").rglob("*.py") if ">>>" in path.read_text()
        )
        stale = []
        for path in sorted((*tests, *doctests)):
            name = path.relative_to(self._root).as_posix()
            kept = self._files.get(name, {})
            if kept.get("digest") != _digest([path]) or slow > kept["slow"]:
                stale.append(name)
        return stale

    def add(self, files: Iterable[str], traced: Traced, slow: bool) -> None:
        """Take in the traces of some test files, and write all to the file."""
        for file in files:
            self.traces = {t: each for t, each in self.traces.items() if _file_of(t) != file}
            tests = {t: Trace(*each) for t, each in traced.items() if _file_of(t) == file}
            self.traces |= tests
            self._files[file] = {
                "digest": _digest([self._root / file]),
                "slow": slow,
                "tests": {
                    test: (trace.seconds, {p: f"{bits:x}" for p, bits in trace.lines.items()})
                    for test, trace in tests.items()
                },
            }
        self._path.write_text(json.dumps({"package": self._package, "files": self._files}))

    def tests_of(self, mutant: Mutant) -> tuple[list[str], list[str]]:
        """The tests that run a mutant, and the others of its file.

        Those that should catch it come first, and of these the quick ones. If a statement runs on
        import, or only in other processes, no test runs it.
        """
        chosen: tuple[list[str], list[str]] = [], []
        for test, trace in self.traces.items():
            if mutant.path in trace.lines:
                chosen[not trace.runs(mutant)].append(test)
        for tests in chosen:
            tests.sort(key=lambda t: (rank_of(t, mutant.path), self.traces[t].seconds, t))
        return chosen


def rank_of(test: str, path: str) -> int:
    """0 for a test that mirrors a file of the package; 1, 2 and 3 for tests further away."""
    mirrored = Path("tests", *Path(path).parts[1:])
    file = Path(_file_of(test))
    if file in (Path(path), mirrored.with_name(f"test_{mirrored.name}")):
        return 0
    if mirrored.parent in file.parents:
        return 1
    return 2 if file.parts[1] == mirrored.parts[1] else 3


def _file_of(test: str) -> str:
    return test.partition("::")[0]


def _bits_of(mutant: Mutant) -> int:
    """The lines from the start of a mutant's statement to its end, as bits."""
    return (1 << mutant.last_line + 1) - (1 << mutant.statement)


def _digest(paths: Iterable[Path]) -> str:
    digest = hashlib.sha256()
    for path in paths:
        digest.update(path.name.encode() + b"\0" + path.read_bytes() + b"\0")
    return digest.hexdigest()
