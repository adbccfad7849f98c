"""The parts of a batch that have a row for each datum."""

from collections.abc import Sequence
from typing import Any

from torch import Tensor

__all__ = ["has_row_per_datum", "repeat_rows"]


def has_row_per_datum(part: Any, num: int) -> bool:
    """Whether a part of a batch of ``num`` data is a tensor with one row for each of them."""
    return isinstance(part, Tensor) and part.ndim > 0 and len(part) == num


def repeat_rows(args: Sequence[Any], times: int) -> list[Any]:
    """Repeat each datum of a batch, so that its copies are rows in succession."""
    num = len(args[0])
    return [
        part.repeat_interleave(times, 0) if has_row_per_datum(part, num) else part for part in args
    ]
