"""Compare a recorded or compiled graph with its program, on the same noise.

Results agree if they differ by what rounding explains. First by a small part of what they are, or
of how much a tensor is changed. Where that is not so, because large terms cancel, by what the
program itself changes if its parameters, and what each operator computes, are changed in their last
digits.
"""

from collections.abc import Callable, Sequence
from contextlib import nullcontext
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from ..trees import leaves_of
from .call import Call
from .preserve import Snapshot
from .rounding import move_in_last_digits, rounding_at_random
from .specialisations import Compiled, Specialisation

__all__ = ["HALF_PRECISION", "Audit", "Auditor", "Outcome", "agree"]

_TOLERANCE = {torch.float64: 1e-8, torch.float32: 1e-4}
HALF_PRECISION = 0.02
"""Largest error relative to the largest entry; for half precision, and where it is asked for."""

_DIGITS_OF_STATE, _DIGITS_OF_RESULT = 2, 32
"""By how many units in the last place each entry may differ in any case."""

_MARGIN = 16.0
"""How many times the effect of last digits still counts as rounding."""


@dataclass(frozen=True)
class Audit:
    """What came of the comparison of a graph with its program.

    Attributes:
        results: of the graph, which has also done what it does to tensors and random numbers; or
            of the program, likewise, where they differ.
        fault: what is wrong with the graph; empty where they agree.
        before: the tensors and random numbers before either.
    """

    results: Any
    fault: str
    before: Snapshot


class Auditor:
    """Runs a program and its graph on the same noise, and keeps the run of one of them.

    Arguments:
        function: the program. Run again it does the same, as far as tensors go.
        find_buffers: lists the buffers that it may change.
        tolerance: as in :func:`agree`.
    """

    def __init__(
        self,
        function: Callable[..., Any],
        find_buffers: Callable[[], Sequence[Tensor]],
        tolerance: float | None,
    ) -> None:
        self._function = function
        self._find_buffers = find_buffers
        self._tolerance = tolerance
        self._generator = torch.Generator().manual_seed(0)  # of last digits

    def __call__(self, found: Specialisation, call: Call, run: Callable[[], Any]) -> Audit:
        """Compare the program with a run of its graph."""
        assert found.recording is not None
        compiled = found.compiled
        changed = [*found.recording.writes, *self._find_buffers()]
        if compiled is not None:
            compiled.sync()
            changed += compiled.writes
        before = Snapshot(changed)
        want = Outcome(self._run_program(call, compiled), changed)
        before.restore()
        try:
            results = run()
        except Exception as error:
            results, line = None, (str(error).strip().splitlines() or [""])[0]
            fault = f"it stopped with {type(error).__name__}: {line}"
        else:
            fault = "its result differs from the program's"
        if compiled is not None:
            compiled.sync()
        if results is not None:
            got = Outcome(results, changed)
            was_run_again = False

            def run_again(is_rounded_at_random: bool) -> Outcome:
                nonlocal was_run_again
                was_run_again = True
                return self._run_again(found, call, before, is_rounded_at_random)

            if agree(want, got, before, run_again, self._tolerance):
                if was_run_again:
                    got.snapshot.restore()
                return Audit(results, "", before)
        want.snapshot.restore()
        return Audit(want.results, fault, before)

    def _run_program(self, call: Call, compiled: Compiled | None) -> Any:
        results = self._function(*call.args, **call.kwargs)
        return results if compiled is None or compiled.finish is None else compiled.finish(results)

    def _run_again(
        self, found: Specialisation, call: Call, before: Snapshot, is_rounded_at_random: bool
    ) -> "Outcome":
        """The outcome of the program, perhaps with other last digits."""
        assert found.recording is not None
        before.restore()
        kept = Snapshot([each for each in found.recording.reads if each.requires_grad])
        rounding: Any = nullcontext()
        if is_rounded_at_random:
            move_in_last_digits([tensor for tensor, _ in kept.values], self._generator)
            rounding = rounding_at_random(self._generator)
        try:
            with rounding:
                results = self._run_program(call, found.compiled)
            return Outcome(results, [tensor for tensor, _ in before.values])
        finally:
            kept.restore()


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
        run_again: the outcome of another run of the program; with last digits changed at random,
            if its argument is True.
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
        other = run_again(True).values
        for place in doubtful:
            effect = _distance(want.values[place], other[place])
            allowed[place] = max(allowed[place], _MARGIN * effect)
    return all(_distance(pairs[i][0], pairs[i][1]) <= allowed[i] for i in doubtful)


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
    digits = _DIGITS_OF_STATE if start is not None else _DIGITS_OF_RESULT
    few = min(part, digits * torch.finfo(want.dtype).eps)
    if torch.allclose(want, got, few, 0.0, equal_nan=True):
        return True  # within the bounds below, at a fraction of their cost
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
