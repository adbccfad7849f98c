"""Whether what is asked for fits into memory. This module does not import torch."""

import os
from collections.abc import Iterator
from contextlib import contextmanager

from ..errors import InputError

__all__ = ["check_fits_memory", "is_too_large", "memory_guard"]

_SAID = (
    "can't allocate memory",
    "out of memory",
    "Storage size calculation overflowed",
    "verflow when unpacking",
    "invalid size",
    "numel: integer multiplication overflow",
    "array is too big",
    "Maximum allowed dimension exceeded",
)
"""What torch and NumPy say, in errors of several types, where a tensor cannot be that large."""


def is_too_large(error: BaseException) -> bool:
    """Whether an error says that there is no memory for what was asked."""
    if isinstance(error, MemoryError | OverflowError):
        return True
    return isinstance(error, RuntimeError | TypeError | ValueError) and any(
        words in str(error) for words in _SAID
    )


@contextmanager
def memory_guard(what: str, advice: str) -> Iterator[None]:
    """Within, what does not fit into memory is refused.

    Arguments:
        what: is too large.
        advice: what to lower.

    Raises:
        InputError: in place of the error that says so.

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
    """Refuse what would take more than all of the memory.

    Raises:
        InputError: if it is so.
    """
    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") if _IS_POSIX else None
    if memory is not None and num_bytes > memory:
        raise InputError(
            f"{what} takes {num_bytes / 2**30:,.0f} GiB, more than the {memory / 2**30:,.0f} GiB "
            f"of memory of this machine: {advice}"
        )


_IS_POSIX = os.name == "posix"
