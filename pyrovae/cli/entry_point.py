"""``pyrovae``: the command line, from the words that were given to an exit code."""

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

from ..data.memory import is_too_large
from ..errors import InputError, Interrupted, Separated, error_reason
from ..runs.config import explain, from_yaml
from ..training.launch import is_first, num_processes
from .commands import DECLARED, app

__all__ = ["main"]

_SETTINGS = {**DECLARED, "method": "name"}
"""Options that take settings, and the setting that a word alone is."""

_OF_OUTPUT = (errno.ENOSPC, errno.EPIPE, errno.EIO, errno.EBADF)
"""What goes wrong as standard output is written to."""

_SMALLER = "lower the sizes of the model, the batch_size, or the number of samples"


def main(arguments: Sequence[str] | None = None) -> None:
    """Run the command line; a user's mistake ends in one line and exit code 2.

    Arguments:
        arguments: what follows the name of the program; ``sys.argv[1:]`` unless given.
    """
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")  # whatever the encoding cannot say
    words = list(sys.argv[1:] if arguments is None else arguments)
    with _warnings_in_a_line():
        _run(words)


def _run(words: list[str]) -> None:
    try:
        if num_processes() > 1 and words[:1] != ["train"]:
            raise InputError(
                f"{num_processes()} processes share the training of one model; give torchrun the "
                "command train, and other commands without it"
            )
        app(
            _joined(words),
            exit_on_error=False,
            print_error=False,
        )
        sys.stdout.flush()
    except CycloptsError as error:
        _fail(_one_line(error), 2)
    except InputError as error:
        _fail(str(error).partition("\n")[0], 2)  # to which Pyro may have added the shapes of sites
    except OSError as error:  # files of a run are written elsewhere, and name themselves
        if error.filename is None and error.errno not in _OF_OUTPUT:
            raise
        if error.filename is None:
            _close_output()
        _fail(f"{error.filename or 'standard output'}: {error_reason(error)}", 2)
    except Separated as error:
        _print_error(str(error))
        sys.exit(1)
    except (MemoryError, RuntimeError) as error:
        if not is_too_large(error):
            raise
        _print_error(f"this is too large for the memory of this machine: {_SMALLER}")
        sys.exit(2)
    except FloatingPointError as error:
        _fail(str(error), 1)
    except Interrupted as error:
        _fail(str(error), 128 + error.number)
    except KeyboardInterrupt:
        _fail("interrupted", 130)


@contextmanager
def _warnings_in_a_line() -> Iterator[None]:
    """Within, warnings are told as errors are, and once by processes that work together."""
    formatted = warnings.formatwarning
    with warnings.catch_warnings():
        if not is_first():
            warnings.simplefilter("ignore")
        warnings.formatwarning = lambda message, *_, **__: f"pyrovae: warning: {message}\n"
        try:
            yield
        finally:
            warnings.formatwarning = formatted


def _joined(arguments: Sequence[str]) -> list[str]:
    """Put ``--likelihood normal --likelihood.scale 1`` into one option, in YAML."""
    rest: list[str] = []
    settings: dict[str, dict[str, Any]] = {option: {} for option in _SETTINGS}
    words = iter(arguments)
    for word in words:
        name, equals, value = word.partition("=")
        option, _, setting = name.removeprefix("--").partition(".")
        if not name.startswith("--") or option not in _SETTINGS:
            rest.append(word)
            continue
        meant = from_yaml(value if equals else next(words, ""), name.removeprefix("--"))
        if setting:
            *outer, inner = setting.split(".")
            place = settings[option]
            for each in outer:
                place = place.setdefault(each, {})
                if not isinstance(place, dict):
                    raise InputError(f"{name} is a setting of {each}, which is {place!r} already")
            place[inner] = meant
        elif isinstance(meant, dict):
            settings[option].update(meant)
        else:
            settings[option][_SETTINGS[option]] = meant
    for option, given in settings.items():
        if set(given) == {_SETTINGS[option]}:
            rest += [f"--{option}", str(given[_SETTINGS[option]])]
        elif given:
            rest += [f"--{option}", json.dumps(given)]
    return rest


def _print_error(message: str) -> None:
    print(f"pyrovae: {''.join(map(_printable, message))}", file=sys.stderr)


def _fail(message: str, code: int) -> NoReturn:
    """End with a sentence, which of processes that all end so the first tells."""
    if is_first():
        _print_error(message)
    sys.exit(code)


def _printable(letter: str) -> str:
    """The letter, or its escape where a terminal would obey it."""
    return letter if letter.isprintable() else letter.encode("unicode_escape").decode()


def _close_output() -> None:
    """Let nothing that is left be written, which would fail again as the program ends."""
    with contextlib.suppress(OSError, ValueError):
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


def _one_line(error: CycloptsError) -> str:
    if isinstance(error, CycloptsValidationError) and isinstance(error.__cause__, ValidationError):
        return explain(error.__cause__)
    return " ".join(str(error).split())
