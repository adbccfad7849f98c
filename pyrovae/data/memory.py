"""Report data and models that do not fit into memory. This module does not import torch."""

import os
from collections.abc import Iterator
from contextlib import contextmanager

from ..errors import InputError

__all__ = ["check_fits_memory", "is_too_large", "memory_guard"]

_MEMORY_PHRASES = (
    "can't allocate memory",
    "out of memory",
    "Storage size calculation overflowed",
    "verflow when unpacking",
    "invalid size",
    "numel: integer multiplication overflow",
    "array is too big",
    "Maximum allowed dimension exceeded",
)
"""Phrases in the errors, of several types, that torch and NumPy raise for too large tensors."""


def is_too_large(error: BaseException) -> bool:
    """Whether an error means that there is not enough memory."""
    if isinstance(error, MemoryError | OverflowError):
        return True
    return isinstance(error, RuntimeError | TypeError | ValueError) and any(
        words in str(error) for words in _MEMORY_PHRASES
    )


@contextmanager
def memory_guard(what: str, advice: str) -> Iterator[None]:
    """A context that reports a lack of memory as an :class:`InputError`.

    Arguments:
        what: name of what is too large, for the message.
        advice: what to reduce, for the message.

    Raises:
        InputError: in place of any error that means that there is not enough memory.

    >>> with memory_guard("the list", "have fewer"):
    ...     [0] * 10**18
    Traceback (most recent call last):
    ...
    pyrovae.errors.InputError: the list is too large for the memory of this machine: have fewer
    """
    try:
        yield
    except InputError:
        raise
    except (MemoryError, ArithmeticError, RuntimeError, TypeError, ValueError) as error:
        if not is_too_large(error):
            raise
        raise InputError(f"{what} is too large for the memory of this machine: {advice}") from error


def check_fits_memory(num_bytes: int, what: str, advice: str) -> None:
    """Check that a size does not exceed the memory of the machine.

    Arguments:
        num_bytes: the size.
        what: name of what has this size, for the message.
        advice: what to reduce, for the message.

    Raises:
        InputError: if it does.
    """
    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") if _IS_POSIX else None
    if memory is not None and num_bytes > memory:
        raise InputError(
            f"{what} takes {num_bytes / 2**30:,.0f} GiB, more than the {memory / 2**30:,.0f} GiB "
            f"of memory of this machine: {advice}"
        )


_IS_POSIX = os.name == "posix"
