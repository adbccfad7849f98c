"""Values that most arguments cannot take: a pool, by name, each made anew when it is used."""

from collections.abc import Callable
from typing import Any

import numpy as np
import pandas as pd
import torch
from torch import nn

__all__ = ["NONSENSE"]


class _Unprintable:
    """An object whose methods mostly raise errors."""

    def __repr__(self) -> str:
        raise RuntimeError("this object cannot be printed")

    def __bool__(self) -> bool:
        raise RuntimeError("this object has no truth value")


def _tensors() -> dict[str, Callable[[], Any]]:
    types = ("bool", "uint8", "int8", "int16", "int64", "float16", "bfloat16", "float64",
             "complex64", "uint16", "uint64", "float8_e4m3fn")  # fmt: skip
    made: dict[str, Callable[[], Any]] = {
        f"{name} tensor": lambda name=name: torch.ones(5, 6).to(getattr(torch, name))
        for name in types
    }
    return made | {
        "0-d tensor": lambda: torch.tensor(1.0),
        "0-d integer tensor": lambda: torch.tensor(3),
        "empty tensor": lambda: torch.empty(0),
        "empty rows": lambda: torch.empty(0, 6),
        "empty columns": lambda: torch.empty(5, 0),
        "one row": lambda: torch.zeros(6),
        "wide": lambda: torch.zeros(5, 7),
        "deep": lambda: torch.zeros(2, 2, 2, 2, 2),
        "nan tensor": lambda: torch.full((5, 6), torch.nan),
        "inf tensor": lambda: torch.full((5, 6), torch.inf),
        "huge numbers": lambda: torch.full((5, 6), 1e38),
        "negative tensor": lambda: -torch.ones(5, 6),
        "sparse tensor": lambda: torch.eye(6).to_sparse(),
        "sparse rows": lambda: torch.eye(6).to_sparse_csr(),
        "meta tensor": lambda: torch.empty(5, 6, device="meta"),
        "requires grad": lambda: torch.zeros(5, 6, requires_grad=True),
        "expanded": lambda: torch.zeros(1).expand(5, 6),
        "transposed": lambda: torch.zeros(6, 5).T,
        "labels": lambda: torch.arange(5),
        "minus ones": lambda: -torch.ones(5, dtype=torch.long),
    }


def _arrays() -> dict[str, Callable[[], Any]]:
    types = ("bool", "int8", "uint16", "uint32", "uint64", "int64", "float16",
             "float64", "longdouble", "complex128", "U3", "S3", "O", "datetime64[s]", ">f4",
             ">i8")  # fmt: skip
    made: dict[str, Callable[[], Any]] = {
        f"{name} array": lambda name=name: np.ones((5, 6)).astype(name) for name in types
    }
    return made | {
        "0-d array": lambda: np.array(3.0),
        "empty array": lambda: np.empty((0, 6)),
        "nan array": lambda: np.full((5, 6), np.nan),
        "array of fields": lambda: np.zeros(5, dtype=[("a", "f4")]),
        "masked array": lambda: np.ma.masked_array(np.ones((5, 6)), np.eye(5, 6, dtype=bool)),
        "reversed array": lambda: np.ones((5, 6))[::-1],
        "read-only array": lambda: np.broadcast_to(np.float32(1), (5, 6)),
        "ragged": lambda: np.array([np.ones(2), np.ones(3)], dtype=object),
        "frame": lambda: pd.DataFrame(np.ones((5, 6))),
        "frame of words": lambda: pd.DataFrame({"a": ["x", "y"], "b": [1, 2]}),
        "frame with NA": lambda: pd.DataFrame({"a": pd.array([1, None], dtype="Int64")}),
        "empty frame": lambda: pd.DataFrame(),
        "series": lambda: pd.Series([1.0, 2.0, 3.0, 4.0, 5.0]),
    }


def _scalars() -> dict[str, Callable[[], Any]]:
    values = [None, True, False, 0, 1, -1, 2, 3, 7, 2**31, 2**31 - 1, 2**63, 2**70, -(2**70),
              0.0, -0.0, 0.5, 1.0, -1.5, 1e-320, 1e300, float("nan"), float("inf"), -float("inf"),
              1j, "", "x", "nan", "1", "data", "mixture", "Normal", "../..", "a\0b", "\ud800",
              "x" * 5000, b"", b"x", bytearray(3), ...]  # fmt: skip
    made: dict[str, Callable[[], Any]] = {
        f"{type(value).__name__} {str(value)[:12]!a}": lambda value=value: value for value in values
    }
    numpy = [np.int64(3), np.int64(-1), np.uint8(200), np.float64(0.5), np.float16("nan"),
             np.float32("inf"), np.bool_(True), np.str_("x"),
             np.datetime64("2001-01-01")]  # fmt: skip
    return made | {
        f"numpy {type(value).__name__} {value}": lambda value=value: value for value in numpy
    }


def _others() -> dict[str, Callable[[], Any]]:
    return {
        "empty list": lambda: [],
        "empty tuple": lambda: (),
        "empty dict": lambda: {},
        "list of lists": lambda: [[1.0, 2.0], [3.0]],
        "list of None": lambda: [None, None],
        "tuple of words": lambda: ("a", "b"),
        "shape": lambda: (3, 2),
        "negative shape": lambda: (-1, 3),
        "shape with zero": lambda: (0,),
        "shape of floats": lambda: (2.0, 3.0),
        "huge shape": lambda: (2**31, 2**31),
        "long shape": lambda: (1,) * 70,
        "huge widths": lambda: (10**9, 10**9),
        "many widths": lambda: (1,) * 100_000,
        "list of itself": _list_of_itself,
        "set": lambda: {1, 2},
        "range": lambda: range(3),
        "generator": lambda: (i for i in range(3)),
        "dict": lambda: {"a": 1},
        "dict of numbers": lambda: {1: 2},
        "name alone": lambda: {"name": "x"},
        "name and setting": lambda: {"name": "mixture", "num_components": 0},
        "name of a number": lambda: {"name": 3},
        "family alone": lambda: {"family": "Normal", "scale": "nowhere"},
        "object": object,
        "unprintable": _Unprintable,
        "class": lambda: int,
        "module class": lambda: nn.Linear,
        "type": lambda: torch.int32,
        "real type": lambda: torch.float16,
        "device": lambda: torch.device("meta"),
        "path": lambda: __import__("pathlib").Path("nowhere"),
        "function of anything": lambda: lambda *args, **kwargs: None,
        "function of nothing": lambda: lambda: 3,
        "function to words": lambda: lambda *args, **kwargs: "x",
        "identity": lambda: lambda x, *rest, **kwargs: x,
        "network": lambda: nn.Linear(3, 3),
        "network without layers": lambda: nn.Sequential(),
        "distribution": lambda: torch.distributions.Normal(0.0, 1.0),
        "exception": lambda: ValueError("a value"),
        "module": lambda: torch,
    }


def _list_of_itself() -> list[Any]:
    values: list[Any] = []
    values.append(values)
    return values


NONSENSE: dict[str, Callable[[], Any]] = _scalars() | _tensors() | _arrays() | _others()
"""A function that makes each value, by name."""
