"""Checks of the options that the estimators share, by name."""

from collections.abc import Callable
from typing import Any

from ...arguments import (
    as_callable,
    as_device,
    as_flag,
    as_real,
    as_text,
    as_whole,
    as_wholes,
    describe,
)
from ...errors import InputError

__all__ = ["check_options"]

_MAX_SEED = 2**63 - 1

_LEAST = {
    "batch_size": 1,
    "max_data": 2,  # a variance over data needs two
    "num_chains": 2,  # a standard error needs two
    "num_leapfrog": 1,
    "num_particles": 1,
    "num_steps": 1,
    "num_temperatures": 1,
}


def check_options(**options: Any) -> None:
    """Check options of an estimator by name, before any work.

    Raises:
        InputError: if one is not what the estimators expect under this name.

    >>> check_options(num_steps=0)
    Traceback (most recent call last):
    ...
    pyrovae.errors.InputError: num_steps is 0; it must be 1 or more
    """
    for name, value in options.items():
        if name in _LEAST:
            as_whole(name, value, _LEAST[name])
        else:
            _CHECKS[name](name, value)


def _check_compile(name: str, value: Any) -> None:
    if value != "auto" and not isinstance(value, bool):
        raise InputError(f"{name} is {describe(value)}; it must be 'auto', True or False")


def _check_bounds(name: str, value: Any) -> None:
    as_wholes(name, value, 1)


def _optional(check: Callable[[str, Any], Any]) -> Callable[[str, Any], None]:
    def check_unless_none(name: str, value: Any) -> None:
        if value is not None:
            check(name, value)

    return check_unless_none


_CHECKS: dict[str, Callable[[str, Any], Any]] = {
    "bounds": _check_bounds,
    "compile": _check_compile,
    "device": _optional(as_device),
    "guide": as_callable,
    "lr": lambda name, value: as_real(name, value, above=0),
    "memory": lambda name, value: as_whole(name, value, 1, None),
    "model": as_callable,
    "plate": as_text,
    "progress": as_flag,
    "seed": lambda name, value: as_whole(name, value, 0, _MAX_SEED),
    "size": _optional(lambda name, value: as_whole(name, value, 1, None)),
    "transform": _optional(as_callable),
}
