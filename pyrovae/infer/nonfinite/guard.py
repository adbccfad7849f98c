"""Detect steps whose loss or gradient is not finite, on the device, and block their updates."""

from collections.abc import Sequence
from math import isfinite
from typing import Any, Literal, NamedTuple

import torch
from jaxtyping import Bool, Int
from torch import Tensor

from ..parallel.fsdp import sum_each

__all__ = ["Guard", "GuardReport", "NonFinite", "StepRecord", "is_finite"]

NonFinite = Literal["stop", "skip"]
"""What to do at a step whose loss or gradient is not finite: stop training, or skip the step."""

_CHECK_EVERY = 100
"""Steps between two checks of the counts; each check waits for the device."""

_MAX_BYTES = 2**26
"""Limit on the memory that recorded arguments take; beyond it, a check comes early."""

_STEPS, _BAD, _FIRST, _RUN, _BLOCKED = range(5)


class GuardReport(NamedTuple):
    """Counts of the steps since the previous report.

    Attributes:
        num_steps: how many steps there were.
        num_bad: how many of them were not finite.
        first_bad: number of the first step that was not finite, from 1.
        run_length: how many steps in a row, up to the last, were not finite; the run may have begun
            before the previous report.
    """

    num_steps: int
    num_bad: int
    first_bad: int
    run_length: int


class StepRecord(NamedTuple):
    """What it takes to run a step again.

    Attributes:
        step: number of the step.
        args: its positional arguments.
        kwargs: its keyword arguments.
        random: states of torch's random generators at its start.
    """

    step: int
    args: tuple[Any, ...]
    kwargs: dict[str, Any]
    random: list[Tensor]

    @classmethod
    def at_start(cls, step: int, args: tuple[Any, ...], kwargs: dict[str, Any]) -> "StepRecord":
        """Record a step that is about to begin."""
        random = [torch.get_rng_state()]
        if torch.cuda.is_initialized():
            random += torch.cuda.get_rng_state_all()
        return cls(step, args, kwargs, random)


class Guard:
    """Counts, on the device, the steps whose loss or gradient is not finite, and blocks updates.

    With the policy ``"stop"``, the guard blocks all updates from the first such step to the next
    check, so that parameters stay as they were before that step. With ``"skip"`` it blocks the
    updates of such steps alone. It records the arguments of all steps since the last check, so that
    the first bad step can be run again.

    Arguments:
        policy: stop or skip.
        device: device of the parameters.
        checks_loss: whether the loss counts; not for losses that are infinite by design.

    Attributes:
        counts: the counts, on the device; compiled steps update them.
        stops: whether the policy is to stop.
    """

    def __init__(
        self, policy: NonFinite, device: torch.device, *, checks_loss: bool = True
    ) -> None:
        self.counts = torch.zeros(5, dtype=torch.long, device=device)
        self.stops = policy == "stop"
        self._checks_loss = checks_loss
        self._records: list[StepRecord] = []
        self._num_bytes = 0
        self._was_blocked: bool | None = None

    def record(self, step: StepRecord) -> None:
        """Keep the record of a step until the next report."""
        self._records.append(step)
        for each in step.args:
            if isinstance(each, Tensor):
                self._num_bytes += each.nbytes

    @property
    def is_due(self) -> bool:
        """Whether it is time for a report."""
        return len(self._records) >= _CHECK_EVERY or self._num_bytes > _MAX_BYTES

    def count(self, losses: Sequence[Tensor], gradients: Sequence[Tensor]) -> None:
        """Count a step that is run as ordinary Python.

        The CPU is not waited for, and counts its own steps in a third of the time of
        :meth:`count_step`.
        """
        checked = [*losses, *gradients] if self._checks_loss else gradients
        if not (self.counts.is_cpu and all(type(x) is Tensor and x.is_cpu for x in checked)):
            self.count_step(self.counts, losses, gradients)
            return
        bad = not all(isfinite(x.sum().item()) for x in checked)
        steps, num_bad, first, run, _ = self.counts.tolist()
        blocked = bad or (self.stops and num_bad > 0)
        steps += 1
        first = steps if bad and not num_bad else first
        counts = [steps, num_bad + bad, first, run + 1 if bad else 0, blocked]
        self.counts.copy_(torch.tensor(counts))
        self._was_blocked = blocked

    def count_step(
        self, counts: Int[Tensor, "5"], losses: Sequence[Tensor], gradients: Sequence[Tensor]
    ) -> Bool[Tensor, ""]:
        """Count a step, by tensor operations alone, and return whether its update is blocked.

        Arguments:
            counts: the counts of this guard, or the tensor that stands for them in a graph; updated
                in place.
            losses: losses of the step.
            gradients: its gradients.
        """
        self._was_blocked = None
        bad = ~is_finite([*losses, *gradients] if self._checks_loss else gradients)
        steps, num_bad, first, run, _ = counts.unbind()
        steps = steps + 1
        blocked = bad | (num_bad > 0) if self.stops else bad
        first = torch.where((num_bad == 0) & bad, steps, first)
        run = torch.where(bad, run + 1, 0)
        counts.copy_(torch.stack([steps, num_bad + bad, first, run, blocked.long()]))
        return blocked

    def was_blocked(self) -> bool:
        """Whether the update of the step that was counted last is blocked; waits for the device."""
        return bool(self.blocked) if self._was_blocked is None else self._was_blocked

    @property
    def blocked(self) -> Bool[Tensor, ""]:
        """Whether the update of the last step was blocked."""
        return self.counts[_BLOCKED] > 0

    def report(self) -> tuple[GuardReport, StepRecord | None]:
        """Return the counts and the first bad step, if any, and start counting anew.

        This waits for the device.
        """
        found = GuardReport(*self.counts[:_BLOCKED].tolist())
        first_bad = self._records[found.first_bad - 1] if found.num_bad else None
        self._records, self._num_bytes = [], 0
        self.counts[:_RUN] = 0
        return found, first_bad


def is_finite(tensors: Sequence[Tensor]) -> Bool[Tensor, ""]:
    """Whether all entries are finite, and their sum does not overflow.

    A sum is not finite if an entry is not, and takes a twentieth of the time of a check of each
    entry.
    """
    if not tensors:
        return torch.ones((), dtype=torch.bool)
    return torch.stack(sum_each(tensors)).isfinite().all()
