"""Checks of tensors and of what is taken in their place, of devices and of types."""

import warnings
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from ..errors import InputError
from .plain import describe

__all__ = [
    "TensorLike",
    "as_array",
    "as_data",
    "as_device",
    "as_dtype",
    "as_generator",
    "as_tensor",
    "as_tensors",
    "is_tensor_like",
]

TensorLike = Any
"""A tensor, a NumPy array, or a data frame of numbers (of pandas, polars or the like)."""

_EXPECTED = "a tensor, a NumPy array or a data frame of numbers"

_WIDER: dict[Any, Any] = {
    np.dtype("uint16"): np.dtype("int32"),
    np.dtype("uint32"): np.dtype("int64"),
}
"""For types of NumPy for which torch lacks most functions, the next that has them."""

_NARROW = {torch.uint16: torch.int32, torch.uint32: torch.int64, torch.uint64: torch.int64}
"""The same for types of torch."""

_KNOWN = frozenset(
    [
        torch.bool,
        torch.uint8,
        torch.int8,
        torch.int16,
        torch.int32,
        torch.int64,
        torch.float16,
        torch.bfloat16,
        torch.float32,
        torch.float64,
    ]
)
"""Types of data that every function takes."""


def is_tensor_like(value: Any) -> bool:
    """Whether a value is a tensor, an array or a data frame, whatever is in it."""
    return isinstance(value, Tensor | np.ndarray) or _is_frame(value)


def as_tensor(name: str, value: TensorLike, *, like: Tensor | None = None) -> Tensor:
    """A dense tensor of real numbers. Arrays and frames get torch's default real type.

    Tensors are returned as they are, except those of unsigned types that torch hardly supports. An
    array keeps its memory where its type allows.

    Arguments:
        name: name of the argument, for the message.
        value: a tensor, an array or a data frame.
        like: a tensor on the device where the result is needed. Arrays and frames are moved there;
            a tensor on another device is refused.

    Raises:
        InputError: if it is something else, such as a list or a sparse, complex or empty-handed
            (meta) tensor.

    >>> import pandas as pd
    >>> as_tensor("x", pd.DataFrame({"a": [1.0, 2.0], "b": [3, 4]}))
    tensor([[1., 3.],
            [2., 4.]])
    """
    if isinstance(value, Tensor):
        return _check_tensor(name, value, like)
    array = as_array(name, value)
    array = np.require(array, array.dtype.newbyteorder("="), ["C", "W"])
    tensor = torch.from_numpy(array)
    if tensor.is_floating_point():
        tensor = tensor.to(torch.get_default_dtype())
    return tensor if like is None else tensor.to(like.device)


def as_array(name: str, value: Any) -> NDArray[Any]:
    """An array of real numbers, of a type that torch supports, from an array or a data frame.

    Raises:
        InputError: if it is something else, or does not hold real numbers.
    """
    array = _frame_to_array(name, value) if _is_frame(value) else value
    if not isinstance(array, np.ndarray):
        advice = "; give its .toarray()" if hasattr(value, "toarray") else ""
        raise InputError(f"{name} is {describe(value)}; it must be {_EXPECTED}{advice}")
    if isinstance(array, np.ma.MaskedArray):
        raise InputError(
            f"{name} is a masked array; fill missing entries with NaN: array.filled(numpy.nan)"
        )
    if array.dtype.kind not in "biuf":
        raise InputError(f"{name} holds {array.dtype}; it must hold real numbers")
    native = array.dtype.newbyteorder("=")
    if native in _WIDER:
        wider: NDArray[Any] = array.astype(_WIDER[native])
        return wider
    if native == np.dtype("uint64"):
        if array.size and array.max() > np.iinfo(np.int64).max:
            raise InputError(f"{name} holds {array.max()}; whole numbers must be below 2^63")
        return array.astype(np.int64)
    if native.kind == "f" and native.itemsize > 8:
        return array.astype(np.float64)
    return array


def as_tensors(name: str, values: Sequence[Any], num: int) -> tuple[Tensor, ...]:
    """Tensors with a row for each of ``num`` data, such as those that come with x.

    Raises:
        InputError: if one is no tensor, array or frame, or has another number of rows.
    """
    tensors = []
    for i, value in enumerate(values):
        tensor = as_tensor(f"{name}[{i}]", value)
        if tensor.ndim == 0 or len(tensor) != num:
            raise InputError(
                f"{name}[{i}] has shape {tuple(tensor.shape)}; it needs a row for each of {num} "
                "data"
            )
        tensors.append(tensor)
    return tuple(tensors)


def as_data(
    name: str,
    value: TensorLike,
    event_shape: tuple[int, ...],
    *,
    like: Tensor | None = None,
    batch_dims: int | None = None,
) -> Tensor:
    """Data whose last dimensions are those of one datum, as a dense tensor of real numbers.

    Arguments:
        name: name of the argument, for the message.
        value: a tensor, an array or a data frame.
        event_shape: shape of one datum.
        like: as for :func:`as_tensor`.
        batch_dims: number of dimensions before those of a datum; None for any.

    Raises:
        InputError: if it is something else, or has another shape.
    """
    x = as_tensor(name, value, like=like)
    first = x.ndim - len(event_shape)
    if first < 0 or tuple(x.shape[first:]) != event_shape:
        raise InputError(
            f"{name} has shape {tuple(x.shape)}; the model expects {event_shape} for each datum"
        )
    if batch_dims is not None and first != batch_dims:
        dims = "one datum" if batch_dims == 0 else "data along the first dimension"
        expected = event_shape if batch_dims == 0 else ("num", *event_shape)
        shape = "(" + ", ".join(map(str, expected)) + ("," if len(expected) == 1 else "") + ")"
        raise InputError(f"{name} has shape {tuple(x.shape)}; it must be {dims}, of shape {shape}")
    return x


def as_device(name: str, value: Any, *, meta: bool = False) -> torch.device:
    """A device that works on this machine, from a ``torch.device``, a name or a number.

    Arguments:
        name: name of the argument, for the message.
        value: what was given.
        meta: whether the device ``meta`` is taken, which holds shapes but no values.

    Raises:
        InputError: if it does not exist or cannot be used.

    >>> as_device("device", "cpu")
    device(type='cpu')
    """
    expected = "choose cpu, cuda, cuda:1 or mps"
    if not isinstance(value, str | torch.device | int) or isinstance(value, bool):
        raise InputError(f"{name} is {describe(value)}; {expected}")
    try:
        device = torch.device(value)
        if device.type != "meta" or not meta:
            torch.ones(1, device=device).item()
    except (RuntimeError, AssertionError, NotImplementedError, ValueError, OverflowError) as error:
        raise InputError(
            f"{name} {describe(str(value))} cannot be used on this machine; {expected}"
        ) from error
    return device


def as_dtype(name: str, value: Any) -> torch.dtype:
    """A floating-point type of torch.

    Raises:
        InputError: if it is something else.
    """
    if isinstance(value, torch.dtype) and value in _KNOWN and value.is_floating_point:
        return value
    raise InputError(
        f"{name} is {describe(value)}; it must be a floating-point type, such as torch.float32 or "
        "torch.bfloat16"
    )


def as_generator(name: str, value: Any) -> torch.Generator | None:
    """A random generator of torch, or None.

    Raises:
        InputError: if it is something else.
    """
    if value is None or isinstance(value, torch.Generator):
        return value
    raise InputError(f"{name} is {describe(value)}; it must be a torch.Generator or None")


def _check_tensor(name: str, value: Tensor, like: Tensor | None) -> Tensor:
    if value.dtype not in _KNOWN:
        if value.dtype not in _NARROW:
            raise InputError(
                f"{name} has type {value.dtype}; it must hold real numbers, such as torch.float32"
            )
        if value.dtype == torch.uint64 and bool((value.to(torch.int64) < 0).any()):
            raise InputError(f"{name} holds whole numbers of 2^63 or more; they must be smaller")
    if value.layout != torch.strided or value.is_nested:
        advice = "" if value.is_nested else "; give its .to_dense()"
        raise InputError(f"{name} has layout {value.layout}; it must be a dense tensor{advice}")
    if value.device.type == "meta":
        raise InputError(f"{name} is a tensor on the device 'meta', which holds no values")
    if like is not None and value.device != like.device:
        raise InputError(
            f"{name} is on device {value.device}, but the model is on {like.device}; move one of "
            "them"
        )
    return value.to(_NARROW[value.dtype]) if value.dtype in _NARROW else value


def _is_frame(value: Any) -> bool:
    """Whether a value is a data frame or a series, of whatever library."""
    is_class = isinstance(value, type)
    return not is_class and hasattr(value, "to_numpy") and hasattr(value, "shape")


def _frame_to_array(name: str, frame: Any) -> NDArray[Any]:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        try:
            array = np.asarray(frame.to_numpy())
            if array.dtype.kind == "O" and not _has_words(frame):
                # pandas gives objects for columns that mix types or have missing whole numbers.
                array = frame.to_numpy(dtype=float, na_value=float("nan"))
        except (TypeError, ValueError) as error:
            raise InputError(
                f"{name} is a data frame that holds other things than numbers; convert its "
                "columns, or choose those of numbers"
            ) from error
    if array.dtype.kind not in "biuf":
        raise InputError(
            f"{name} is a data frame that holds other things than numbers ({array.dtype}); convert "
            "its columns, or choose those of numbers"
        )
    return array


def _has_words(frame: Any) -> bool:
    """Whether a column of a pandas frame holds something else than numbers and truth values."""
    import pandas as pd

    if not isinstance(frame, pd.DataFrame | pd.Series | pd.Index):
        return True
    types = frame.dtypes if isinstance(frame, pd.DataFrame) else [frame.dtype]
    return not all(pd.api.types.is_numeric_dtype(each) for each in types)
