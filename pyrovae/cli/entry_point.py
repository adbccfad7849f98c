"""Run the command line: parse the arguments, run a command, and turn errors into exit codes."""

import contextlib
import errno
import io
import json
import os
import sys
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any, NoReturn

from cyclopts import CycloptsError
from cyclopts import ValidationError as CycloptsValidationError
from pydantic import ValidationError

from ..errors import InputError, Interrupted, Separated, error_reason, printable
from ..runs.config import explain, from_yaml
from ..training.launch import is_first, num_processes
from . import asking, listings, restoring  # noqa: F401 - they add their commands
from .commands import DECLARED, app

__all__ = ["main"]

_SETTINGS = {**DECLARED, "method": "name"}
"""Options that take settings, each with the setting that a single word stands for."""

_OUTPUT_ERRORS = (errno.ENOSPC, errno.EPIPE, errno.EIO, errno.EBADF)
"""Errors of writing to standard output."""

_BROKEN_PIPE = 128 + 13
"""Exit code of a program that SIGPIPE has ended."""

_ADVICE = "make the model smaller, or lower batch_size or the number of samples"


def main(arguments: Sequence[str] | None = None) -> None:
    """Run the command line. A user's mistake prints one line and exits with code 2.

    Arguments:
        arguments: the arguments after the program's name; ``sys.argv[1:]`` by default.
    """
    _open_closed_streams()
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")  # of letters that the encoding lacks
    words = list(sys.argv[1:] if arguments is None else arguments)
    with _one_line_warnings():
        _run(words)


def _run(words: list[str]) -> None:
    try:
        if num_processes() > 1 and words[:1] != ["train"]:
            raise InputError(
                f"torchrun started {num_processes()} processes, which only the command train can "
                "use; run other commands without torchrun"
            )
        app(
            _merge_settings(words),
            exit_on_error=False,
            print_error=False,
        )
        sys.stdout.flush()
    except CycloptsError as error:
        _fail(_join_lines(error), 2)
    except InputError as error:
        _fail(str(error).partition("\n")[0], 2)  # Pyro may have added the shapes of sites
    except BrokenPipeError:  # the reader has all that it wants, as head has
        _close_output()
        sys.exit(_BROKEN_PIPE)
    except OSError as error:  # errors of run files are InputErrors
        if error.filename is None and error.errno not in _OUTPUT_ERRORS:
            raise
        if error.filename is None:
            _close_output()
        _fail(f"{error.filename or 'standard output'}: {error_reason(error)}", 2)
    except Separated as error:
        _print_error(str(error))
        sys.exit(1)
    except (MemoryError, RuntimeError) as error:
        from ..data.memory import is_too_large  # not above: pyrovae.data imports torch

        if not is_too_large(error):
            raise
        _print_error(f"this is too large for the memory of this machine: {_ADVICE}")
        sys.exit(2)
    except FloatingPointError as error:
        _fail(str(error), 1)
    except Interrupted as error:
        _fail(str(error), 128 + error.number)
    except KeyboardInterrupt:
        _fail("interrupted", 130)


@contextmanager
def _one_line_warnings() -> Iterator[None]:
    """Print warnings as one line each, and only in the first of several processes."""
    original = warnings.formatwarning
    with warnings.catch_warnings():
        if not is_first():
            warnings.simplefilter("ignore")
        warnings.formatwarning = lambda message, *_, **__: (
            f"pyrovae: warning: {printable(str(message))}\n"
        )
        try:
            yield
        finally:
            warnings.formatwarning = original


def _merge_settings(arguments: Sequence[str]) -> list[str]:
    """Merge options such as ``--likelihood normal --likelihood.scale 1`` into one, in YAML."""
    if arguments[:1] == ["compare"]:  # whose options are lists of these
        return list(arguments)
    rest: list[str] = []
    settings: dict[str, dict[str, Any]] = {option: {} for option in _SETTINGS}
    words = iter(arguments)
    for word in words:
        name, equals, value = word.partition("=")
        option, _, setting = name.removeprefix("--").partition(".")
        if not name.startswith("--") or option not in _SETTINGS:
            rest.append(word)
            continue
        parsed = from_yaml(value if equals else next(words, ""), name.removeprefix("--"))
        if setting:
            *outer, inner = setting.split(".")
            target = settings[option]
            for each in outer:
                target = target.setdefault(each, {})
                if not isinstance(target, dict):
                    raise InputError(
                        f"{name} is a setting of {each}, but {each} is {target!r} already; give "
                        "one of the two"
                    )
            target[inner] = parsed
        elif isinstance(parsed, dict):
            settings[option].update(parsed)
        else:
            settings[option][_SETTINGS[option]] = parsed
    for option, given in settings.items():
        if set(given) == {_SETTINGS[option]}:
            rest += [f"--{option}", str(given[_SETTINGS[option]])]
        elif given:
            rest += [f"--{option}", json.dumps(given)]
    return rest


def _print_error(message: str) -> None:
    print(f"pyrovae: {printable(message)}", file=sys.stderr)


def _fail(message: str, code: int) -> NoReturn:
    """Exit with an error message. If all processes of a run end so, only the first prints it."""
    if is_first():
        _print_error(message)
    sys.exit(code)


def _open_closed_streams() -> None:
    """Send output to nowhere where the shell has closed it, as in ``>&-``.

    Otherwise the next file that is opened would take the place of the stream.
    """
    for number in range(3):
        try:
            os.fstat(number)
        except OSError:
            os.open(os.devnull, os.O_RDWR)  # gets the lowest number that is free
    for name in ("stdout", "stderr"):
        if getattr(sys, name) is None:
            number = 1 if name == "stdout" else 2
            setattr(sys, name, open(number, "w", closefd=False))  # noqa: SIM115


def _close_output() -> None:
    """Discard output that is left, because writing it at exit would fail again."""
    with contextlib.suppress(OSError, ValueError):
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


def _join_lines(error: CycloptsError) -> str:
    if isinstance(error, CycloptsValidationError) and isinstance(error.__cause__, ValidationError):
        return explain(error.__cause__)
    return " ".join(str(error).split())
