"""How far rounding may move a result: run a program again, with each number moved a little.

This is stochastic arithmetic (Vignes, 1993, "A stochastic arithmetic for reliable scientific
computation"): where the results of two such runs differ, their digits were lost to rounding.
"""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import pyro
import torch
from torch import Tensor

from ..private_torch import TorchDispatchMode, returns_new_tensors
from ..trees import map_leaves

__all__ = ["move_in_last_digits", "rounding_at_random"]

_UNITS = 8.0
"""By how many units in the last place parameters are moved."""

_LARGEST_INTEGER = 2.0**11
"""Whole numbers up to this one are taken for numbers that were not rounded."""


@contextmanager
def rounding_at_random(generator: torch.Generator) -> Iterator[None]:
    """Within, the result of each operator is moved by a unit in the last place, at random.

    Whole numbers and draws stay as they are. Distributions do not validate values, which may now
    lie beyond the edge of a support.

    Arguments:
        generator: draws the directions; leaves torch's own generators alone.
    """
    with pyro.validation_enabled(False), _RoundedResults(generator):
        yield


@torch.no_grad()
def move_in_last_digits(tensors: Sequence[Tensor], generator: torch.Generator) -> None:
    """Move each entry up or down by a few units in the last place of its size or of the mean size.

    Arguments:
        tensors: of floating-point numbers.
        generator: draws the directions.
    """
    for tensor in tensors:
        if not tensor.numel():
            continue
        size = tensor.abs() + tensor.abs().mean()
        size = torch.where(size > 0, size, torch.ones_like(size))
        unit = torch.finfo(tensor.dtype).eps
        tensor.add_(_UNITS * unit * _draw_signs(tensor, generator) * size)


class _RoundedResults(TorchDispatchMode):
    """Moves the result of each operator that computes one."""

    def __init__(self, generator: torch.Generator) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self._generator = generator

    def __torch_dispatch__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: Any = None
    ) -> Any:
        results = func(*args, **(kwargs or {}))
        if _computes(func):
            map_leaves(self._move, results)
        return results

    def _move(self, result: Any) -> None:
        if type(result) is not Tensor or result.layout is not torch.strided:
            return
        if not result.is_floating_point() or not result.numel():
            return
        unit = torch.finfo(result.dtype).eps
        is_whole = (result == result.round()) & (result.abs() <= _LARGEST_INTEGER)
        is_exact = is_whole | ~result.isfinite()
        moved = result + unit * _draw_signs(result, self._generator) * result
        result.copy_(torch.where(is_exact, result, moved))


def _computes(func: Any) -> bool:
    """Whether an operator computes new numbers, rather than draw, view, or write in place."""
    return returns_new_tensors(func) and torch.Tag.nondeterministic_seeded not in func.tags


def _draw_signs(like: Tensor, generator: torch.Generator) -> Tensor:
    return torch.randint(0, 2, like.shape, generator=generator).to(like) * 2 - 1
