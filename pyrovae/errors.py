"""Errors that a user can put right, each one sentence long."""

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
    "short_repr",
]

_SHOWN = 200
"""Characters of what was given that a sentence repeats."""

_LISTED = 40
"""Known words that a sentence lists."""


_SHORT = Repr()
_SHORT.maxstring = _SHORT.maxother = _SHOWN
_SHORT.maxlong = 40
_SHORT.maxlist = _SHORT.maxdict = 8


class InputError(ValueError):
    """What was given cannot be used; the message says what was expected and what to do.

    The command line prints the message alone and ends with exit code 2.
    """


class Agreed(InputError):
    """The same error in all processes that work together; the first of them tells it."""


class Interrupted(KeyboardInterrupt):
    """Training was interrupted, and can go on; the message says from where.

    Arguments:
        message: one sentence.
        number: of the signal.
    """

    def __init__(self, message: str, number: int) -> None:
        super().__init__(message)
        self.number = number


class NotFinite(FloatingPointError):
    """A loss or a gradient was not finite.

    Arguments:
        message: one sentence.
        step: number of the first such step, from 1 on.
    """

    def __init__(self, message: str, step: int) -> None:
        super().__init__(message)
        self.step = step


class Separated(RuntimeError):
    """Another process, with which this one worked, has ended."""


def did_you_mean(given: str, known: Iterable[str]) -> str:
    """A clause naming the known word nearest to the given one, or all known words.

    >>> did_you_mean("Bernouli", ["Bernoulli", "Normal"])
    "did you mean 'Bernoulli'?"
    >>> did_you_mean("x", ["Bernoulli", "Normal"])
    'choose from Bernoulli, Normal'
    """
    known = list(known)
    given = given[:_SHOWN]
    lowered = {word.lower(): word for word in known}
    nearest = get_close_matches(given.lower(), lowered, n=1)
    if nearest:
        return f"did you mean '{lowered[nearest[0]]}'?"
    others = [*known[:_LISTED], "..."] if len(known) > _LISTED else known
    return f"choose from {', '.join(others)}"


def short_repr(given: Any) -> str:
    """What was given, as Python writes it, cut where it is long.

    >>> short_repr([0] * 1000)
    '[0, 0, 0, 0, 0, 0, 0, 0, ...]'
    >>> len(short_repr("x" * 1000)) < 250
    True
    """
    return _SHORT.repr(given)


def error_reason(error: Exception) -> str:
    """What the system says is wrong, without names and numbers.

    >>> error_reason(FileNotFoundError(2, "No such file or directory", "a"))
    'No such file or directory'
    """
    return (isinstance(error, OSError) and error.strerror) or " ".join(str(error).split())
