"""Read rows of tensors and NumPy arrays alike, without loading memory-mapped files."""

import warnings
from dataclasses import dataclass, replace
from mmap import mmap
from typing import Any

import numpy as np
import torch
from jaxtyping import Int
from numpy.typing import NDArray
from torch import Tensor

from ..arguments import TensorLike, as_array, as_tensor, is_tensor_like
from ..errors import InputError

__all__ = ["Array", "Source", "is_array"]

Array = Tensor | NDArray[Any]


def is_array(part: Any) -> bool:
    """Whether a value is a tensor, a NumPy array or a data frame."""
    return is_tensor_like(part)


_WIDER = {torch.uint16: torch.int32, torch.uint32: torch.int64, torch.uint64: torch.int64}
"""For types that torch hardly supports, those to which rows of a memory map are cast."""


@dataclass(frozen=True)
class Source:
    """The rows of a tensor, an array, or a memory-mapped file.

    Attributes:
        tensor: all rows; if they are memory-mapped, never write to it.
        dtype: type to which rows of a memory map are cast when they are gathered.
        map: the memory map that holds the rows, if any.
    """

    tensor: Tensor
    dtype: torch.dtype
    map: mmap | None = None

    @classmethod
    def from_array(cls, array: TensorLike) -> "Source":
        """Wrap a tensor or an array; real numbers of an array get torch's default type.

        Raises:
            InputError: if an array does not hold real numbers, or torch does not support its type
                or memory layout.
        """
        if isinstance(array, Tensor):
            tensor = as_tensor("data", array)
            return cls(tensor, tensor.dtype)
        map_ = _find_map(array)
        if map_ is None or not isinstance(array, np.ndarray):
            map_, array = None, as_array("data", array)
            array = np.require(array, array.dtype.newbyteorder("="), ["C", "W"])
        elif isinstance(array, np.ma.MaskedArray) or array.dtype.kind not in "biuf":
            as_array("data", array)  # raises
        tensor = _as_tensor(array)
        dtype = _WIDER.get(tensor.dtype, tensor.dtype)
        if tensor.is_floating_point():
            dtype = torch.get_default_dtype()
        return cls(tensor if map_ is not None else tensor.to(dtype), dtype, map_)

    def to(self, device: torch.device | str | None) -> "Source":
        """The same rows on another device."""
        return replace(self, tensor=self.tensor.to(device))

    def rows(self, index: Int[Tensor, "batch"]) -> Tensor:
        """A copy of the given rows only."""
        return self.tensor[index].to(self.dtype)

    def span(self, start: int, stop: int) -> Tensor:
        """The rows from start to stop: a view, or a copy if they are memory-mapped."""
        rows = self.tensor[start:stop]
        return rows if self.map is None else rows.to(self.dtype, copy=True)


def _find_map(array: NDArray[Any]) -> mmap | None:
    """The memory map that an array is a view of, if any."""
    base: Any = array
    while base is not None and not isinstance(base, mmap):
        base = base.obj if isinstance(base, memoryview) else getattr(base, "base", None)
    return base


def _as_tensor(array: NDArray[Any]) -> Tensor:
    """A tensor that shares the memory of the array."""
    try:
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", "The given NumPy array is not writable")
            return torch.from_numpy(array)
    except (TypeError, ValueError) as error:
        raise InputError(
            f"torch cannot read an array of {array.dtype} with strides {array.strides}; save a "
            "contiguous copy of it, in a type that torch supports and in native byte order"
        ) from error
