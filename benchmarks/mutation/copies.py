"""Run tests in a copy of the checkout, in a process of its own."""

import multiprocessing
import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

import pytest

from .mutants import Mutant
from .tracing import LineTracer, Traced

__all__ = ["Copy", "Outcome"]

_PROCESSES = multiprocessing.get_context("forkserver")
_LIBRARIES = (
    "beartype cyclopts hypothesis jaxtyping matplotlib.pyplot pandas pydantic pyro.infer.autoguide "
    "pytest rich.progress safetensors.torch scipy.stats sklearn.mixture torch torchvision zuko"
)
_PROCESSES.set_forkserver_preload(_LIBRARIES.split())

_GRACE = 5.0
"""Seconds for a process to end by itself after its tests, before it is killed."""

_ENDED_WELL = (pytest.ExitCode.OK, pytest.ExitCode.NO_TESTS_COLLECTED)


@dataclass(frozen=True)
class Outcome:
    """How the tests ended.

    Attributes:
        caught: whether a test failed, or the process crashed or took too long.
        by: the first test that failed, or what else happened.
    """

    caught: bool
    by: str = ""


class Copy:
    """A copy of the files of a checkout that git does not ignore.

    Arguments:
        root: the checkout.
        folder: where to put the copy; an empty folder.
    """

    def __init__(self, root: Path, folder: Path) -> None:
        self.root = folder / "checkout"
        self._temporary = folder / "temporary"
        self._num_changes = 0
        command = ["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard"]
        listed = subprocess.run(command, cwd=root, capture_output=True, check=True, text=True)
        for name in filter(None, listed.stdout.split("\0")):
            if (root / name).is_file():
                (self.root / name).parent.mkdir(parents=True, exist_ok=True)
                shutil.copy2(root / name, self.root / name)

    def trace(
        self, files: Sequence[str], slow: bool, on_test: Any = lambda done, total: None
    ) -> Traced:
        """Record which lines each test in some files runs.

        Arguments:
            files: the test files.
            slow: whether to run slow tests too.
            on_test: called with the number of tests that are done, and of all.
        """
        arguments = ["-q", *([] if slow else ["-m", "not slow"]), *files]
        with self._process(_trace_tests, self.root, arguments) as (_, connection):
            while True:
                try:
                    message = connection.recv()
                except EOFError:
                    raise RuntimeError("the process that runs all tests has crashed") from None
                if isinstance(message, dict):
                    return message
                on_test(*message)

    def try_mutant(self, mutant: Mutant, tests: Sequence[str], seconds: float) -> Outcome:
        """Make a change, run tests until one fails, and undo the change.

        Arguments:
            mutant: the change.
            tests: the tests, in this order.
            seconds: time limit; a mutant that exceeds it is caught.
        """
        path = self.root / mutant.path
        kept = path.with_suffix(".kept")
        shutil.copy2(path, kept)
        self._num_changes += 1
        try:
            path.write_bytes(mutant.apply(path.read_bytes()))
            # Python compiles a file again if its time, in seconds, or its size differs.
            changed = path.stat().st_mtime + 2 * self._num_changes
            os.utime(path, (changed, changed))
            with self._process(_run_tests, self.root, tests) as (process, connection):
                if not connection.poll(seconds):
                    return Outcome(True, f"no end within {seconds:.0f} s")
                try:
                    outcome = Outcome(*connection.recv())
                except EOFError:
                    process.join()
                    return Outcome(True, f"the process ended with exit code {process.exitcode}")
                process.join(_GRACE)
                return outcome
        finally:
            kept.replace(path)

    @contextmanager
    def _process(self, function: Any, *arguments: Any) -> Iterator[tuple[Any, Connection]]:
        """Run a function in a process, and kill it and its children in the end."""
        self._temporary.mkdir(parents=True, exist_ok=True)
        here, there = _PROCESSES.Pipe()
        target = (function, self._temporary, there, *arguments)
        process = _PROCESSES.Process(target=_run_in_session, args=target)
        process.start()
        there.close()
        try:
            yield process, here
        finally:
            if process.pid is not None:
                try:
                    os.killpg(process.pid, signal.SIGKILL)
                except (ProcessLookupError, PermissionError):
                    process.kill()
            process.join()
            here.close()
            shutil.rmtree(self._temporary, ignore_errors=True)


def _run_in_session(
    function: Any, temporary: Path, connection: Connection, root: Path, *arguments: Any
) -> None:
    """Run a function within a copy, silently, in a session whose processes can be killed."""
    os.setsid()
    os.chdir(root)
    sys.dont_write_bytecode = False
    null = os.open(os.devnull, os.O_RDWR)
    for descriptor in range(3):
        os.dup2(null, descriptor)
    for name in list(sys.modules):
        if name.partition(".")[0] in ("benchmarks", "pyrovae", "tests"):
            del sys.modules[name]
    sys.path.insert(0, str(root))
    os.environ |= {"PYTHONPATH": str(root), "TMPDIR": str(temporary), "OMP_NUM_THREADS": "1"}
    import torch

    torch.set_num_threads(1)
    function(connection, root, *arguments)


def _trace_tests(connection: Connection, root: Path, arguments: list[str]) -> None:
    class Count:
        done = total = 0

        def pytest_collection_finish(self, session: pytest.Session) -> None:
            self.total = len(session.items)

        def pytest_runtest_logfinish(self) -> None:
            self.done += 1
            connection.send((self.done, self.total))

    tracer = LineTracer(root)
    pytest.main([*_OPTIONS, *arguments], plugins=[tracer, Count()])
    connection.send(tracer.result)


def _run_tests(connection: Connection, root: Path, tests: Sequence[str]) -> None:
    chosen = _Chosen(tests)
    files = dict.fromkeys(test.partition("::")[0] for test in tests)
    code = pytest.main([*_OPTIONS, "-x", "-q", *files], plugins=[chosen])
    caught = code not in _ENDED_WELL
    connection.send((caught, (chosen.failed or f"pytest ended with {code}") if caught else ""))


_OPTIONS = ["-p", "no:cacheprovider", "--continue-on-collection-errors"]


class _Chosen:
    """A plugin of pytest that runs chosen tests in a given order."""

    def __init__(self, tests: Sequence[str]) -> None:
        self._order = {test: place for place, test in enumerate(tests)}
        self.failed = ""

    @pytest.hookimpl(trylast=True)
    def pytest_collection_modifyitems(self, items: list[pytest.Item]) -> None:
        found = [item for item in items if item.nodeid in self._order]
        items[:] = sorted(found, key=lambda item: self._order[item.nodeid])

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        if report.failed and not self.failed:
            self.failed = report.nodeid

    def pytest_collectreport(self, report: pytest.CollectReport) -> None:
        if report.failed and not self.failed:
            self.failed = f"{report.nodeid} (collection)"
