"""Checks of numbers, flags, words, paths and callables. This module does not import torch."""

import os
from collections.abc import Callable, Iterable, Sequence
from math import inf, isfinite, prod
from numbers import Integral, Real
from pathlib import Path
from typing import Any, TypeVar

from ..errors import InputError, did_you_mean, short_repr

__all__ = [
    "MAX_WHOLE",
    "as_callable",
    "as_flag",
    "as_instance",
    "as_path",
    "as_real",
    "as_shape",
    "as_text",
    "as_whole",
    "as_wholes",
    "as_word",
    "describe",
]

T = TypeVar("T")

MAX_WHOLE = 2**31 - 1
"""The largest whole number that an argument can be, unless its check says otherwise."""

_MAX_CHARACTERS = 200
"""The largest length of a name."""

_NUMPY_FLAGS = ("bool", "bool_")
"""Names of NumPy's truth value; a check by name spares the import."""

_MAX_DIMS = 16
"""The largest number of dimensions of one datum."""

_MAX_VALUE = 2**40
"""The largest number of values in one datum. More would not fit into memory."""


def as_whole(name: str, value: Any, low: int | None = None, high: int | None = MAX_WHOLE) -> int:
    """A whole number from low to high, both included, as an ``int``.

    Integers of Python and NumPy are taken; truth values and floating-point numbers are not.

    Arguments:
        name: name of the argument, for the message.
        value: what was given.
        low: smallest value; None for no limit.
        high: largest value; None for no limit.

    Raises:
        InputError: if it is something else.

    >>> as_whole("epochs", 3, 1)
    3
    >>> as_whole("epochs", 0, 1)
    Traceback (most recent call last):
    ...
    pyrovae.errors.InputError: epochs is 0; it must be 1 or more
    """
    if not isinstance(value, Integral) or isinstance(value, bool):
        range_ = _whole_range(low, high)
        raise InputError(f"{name} is {describe(value)}; it must be a whole number{range_}")
    number = int(value)
    if low is not None and number < low:
        raise InputError(f"{name} is {describe(number)}; it must be {_bounds(low, high)}")
    if high is not None and number > high:
        raise InputError(f"{name} is {describe(number)}; it must be at most {high}")
    return number


def as_real(
    name: str,
    value: Any,
    low: float = -inf,
    high: float = inf,
    *,
    above: float | None = None,
    below: float | None = None,
    finite: bool = True,
) -> float:
    """A real number in a range, as a ``float``; NaN is never in it.

    Numbers of Python and NumPy are taken; truth values, strings and arrays are not.

    Arguments:
        name: name of the argument, for the message.
        value: what was given.
        low: smallest value.
        high: largest value.
        above: what it must exceed, if anything.
        below: what it must stay below, if anything.
        finite: whether infinity is refused.

    Raises:
        InputError: if it is something else.

    >>> as_real("lr", 1, above=0)
    1.0
    >>> as_real("lr", float("inf"), above=0)
    Traceback (most recent call last):
    ...
    pyrovae.errors.InputError: lr is inf; it must be positive and finite
    """
    expected = _real_range(low, high, above, below, finite)
    if not isinstance(value, Real) or isinstance(value, bool):
        raise InputError(f"{name} is {describe(value)}; it must be a number, {expected}")
    try:
        number = float(value)
    except OverflowError:  # larger than any float
        exact: Any = value
        number = -inf if exact < 0 else inf
    inside = low <= number <= high and not (finite and not isfinite(number))
    inside = inside and (above is None or number > above) and (below is None or number < below)
    if not inside:
        raise InputError(f"{name} is {describe(value)}; it must be {expected}")
    return number


def as_flag(name: str, value: Any) -> bool:
    """A truth value, as a ``bool``; those of NumPy are taken.

    Raises:
        InputError: if it is something else.
    """
    kind = type(value)
    if isinstance(value, bool) or (kind.__module__ == "numpy" and kind.__name__ in _NUMPY_FLAGS):
        return bool(value)
    raise InputError(f"{name} is {describe(value)}; it must be True or False")


def as_shape(name: str, value: Any, *, empty: bool = False) -> tuple[int, ...]:
    """A shape of positive sizes, as a tuple; a whole number n means ``(n,)``.

    Arguments:
        name: name of the argument, for the message.
        value: what was given.
        empty: whether the empty shape, that of one number, is taken.

    Raises:
        InputError: if it is something else, or has more than 16 sizes.

    >>> as_shape("event_shape", 6)
    (6,)
    """
    expected = "one positive whole number or more, such as (6,) or (1, 28, 28)"
    sizes = [value] if isinstance(value, Integral) else _as_list(value)
    refusal = f"{name} is {describe(value)}; it must be {expected}"
    if sizes is None or (not sizes and not empty) or len(sizes) > _MAX_DIMS:
        raise InputError(refusal)
    for size in sizes:
        if not isinstance(size, Integral) or isinstance(size, bool) or int(size) < 1:
            raise InputError(refusal)
    shape = tuple(int(size) for size in sizes)
    if prod(shape) > _MAX_VALUE:
        raise InputError(f"{name} is {describe(shape)}; it has too many values for any memory")
    return shape


def as_wholes(
    name: str, value: Any, low: int = 1, *, fewest: int = 0, most: int = 1000, high: int = MAX_WHOLE
) -> tuple[int, ...]:
    """Whole numbers from low to high, as a tuple.

    Arguments:
        name: name of the argument, for the message.
        value: what was given, a sequence.
        low: smallest value.
        fewest: smallest length.
        most: largest length.
        high: largest value.

    Raises:
        InputError: if it is something else.

    >>> as_wholes("hidden", [400, 200])
    (400, 200)
    """
    numbers = _as_list(value)
    if numbers is None:
        raise InputError(
            f"{name} is {describe(value)}; it must be a sequence of whole numbers, such as (64, 64)"
        )
    if not fewest <= len(numbers) <= most:
        length = f"{fewest} to {most}" if fewest else f"at most {most}"
        raise InputError(f"{name} has {len(numbers)} numbers; give {length}")
    return tuple(as_whole(f"{name}[{i}]", each, low, high) for i, each in enumerate(numbers))


def as_word(name: str, value: Any, words: Iterable[str]) -> str:
    """One of some words.

    Raises:
        InputError: if it is something else; the message suggests the nearest word.

    >>> as_word("schedule", "cosin", ["constant", "cosine"])
    Traceback (most recent call last):
    ...
    pyrovae.errors.InputError: schedule cannot be 'cosin': did you mean 'cosine'?
    """
    known = list(words)
    if isinstance(value, str) and value in known:
        return str(value)
    advice = did_you_mean(value if isinstance(value, str) else "", known)
    raise InputError(f"{name} cannot be {describe(value)}: {advice}")


def as_text(name: str, value: Any) -> str:
    """A string of up to 200 characters that is not empty, such as the name of a site.

    Raises:
        InputError: if it is something else.
    """
    if isinstance(value, str) and 0 < len(value) <= _MAX_CHARACTERS:
        return str(value)
    raise InputError(f"{name} is {describe(value)}; it must be a word")


def as_path(name: str, value: Any) -> Path:
    """The path of a file or folder, as a ``Path``.

    Raises:
        InputError: if it is neither a path nor a string, or is empty.
    """
    text = value
    if isinstance(value, os.PathLike):
        text = os.fspath(value)
    if not isinstance(text, str) or not text or "\0" in text:
        raise InputError(f"{name} is {describe(value)}; it must be a path, such as 'runs/first'")
    return Path(text)


def as_callable(name: str, value: Any, what: str = "a function") -> Callable[..., Any]:
    """Something that can be called.

    Raises:
        InputError: if it is something else; the message says what should be callable.
    """
    if callable(value):
        function: Callable[..., Any] = value
        return function
    raise InputError(f"{name} is {describe(value)}; it must be {what}")


def as_instance(name: str, value: Any, kind: type[T] | tuple[type[T], ...], what: str) -> T:
    """An object of a class.

    Raises:
        InputError: if it is something else; ``what`` says what it must be.
    """
    if isinstance(value, kind):
        return value
    raise InputError(f"{name} is {describe(value)}; it must be {what}")


def describe(value: Any) -> str:
    """A value in one short line, for a message; arrays, tensors and frames by their shape.

    >>> describe([1] * 100)
    '[1, 1, 1, 1, 1, 1, 1, 1, ...]'
    >>> import torch
    >>> describe(torch.zeros(3, 2))
    'a Tensor of shape (3, 2) and type torch.float32'
    """
    kind = type(value).__name__
    try:
        if hasattr(value, "shape") and hasattr(value, "dtype") and len(value.shape):
            return f"a {kind} of shape {tuple(value.shape)} and type {value.dtype}"
        if hasattr(value, "columns") and hasattr(value, "shape"):
            return f"a {kind} of shape {tuple(value.shape)}"
        if isinstance(value, int | float | str | bytes | list | tuple | set | dict | None):
            return " ".join(short_repr(value).split())
        text = " ".join(short_repr(value).split())
    except Exception:  # an object of any class may refuse any of these
        return f"a value of type {kind}"
    is_plain = not text.startswith("<") and len(text) <= 60
    return text if is_plain else f"a value of type {kind}"


def _as_list(value: Any) -> list[Any] | None:
    """The elements of a sequence, or of a one-dimensional array; None if it is neither."""
    if isinstance(value, str | bytes | bytearray | memoryview):
        return None
    try:
        if getattr(value, "ndim", None) == 1 and hasattr(value, "tolist"):
            return list(value.tolist())
        return list(value) if isinstance(value, Sequence) else None
    except Exception:  # such as tensors on the device meta
        return None


def _whole_range(low: int | None, high: int | None) -> str:
    return "" if low is None and high == MAX_WHOLE else f", {_bounds(low, high)}"


def _bounds(low: int | None, high: int | None) -> str:
    if low is None:
        return "of any size" if high is None else f"at most {high}"
    return f"{low} or more" if high in (None, MAX_WHOLE) else f"from {low} to {high}"


def _real_range(
    low: float, high: float, above: float | None, below: float | None, finite: bool
) -> str:
    parts = []
    if low > -inf and high < inf:
        parts.append(f"from {low:g} to {high:g}")
    elif low > -inf:
        parts.append(f"{low:g} or more")
    elif high < inf:
        parts.append(f"at most {high:g}")
    if above is not None:
        parts.append("positive" if above == 0 else f"above {above:g}")
    if below is not None:
        parts.append(f"below {below:g}")
    bounded = (low > -inf or above is not None) and (high < inf or below is not None)
    if finite and not bounded:
        parts.append("finite")
    return " and ".join(parts) or "not NaN"
