"""Parts of data: tensors, and NumPy arrays as such; those mapped from a file stay there."""

import warnings
from dataclasses import dataclass, replace
from mmap import mmap
from typing import Any

import numpy as np
import torch
from jaxtyping import Int
from numpy.typing import NDArray
from torch import Tensor

from ..errors import InputError

__all__ = ["Array", "Source", "is_array"]

Array = Tensor | NDArray[Any]


def is_array(part: Any) -> bool:
    """Whether it is a tensor or an array."""
    return isinstance(part, Tensor | np.ndarray)


@dataclass(frozen=True)
class Source:
    """Where the rows of a part come from.

    Attributes:
        tensor: all of them; of a map, never to be written to.
        dtype: what those of a map become once they are gathered.
        map: of the file that they are in, if they are in one.
    """

    tensor: Tensor
    dtype: torch.dtype
    map: mmap | None = None

    @classmethod
    def of(cls, part: Array) -> "Source":
        """Real numbers of an array become those of torch's default type; tensors stay as they are.

        Raises:
            InputError: if an array holds no numbers, or torch has none of this kind or layout.
        """
        if isinstance(part, Tensor):
            return cls(part, part.dtype)
        if isinstance(part, np.ma.MaskedArray):
            raise InputError(
                "an array is masked; fill what is missing with NaN: array.filled(numpy.nan)"
            )
        if part.dtype.kind not in "biuf":
            raise InputError(f"an array holds {part.dtype}; data are real numbers")
        map_ = _map_of(part)
        if map_ is None:
            part = np.require(part, part.dtype.newbyteorder("="), ["C", "W"])
        tensor = _tensor_of(part)
        dtype = torch.get_default_dtype() if tensor.is_floating_point() else tensor.dtype
        return cls(tensor if map_ is not None else tensor.to(dtype), dtype, map_)

    def to(self, device: torch.device | str | None) -> "Source":
        """The same rows on that device."""
        return replace(self, tensor=self.tensor.to(device))

    def rows(self, index: Int[Tensor, "batch"]) -> Tensor:
        """A copy of these rows, and of no others."""
        return self.tensor[index].to(self.dtype)

    def span(self, start: int, stop: int) -> Tensor:
        """The rows from one to another: a view, but of a map a copy."""
        rows = self.tensor[start:stop]
        return rows if self.map is None else rows.to(self.dtype, copy=True)


def _map_of(array: NDArray[Any]) -> mmap | None:
    """The map that an array is a view of, if it is one."""
    base: Any = array
    while base is not None and not isinstance(base, mmap):
        base = base.obj if isinstance(base, memoryview) else getattr(base, "base", None)
    return base


def _tensor_of(array: NDArray[Any]) -> Tensor:
    """Of the same memory."""
    try:
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", "The given NumPy array is not writable")
            return torch.from_numpy(array)
    except (TypeError, ValueError) as error:
        raise InputError(
            f"an array of {array.dtype} with strides {array.strides} cannot be a tensor; write it "
            "anew with its rows in order, in a type that torch has and this machine's byte order"
        ) from error
