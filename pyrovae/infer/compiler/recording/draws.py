"""Where a program draws random numbers that are not torch's, which a replay would repeat."""

import random
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from operator import attrgetter
from pathlib import Path
from types import FrameType
from typing import Any

import numpy as np

from .frames import LIBRARIES, TORCH, describe, outside

__all__ = ["watch_random_draws"]

_DRAW_FOR_THEMSELVES = (TORCH, str(Path(TORCH).with_name("sympy")), "<@beartype")
"""Libraries that draw random numbers while torch records: names of symbols, items to type-check."""

_SHARED: Any = random.random.__self__  # type: ignore[attr-defined]
"""The generator behind the functions of Python's ``random``."""


@contextmanager
def watch_random_draws() -> Iterator[list[str]]:
    """Within, list where Python or NumPy draw random numbers, in sentences."""
    draws: list[str] = []
    before = _numpy_state()

    def of_python(frame: FrameType, name: str) -> bool:
        caller = outside(frame, random.__file__)
        is_own = caller.f_code.co_filename.startswith(_DRAW_FOR_THEMSELVES)
        if name in ("random", "getrandbits") and not is_own:  # to which all draws come down
            draws.append(f"{describe(caller)} draws from Python's random numbers")
        return bool(draws)

    def of_numpy(frame: FrameType) -> bool:
        if not draws and _numpy_state() != before:
            draws.append(f"{describe(frame)} draws from NumPy's random numbers")
        return bool(draws)

    name_of: Any = attrgetter("f_code.co_filename")
    # Called for every event; a lambda, as a type checker would check each call of a function.
    see: Any = lambda frame, event, called: (  # noqa: E731
        (event == "c_call" and called.__self__ is _SHARED and of_python(frame, called.__name__))
        or (event == "return" and not name_of(frame).startswith(LIBRARIES) and of_numpy(frame))
    )
    outer = sys.getprofile()
    sys.setprofile(see)
    try:
        yield draws
    finally:
        sys.setprofile(outer)
    if not draws and _numpy_state() != before:
        draws.append("the program draws from NumPy's random numbers")


def _numpy_state() -> tuple[Any, ...]:
    kind, keys, *rest = np.random.get_state()  # noqa: NPY002 - the one that programs share
    return kind, np.asarray(keys).tobytes(), *rest
