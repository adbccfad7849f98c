"""Errors that a user can put right, each one sentence long."""

from collections.abc import Iterable
from difflib import get_close_matches

__all__ = ["Agreed", "InputError", "Interrupted", "NotFinite", "Separated", "did_you_mean"]


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
    lowered = {word.lower(): word for word in known}
    nearest = get_close_matches(given.lower(), lowered, n=1)
    return (
        f"did you mean '{lowered[nearest[0]]}'?" if nearest else f"choose from {', '.join(known)}"
    )
