"""Describe a tensor that is not finite: in how many entries, and for which data of the batch."""

from collections.abc import Sequence, Set
from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Bool, Shaped
from torch import Tensor

from ..trees import leaves_of

__all__ = ["NonFiniteTensor", "StepBatch"]

_MAX_LISTED = 5
"""How many data a message names by number; it counts the rest."""


@dataclass(frozen=True)
class NonFiniteTensor:
    """A tensor that is not finite.

    Attributes:
        name: what the tensor is, in words.
        problem: whether it is NaN, infinite, or both, and in how many entries.
        rows: the data of the batch that these entries belong to; None if unknown.
        is_zero_density: whether all these entries are minus infinity, as the logarithm of 0 is.
    """

    name: str
    problem: str
    rows: frozenset[int] | None
    is_zero_density: bool

    @staticmethod
    def find(
        name: str, tensor: Shaped[Tensor, "..."], rows: frozenset[int] | None = None
    ) -> "NonFiniteTensor | None":
        """Describe what is not finite in a tensor; None if all entries are finite."""
        bad = ~tensor.detach().isfinite()
        num = int(bad.sum())
        if not num:
            return None
        entries = f" in {num} of {bad.numel()} entries" if bad.numel() > 1 else ""
        is_zero = bool((tensor[bad] == -torch.inf).all())
        return NonFiniteTensor(name, _kind(tensor) + entries, rows, is_zero)


@dataclass(frozen=True)
class StepBatch:
    """The batch of a step: its size, and which of its data are not finite.

    Attributes:
        size: number of data; None if the first tensor among the arguments has no rows.
        kind: whether the data hold NaN or infinite numbers; empty if all are finite.
        bad_rows: the data that are not finite.
        numbers: numbers of the data in the whole data set; None if unknown.
    """

    size: int | None
    kind: str
    bad_rows: frozenset[int]
    numbers: Sequence[int] | None = None

    @staticmethod
    def from_arguments(args: Any, numbers: Sequence[int] | None = None) -> "StepBatch":
        """Find the data among arguments: the tensors with a row for each datum."""
        tensors = [each for each in leaves_of(args) if isinstance(each, Tensor)]
        if not tensors or not tensors[0].ndim:
            return StepBatch(None, "", frozenset())
        size = len(tensors[0])
        parts = [each for each in tensors if each.ndim and len(each) == size]
        bad = torch.zeros(size, dtype=torch.bool)
        for part in parts:
            bad |= _any_along(~part.detach().isfinite(), 0).cpu()
        kinds = [kind for kind in map(_kind, parts) if kind]
        kind = kinds[0] if len(set(kinds)) == 1 else "NaN or infinite" if kinds else ""
        known = numbers if numbers is not None and len(numbers) == size else None
        return StepBatch(size, kind, _indices(bad), known)

    def find_rows(self, bad: Bool[Tensor, "..."], dim: int, frame: Any) -> frozenset[int] | None:
        """The data that some entries of a tensor belong to; None if unknown.

        Arguments:
            bad: marks the entries.
            dim: the dimension over data, from the right, if the plate has one.
            frame: Pyro's frame of the plate over data; None outside the plate.
        """
        if frame is None:
            return None
        if frame.dim is None:  # the plate is a loop
            return frozenset({frame.counter - 1})
        if bad.dim() < -dim or bad.shape[dim] != frame.size:
            return None
        rows = _indices(_any_along(bad, dim))
        if self.size is None or frame.size % self.size:
            return rows
        repeats = frame.size // self.size  # objectives may draw several samples of each datum
        return frozenset(row // repeats for row in rows)

    def describe(self, found: NonFiniteTensor) -> str:
        """A clause: which tensor is not finite, how, and for which data."""
        data = self._describe_rows(found.rows)
        return f"{found.name} is {found.problem}{data}{self.describe_input(found.rows)}"

    def describe_input(self, rows: frozenset[int] | None) -> str:
        """A clause on what is not finite in the batch itself, if that may explain these rows."""
        may_explain = rows is None or rows <= self.bad_rows or len(rows) == self.size
        if not (self.bad_rows and may_explain):
            return ""
        holds = "NaN" if self.kind == "NaN" else f"{self.kind} numbers"
        return f", where the batch holds {holds} in {self._list_data(self.bad_rows)}"

    def _describe_rows(self, rows: frozenset[int] | None) -> str:
        if rows is None:
            return ""
        if len(rows) == self.size and len(rows) > 1:
            return f", for all {self.size} data of the batch"
        return f", for {self._list_data(rows)}{'' if self.numbers else ' of the batch'}"

    def _list_data(self, rows: frozenset[int]) -> str:
        return _list_data(rows if self.numbers is None else {self.numbers[row] for row in rows})


def _kind(tensor: Tensor) -> str:
    has_nan, has_infinity = bool(tensor.isnan().any()), bool(tensor.isinf().any())
    kinds = ["NaN"] * has_nan + ["infinite"] * has_infinity
    return " or ".join(kinds)


def _any_along(bad: Bool[Tensor, "..."], dim: int) -> Bool[Tensor, "along"]:
    return bad.movedim(dim, 0).flatten(1).any(1) if bad.dim() > 1 else bad


def _indices(bad: Bool[Tensor, "along"]) -> frozenset[int]:
    return frozenset(bad.nonzero().flatten().tolist())


def _list_data(rows: Set[int]) -> str:
    numbers: Sequence[str] = [str(row) for row in sorted(rows)]
    if len(numbers) == 1:
        return f"datum {numbers[0]}"
    if len(numbers) > _MAX_LISTED:
        return f"data {', '.join(numbers[:_MAX_LISTED])} and {len(numbers) - _MAX_LISTED} more"
    return f"data {', '.join(numbers[:-1])} and {numbers[-1]}"
