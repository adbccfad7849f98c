"""One command line in a folder of its own, and how it ended."""

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

OUTSIDE_FILES: FileTree = {"outside/kept.txt": b"of nobody's concern", "outside/empty": Folder()}
"""What lies beside the folder that a command works in, and is to stay as it is."""

_ADVICE = "learning rate (lr)"
"""In what is said where a loss, or what a model gives, is not finite."""

_SECONDS = 120
"""After which a command is said to hang."""


@dataclass(frozen=True)
class Case:
    """A command line, and what it finds.

    Attributes:
        arguments: as on the command line.
        tree: what lies in the folder that it works in.
        kind: of input that is tried.
        room: bytes that a file may have, as on a disk that fills up; None for no limit. A run that
            is refused for that has lost nothing where it goes on to its end once there is room.
    """

    arguments: tuple[str, ...]
    tree: FileTree = field(default_factory=dict, repr=False)
    kind: str = ""
    room: int | None = None


@dataclass(frozen=True)
class Outcome:
    """How it ended.

    Attributes:
        code: with which it ended; None where an exception went through.
        said: on standard error, in lines, with warnings but those of what was learned.
        trace: of the exception that went through.
        lost: the paths that are not as they were, though it was refused; and what is half written.
    """

    code: int | None
    said: tuple[str, ...]
    trace: str
    lost: tuple[str, ...]

    @property
    def is_refusal(self) -> bool:
        """One line on standard error, and exit code 2."""
        return self.code == 2 and len(self.said) == 1 and self.said[0].startswith("pyrovae: ")

    @property
    def is_divergence(self) -> bool:
        """One line that says that training diverged, and what to do; what was trained stays."""
        return self.code in (1, 2) and len(self.said) == 1 and _ADVICE in self.said[0]

    @property
    def is_good(self) -> bool:
        """Success, or a refusal, with nothing lost; or options with which a loss became NaN."""
        is_told = self.code == 0 or self.is_refusal or self.is_divergence
        return is_told and not self.lost


class _Hang(BaseException):
    pass


def run_case(attempt: Case) -> Outcome:
    """Run it in this process, whose folder and streams are put back afterwards."""
    with tempfile.TemporaryDirectory() as name:
        root = Path(name).resolve()
        (root / "work").mkdir()
        write_tree(OUTSIDE_FILES, root)
        write_tree(attempt.tree, root / "work")
        before = read_tree(root)
        with _room(attempt.room):
            code, said, trace = run_command(root / "work", attempt.arguments)
        after = read_tree(root)
        has_trained = code == 0 or any(_ADVICE in line for line in said)
        lost = _lost(before, after, has_trained)
        if attempt.room is not None and lost and code == 2:
            lost = tuple(name for name in lost if name.endswith(".partial"))
            again, _, trace = run_command(root / "work", ("train", "--resume", "run"))
            if again != 0:
                lost = (*lost, "work/run")
    return Outcome(code, said, trace, lost)


@contextlib.contextmanager
def _room(size: int | None) -> Iterator[None]:
    """Within, a file that becomes larger cannot be written, as on a full disk."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (soft if size is None else size, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


def run_command(
    folder: Path, arguments: tuple[str, ...]
) -> tuple[int | None, tuple[str, ...], str]:
    """The exit code, what was said, and the trace of an exception that went through."""
    out, err = (io.TextIOWrapper(io.BytesIO(), "utf-8", write_through=True) for _ in range(2))
    code: int | None = 0
    trace = ""
    with (
        contextlib.chdir(folder),
        contextlib.redirect_stdout(out),
        contextlib.redirect_stderr(err),
        warnings.catch_warnings(record=True) as warned,
        _no_hang(),
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
    others = (each for each in warned if not issubclass(each.category, SymptomWarning))
    said = [*(str(each.message) for each in others), *filter(None, lines)]
    return code, tuple(said), trace


@contextlib.contextmanager
def _no_hang() -> Iterator[None]:
    def stop(number: int, frame: FrameType | None) -> None:
        raise _Hang(f"after {_SECONDS} s it was still at work")

    before = signal.signal(signal.SIGALRM, stop)
    signal.alarm(_SECONDS)
    try:
        yield
    finally:
        signal.alarm(0)
        signal.signal(signal.SIGALRM, before)


def _lost(before: FileTree, after: FileTree, has_worked: bool) -> tuple[str, ...]:
    """What changed, but for folders that hold nothing, and what success may leave in the folder."""
    names = {*before, *after}
    changed = {name for name in names if before.get(name) != after.get(name)}
    changed = {name for name in changed if not _is_new_and_empty(name, before, after)}
    if has_worked:
        left = {name for name in changed & set(after) if name.endswith(".partial")}
        return tuple(sorted(left | {name for name in changed if _is_elsewhere(name)}))
    return tuple(sorted(changed))


def _is_elsewhere(name: str) -> bool:
    return not name.startswith("work/")


def _is_new_and_empty(name: str, before: Mapping[str, Any], after: Mapping[str, Any]) -> bool:
    return name not in before and isinstance(after.get(name), Folder)
