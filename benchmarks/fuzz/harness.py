"""The fuzzing harness: run one command line in a temporary folder, and report how it ended."""

import contextlib
import io
import resource
import signal
import tempfile
import traceback
import warnings
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from types import FrameType
from typing import Any

import torch

from pyrovae.cli import main
from pyrovae.training.symptoms import SymptomWarning

from .file_trees import FileTree, Folder, read_tree, write_tree

__all__ = ["OUTSIDE_FILES", "Case", "Outcome", "run_case", "run_command"]

OUTSIDE_FILES: FileTree = {"outside/kept.txt": b"do not change", "outside/empty": Folder()}
"""Files next to the working folder of a command. The command must not change them."""

_DIVERGENCE_ADVICE = "learning rate (lr)"
"""Part of the error message for a loss, or an output of a model, that is not finite."""

_TIMEOUT = 120
"""Seconds after which a command counts as hanging."""


@dataclass(frozen=True)
class Case:
    """One input: a command line, and the files that it finds.

    Attributes:
        arguments: the command line, without the name of the program.
        tree: contents of the working folder.
        kind: kind of input that the case belongs to.
        size_limit: largest size of a file in bytes, which simulates a full disk; None for no limit.
            A run that stops for this reason has lost nothing if it can be resumed, and completes,
            once there is room.
    """

    arguments: tuple[str, ...]
    tree: FileTree = field(default_factory=dict, repr=False)
    kind: str = ""
    size_limit: int | None = None


@dataclass(frozen=True)
class Outcome:
    """How a command ended.

    Attributes:
        code: exit code; None if an exception was not caught.
        stderr: lines on standard error, after the warnings (except ``SymptomWarning``, which is
            about the trained model).
        traceback: of the exception that was not caught.
        lost: paths that changed although the command failed, and partially written files.
    """

    code: int | None
    stderr: tuple[str, ...]
    traceback: str
    lost: tuple[str, ...]

    @property
    def is_refusal(self) -> bool:
        """Whether the command ended with one line on standard error and exit code 2."""
        return self.code == 2 and len(self.stderr) == 1 and self.stderr[0].startswith("pyrovae: ")

    @property
    def is_divergence(self) -> bool:
        """Whether one line says that training diverged, and what to do. Trained states are kept."""
        return (
            self.code in (1, 2) and len(self.stderr) == 1 and _DIVERGENCE_ADVICE in self.stderr[0]
        )

    @property
    def is_good(self) -> bool:
        """Whether the command succeeded, refused the input or diverged, and nothing was lost."""
        return (self.code == 0 or self.is_refusal or self.is_divergence) and not self.lost


class _TimeoutError(BaseException):
    """Not an ``Exception``, so that the command cannot handle it."""


def run_case(case: Case) -> Outcome:
    """Run a case in this process. The working folder and the streams are restored afterwards."""
    with tempfile.TemporaryDirectory() as name:
        root = Path(name).resolve()
        (root / "work").mkdir()
        write_tree(OUTSIDE_FILES, root)
        write_tree(case.tree, root / "work")
        before = read_tree(root)
        with _limit_file_size(case.size_limit):
            code, stderr, trace = run_command(root / "work", case.arguments)
        after = read_tree(root)
        has_trained = code == 0 or any(_DIVERGENCE_ADVICE in line for line in stderr)
        lost = _find_lost(before, after, has_trained)
        if case.size_limit is not None and lost and code == 2:
            lost = tuple(name for name in lost if name.endswith(".partial"))
            resumed, _, trace = run_command(root / "work", ("train", "--resume", "run"))
            if resumed != 0:
                lost = (*lost, "work/run")
    return Outcome(code, stderr, trace, lost)


@contextlib.contextmanager
def _limit_file_size(size: int | None) -> Iterator[None]:
    """Make writing beyond this file size fail, as on a full disk."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (soft if size is None else size, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


def run_command(
    folder: Path, arguments: tuple[str, ...]
) -> tuple[int | None, tuple[str, ...], str]:
    """Return the exit code, the lines on standard error, and the traceback (see ``Outcome``)."""
    out, err = (io.TextIOWrapper(io.BytesIO(), "utf-8", write_through=True) for _ in range(2))
    code: int | None = 0
    trace = ""
    with (
        contextlib.chdir(folder),
        contextlib.redirect_stdout(out),
        contextlib.redirect_stderr(err),
        warnings.catch_warnings(record=True) as caught,
        _time_limit(),
        torch.random.fork_rng(),
    ):
        warnings.simplefilter("default")
        warnings.simplefilter("ignore", DeprecationWarning)
        try:
            main(arguments)
        except SystemExit as stop:
            code = stop.code if isinstance(stop.code, int) else 1
        except BaseException:
            code, trace = None, traceback.format_exc()
    buffer: Any = err.buffer
    lines = buffer.getvalue().decode("utf-8", "replace").split("\n")
    shown = (each for each in caught if not issubclass(each.category, SymptomWarning))
    stderr = [*(str(each.message) for each in shown), *filter(None, lines)]
    return code, tuple(stderr), trace


@contextlib.contextmanager
def _time_limit() -> Iterator[None]:
    def stop(number: int, frame: FrameType | None) -> None:
        raise _TimeoutError(f"the command was still running after {_TIMEOUT} s")

    before = signal.signal(signal.SIGALRM, stop)
    signal.alarm(_TIMEOUT)
    try:
        yield
    finally:
        signal.alarm(0)
        signal.signal(signal.SIGALRM, before)


def _find_lost(before: FileTree, after: FileTree, has_trained: bool) -> tuple[str, ...]:
    """Return the paths that changed and should not have.

    New empty folders are allowed. A command that has trained may change its working folder, but
    must not leave partially written files there.
    """
    names = {*before, *after}
    changed = {name for name in names if before.get(name) != after.get(name)}
    changed = {name for name in changed if not _is_new_empty_folder(name, before, after)}
    if has_trained:
        partial = {name for name in changed & set(after) if name.endswith(".partial")}
        outside = {name for name in changed if not name.startswith("work/")}
        return tuple(sorted(partial | outside))
    return tuple(sorted(changed))


def _is_new_empty_folder(name: str, before: Mapping[str, Any], after: Mapping[str, Any]) -> bool:
    return name not in before and isinstance(after.get(name), Folder)
