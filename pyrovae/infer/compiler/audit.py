"""Compare a recorded or compiled graph with its program, on the same noise.

Results agree if they differ by what rounding explains. First by a small part of what they are, or
of how much a tensor is changed. Where that is not so, because large terms cancel, by what the
program itself changes if its parameters are changed in their last digits.
"""

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor

from ..trees import leaves_of
from .preserve import Snapshot

__all__ = ["HALF_PRECISION", "Outcome", "agree"]

_TOLERANCE = {torch.float64: 1e-8, torch.float32: 1e-4}
HALF_PRECISION = 0.02
"""Largest error relative to the largest entry; for half precision, and where it is asked for."""

_NUDGE = 8.0
"""By how many units in the last place parameters are moved to see what rounding may do."""

_MARGIN = 64.0
"""How many times the effect of a nudge still counts as rounding."""


class Outcome:
    """What a run has returned, and what it has done to tensors and random numbers.

    Arguments:
        results: a tree of tensors, in which None may stand for an absent one.
        changed: the tensors that it may change.
    """

    def __init__(self, results: Any, changed: Sequence[Tensor]) -> None:
        self.results = results
        self.snapshot = Snapshot(changed)
        self.values = [None if leaf is None else leaf.detach() for leaf in leaves_of(results)]
        self.values += [value for _, value in self.snapshot.values]


def agree(
    want: Outcome,
    got: Outcome,
    before: Snapshot,
    run_again: Callable[[bool], Outcome],
    tolerance: float | None,
) -> bool:
    """Whether two outcomes differ by no more than rounding.

    Arguments:
        want: that of the program.
        got: that of its graph.
        before: the same tensors before either.
        run_again: the outcome of another run of the program; from parameters that are nudged at
            random, if its argument is True.
        tolerance: largest error relative to the largest entry, or change; by type unless given.
    """
    if not torch.equal(want.snapshot.torch_state, got.snapshot.torch_state):
        return False
    starts: list[Tensor | None] = [None] * (len(want.values) - len(before.values))
    starts += [value for _, value in before.values]
    pairs = list(zip(want.values, got.values, starts, strict=True))
    doubtful = [place for place, pair in enumerate(pairs) if not _is_close(*pair, tolerance)]
    if any(not _is_comparable(pairs[place][0], pairs[place][1]) for place in doubtful):
        return False
    if not doubtful:
        return True
    again = run_again(False).values
    if not all(_is_close(want.values[i], again[i], starts[i], tolerance) for i in doubtful):
        return False  # the program itself does not do the same twice
    allowed = [0.0] * len(pairs)
    for _ in range(2):
        nudged = run_again(True).values
        for place in doubtful:
            effect = _distance(want.values[place], nudged[place])
            allowed[place] = max(allowed[place], _MARGIN * effect)
    return all(_distance(pairs[i][0], pairs[i][1]) <= allowed[i] for i in doubtful)


def nudge(tensors: Sequence[Tensor], generator: torch.Generator, epsilon: float | None) -> None:
    """Move each entry up or down in its last digits, at random.

    Arguments:
        tensors: of floating-point numbers.
        generator: draws the directions.
        epsilon: relative distance of two numbers; that of their type unless given.
    """
    with torch.no_grad():
        for tensor in tensors:
            if not tensor.numel():
                continue
            unit = torch.finfo(tensor.dtype).eps if epsilon is None else epsilon
            sign = torch.randint(0, 2, tensor.shape, generator=generator).to(tensor) * 2 - 1
            size = tensor.abs() + tensor.abs().mean()
            size = torch.where(size > 0, size, torch.ones_like(size))
            tensor.add_(_NUDGE * unit * sign * size)


def _is_close(
    want: Tensor | None, got: Tensor | None, start: Tensor | None, tolerance: float | None
) -> bool:
    if want is None or got is None:  # a compiled step keeps its gradients to itself
        return True
    if want.shape != got.shape or want.dtype != got.dtype:
        return False
    if not want.is_floating_point():
        return torch.equal(want, got)
    part = tolerance or _TOLERANCE.get(want.dtype, HALF_PRECISION)
    if start is None:
        allowed = part * _largest(want)
    else:
        rounding = 4 * torch.finfo(want.dtype).eps * _largest(start)
        allowed = part * _largest(want - start) + rounding
    return torch.allclose(want, got, rtol=0, atol=allowed, equal_nan=True)


def _is_comparable(want: Tensor | None, got: Tensor | None) -> bool:
    """Whether rounding may explain a difference."""
    assert want is not None
    assert got is not None
    return want.shape == got.shape and want.dtype == got.dtype and want.is_floating_point()


def _largest(x: Tensor) -> float:
    """The largest absolute value of the finite entries."""
    return float(x.detach().nan_to_num(0.0, 0.0, 0.0).abs().max()) if x.numel() else 0.0


def _distance(one: Tensor | None, other: Tensor | None) -> float:
    """The largest difference between two tensors; infinite where just one is not finite."""
    if one is None or other is None or one.shape != other.shape:
        return float("inf")
    alike = (one == other) | (one.isnan() & other.isnan())
    return float(torch.where(alike, 0.0, (one - other).abs()).nan_to_num(float("inf")).max())
