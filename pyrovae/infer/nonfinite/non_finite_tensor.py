"""Where numbers are NaN or infinite, in words: in how many entries, and for which data."""

from collections.abc import Sequence, Set
from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Bool, Shaped
from torch import Tensor
from torch.utils._pytree import tree_leaves

__all__ = ["NonFiniteTensor", "StepBatch"]

_MOST = 5
"""Data that are named by number; others are counted."""


@dataclass(frozen=True)
class NonFiniteTensor:
    """A tensor that is not finite.

    Attributes:
        what: in words.
        how: whether it is NaN, infinite, or both, and in how many entries.
        rows: the data of the batch that these belong to; None where that is not known.
        is_zero_density: whether all of them are minus infinity, as the logarithm of 0 is.
    """

    what: str
    how: str
    rows: frozenset[int] | None = None
    is_zero_density: bool = False

    @staticmethod
    def of(
        what: str, tensor: Shaped[Tensor, "..."], rows: frozenset[int] | None = None
    ) -> "NonFiniteTensor | None":
        """What is not finite in a tensor, if anything."""
        wrong = ~tensor.detach().isfinite()
        num = int(wrong.sum())
        if not num:
            return None
        entries = f" in {num} of {wrong.numel()} entries" if wrong.numel() > 1 else ""
        is_zero = bool((tensor[wrong] == -torch.inf).all())
        return NonFiniteTensor(what, _kind(tensor) + entries, rows, is_zero)


@dataclass(frozen=True)
class StepBatch:
    """The data of a step.

    Attributes:
        size: how many there are; None where the first tensor among the arguments has no rows.
        kind: whether NaN or infinite numbers are among them; empty where all are finite.
        wrong: the data that hold them.
        numbers: of the data among all data; None where that is not known.
    """

    size: int | None
    kind: str
    wrong: frozenset[int]
    numbers: Sequence[int] | None = None

    @staticmethod
    def of(args: Any, numbers: Sequence[int] | None = None) -> "StepBatch":
        """The data among arguments: tensors with a row for each of them."""
        tensors = [each for each in tree_leaves(args) if isinstance(each, Tensor)]
        if not tensors or not tensors[0].ndim:
            return StepBatch(None, "", frozenset())
        size = len(tensors[0])
        parts = [each for each in tensors if each.ndim and len(each) == size]
        wrong = torch.zeros(size, dtype=torch.bool)
        for part in parts:
            wrong |= _any_along(~part.detach().isfinite(), 0).cpu()
        kinds = [kind for kind in map(_kind, parts) if kind]
        kind = kinds[0] if len(set(kinds)) == 1 else "NaN or infinite" if kinds else ""
        known = numbers if numbers is not None and len(numbers) == size else None
        return StepBatch(size, kind, _numbers(wrong), known)

    def rows(self, wrong: Bool[Tensor, "..."], dim: int, frame: Any) -> frozenset[int] | None:
        """The data that entries of a tensor belong to.

        Arguments:
            wrong: which entries.
            dim: the dimension over data, from the right, where the plate has one.
            frame: Pyro's frame of the plate over data; None outside of it.
        """
        if frame is None:
            return None
        if frame.dim is None:  # a loop
            return frozenset({frame.counter - 1})
        if wrong.dim() < -dim or wrong.shape[dim] != frame.size:
            return None
        numbers = _numbers(_any_along(wrong, dim))
        if self.size is None or frame.size % self.size:
            return numbers
        repeats = frame.size // self.size  # several samples of a datum, side by side
        return frozenset(number // repeats for number in numbers)

    def clause(self, found: NonFiniteTensor) -> str:
        """What is not finite, how, and for which data."""
        return f"{found.what} is {found.how}{self._for(found.rows)}{self.note(found.rows)}"

    def note(self, rows: frozenset[int] | None) -> str:
        """What the batch holds that is not finite, where it may have to do with these data."""
        may_come_of_it = rows is None or rows <= self.wrong or len(rows) == self.size
        if not (self.wrong and may_come_of_it):
            return ""
        holds = "NaN" if self.kind == "NaN" else f"{self.kind} numbers"
        return f", where the batch holds {holds} in {self._listed(self.wrong)}"

    def _for(self, rows: frozenset[int] | None) -> str:
        if rows is None:
            return ""
        if len(rows) == self.size and len(rows) > 1:
            return f", for all {self.size} data of the batch"
        return f", for {self._listed(rows)}{'' if self.numbers else ' of the batch'}"

    def _listed(self, rows: frozenset[int]) -> str:
        return _listed(rows if self.numbers is None else {self.numbers[row] for row in rows})


def _kind(tensor: Tensor) -> str:
    has_nan, has_infinity = bool(tensor.isnan().any()), bool(tensor.isinf().any())
    kinds = ["NaN"] * has_nan + ["infinite"] * has_infinity
    return " or ".join(kinds)


def _any_along(wrong: Bool[Tensor, "..."], dim: int) -> Bool[Tensor, "along"]:
    return wrong.movedim(dim, 0).flatten(1).any(1) if wrong.dim() > 1 else wrong


def _numbers(wrong: Bool[Tensor, "along"]) -> frozenset[int]:
    return frozenset(wrong.nonzero().flatten().tolist())


def _listed(rows: Set[int]) -> str:
    numbers: Sequence[str] = [str(row) for row in sorted(rows)]
    if len(numbers) == 1:
        return f"datum {numbers[0]}"
    if len(numbers) > _MOST:
        return f"data {', '.join(numbers[:_MOST])} and {len(numbers) - _MOST} more"
    return f"data {', '.join(numbers[:-1])} and {numbers[-1]}"
