"""Report data and models that do not fit into memory. This module does not import torch."""

import os
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from contextvars import ContextVar
from importlib.util import find_spec
from pathlib import Path

from ..errors import InputError

__all__ = [
    "available_memory",
    "check_fits_memory",
    "check_num_parameters",
    "is_too_large",
    "memory_guard",
    "parameter_budget",
]

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
    memory = available_memory()
    if memory is not None and num_bytes > memory:
        raise InputError(
            f"{what} takes {num_bytes / 2**30:,.0f} GiB, more than the {memory / 2**30:,.0f} GiB "
            f"of memory of this machine: {advice}"
        )


def check_num_parameters(num: int, what: str) -> None:
    """Check that so many numbers in single precision fit into memory, before they are made.

    Arguments:
        num: number of parameters.
        what: name of what has them, for the message.

    Raises:
        InputError: if they do not.
    """
    num_bytes = 4 * num
    budget = _BUDGET.get()
    if budget is not None and num_bytes > _SLACK * budget + _SMALL:
        raise InputError(
            f"{what} of {num:,} parameters does not fit the weights that were saved, which take "
            f"{budget:,} bytes: its settings were changed"
        )
    check_fits_memory(num_bytes, f"{what} of {num:,} parameters", "choose smaller sizes")


@contextmanager
def parameter_budget(num_bytes: int) -> Iterator[None]:
    """Within, parts that need far more memory than these weights are refused before they are made.

    Settings of a run may come from someone else. The size of its weights tells what they describe.

    Arguments:
        num_bytes: size of the file of weights.
    """
    token = _BUDGET.set(num_bytes)
    try:
        yield
    finally:
        _BUDGET.reset(token)


_BUDGET: ContextVar[int | None] = ContextVar("budget", default=None)

_SLACK = 4
"""Parts may need this many times the size of the weights, as for masks and tables."""

_SMALL = 2**26
"""Bytes that a part may need in any case."""


def available_memory(root: Path = Path("/")) -> int | None:
    """Bytes of memory that this process may use at most; None if the system does not say.

    This is the memory of the machine, or less: in a container (control groups, version 1 or 2), the
    lowest limit of its group and of the groups around it; and the limit of ``ulimit -v``.

    Arguments:
        root: where the file system begins.
    """
    limits = [*_machine_memory(), *_group_limits(root), *_process_limits()]
    return min(limits, default=None)


def _machine_memory() -> list[int]:
    if not hasattr(os, "sysconf"):
        return []
    try:
        return [os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")]
    except (OSError, ValueError):
        return []


def _group_limits(root: Path) -> Iterator[int]:
    """The memory limits of the control groups of this process."""
    try:
        lines = (root / "proc/self/cgroup").read_text().splitlines()
    except OSError:
        return
    for line in lines:
        _, controllers, group = [*line.split(":", 2), "", ""][:3]
        if controllers == "":
            base, name = root / "sys/fs/cgroup", "memory.max"
        elif "memory" in controllers.split(","):
            base, name = root / "sys/fs/cgroup/memory", "memory.limit_in_bytes"
        else:
            continue
        # Within a container, the path of the group may be that of the host, and its files lie in
        # the base itself.
        folder = base.joinpath(*(part for part in group.split("/") if part not in ("", "..")))
        for each in (folder, *folder.parents):
            if each == base or base in each.parents:
                with suppress(OSError, ValueError):  # "max" is no limit
                    yield int((each / name).read_text())


def _process_limits() -> list[int]:
    if find_spec("resource") is None:
        return []
    import resource

    soft, _ = resource.getrlimit(resource.RLIMIT_AS)
    return [] if soft == resource.RLIM_INFINITY else [soft]
