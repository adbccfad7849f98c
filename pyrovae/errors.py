"""Exceptions with one-sentence messages, and helpers to word them."""

import re
from collections.abc import Iterable
from difflib import get_close_matches
from reprlib import Repr
from typing import Any

__all__ = [
    "Agreed",
    "InputError",
    "Interrupted",
    "NotFinite",
    "Separated",
    "did_you_mean",
    "error_reason",
    "printable",
    "short_repr",
]

_MAX_CHARACTERS = 200
"""A message quotes at most this many characters of a value."""

_MAX_WORDS = 40
"""A message lists at most this many known words."""


_PYRO_SHAPES = re.compile(r"\s*\n *Trace Shapes:")
"""How Pyro's table of shapes begins."""

_SHORT_REPR = Repr()
_SHORT_REPR.maxstring = _SHORT_REPR.maxother = _MAX_CHARACTERS
_SHORT_REPR.maxlong = 40
_SHORT_REPR.maxlist = _SHORT_REPR.maxdict = 8


class InputError(ValueError):
    """An input cannot be used; the message says what was expected and what to do.

    The command line prints only the message and ends with exit code 2.

    Pyro makes errors anew that pass through one of its traces, and appends a table of the shapes of
    all sites. The message leaves this table out.
    """

    def __init__(self, *args: object) -> None:
        if args and isinstance(args[0], str):
            args = (_PYRO_SHAPES.split(args[0])[0], *args[1:])
        super().__init__(*args)


class Agreed(InputError):
    """All cooperating processes raise this same error; the first of them reports it."""


class Interrupted(KeyboardInterrupt):
    """Training was interrupted and can be resumed; the message says from where.

    Arguments:
        message: one sentence.
        number: number of the signal.
    """

    def __init__(self, message: str, number: int) -> None:
        super().__init__(message)
        self.number = number


class NotFinite(FloatingPointError):
    """A loss or a gradient was not finite.

    Arguments:
        message: one sentence.
        step: number of the first such step, counted from 1.
    """

    def __init__(self, message: str, step: int) -> None:
        super().__init__(message)
        self.step = step


class Separated(RuntimeError):
    """Another process that this one was working with has ended."""


def did_you_mean(given: str, known: Iterable[str]) -> str:
    """Suggest the known word nearest to the given one, or list the known words.

    >>> did_you_mean("Bernouli", ["Bernoulli", "Normal"])
    "did you mean 'Bernoulli'?"
    >>> did_you_mean("x", ["Bernoulli", "Normal"])
    'choose from Bernoulli, Normal'
    """
    known = list(known)
    given = given[:_MAX_CHARACTERS]
    lowered = {word.lower(): word for word in known}
    nearest = get_close_matches(given.lower(), lowered, n=1)
    if nearest:
        return f"did you mean '{lowered[nearest[0]]}'?"
    others = [*known[:_MAX_WORDS], "..."] if len(known) > _MAX_WORDS else known
    return f"choose from {', '.join(others)}"


def short_repr(given: Any) -> str:
    """The ``repr`` of a value, shortened if it is long.

    >>> short_repr([0] * 1000)
    '[0, 0, 0, 0, 0, 0, 0, 0, ...]'
    >>> len(short_repr("x" * 1000)) < 250
    True
    """
    return _SHORT_REPR.repr(given)


def printable(text: str) -> str:
    """The text with escapes for control characters, which a terminal would obey; lines stay.

    >>> printable("a\x1b[2Jb\u202e")
    'a\\\\x1b[2Jb\\\\u202e'
    """
    return "".join(map(_escape, text))


def _escape(letter: str) -> str:
    if letter.isprintable() or letter == "\n":
        return letter
    return letter.encode("unicode_escape").decode()


def error_reason(error: Exception) -> str:
    """The reason that an error gives; for an ``OSError`` without file name and error number.

    >>> error_reason(FileNotFoundError(2, "No such file or directory", "a"))
    'No such file or directory'
    """
    return (isinstance(error, OSError) and error.strerror) or " ".join(str(error).split())
