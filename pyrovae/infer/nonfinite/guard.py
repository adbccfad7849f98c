"""Losses and gradients that are not finite: noticed where they are computed, kept from updates."""

from collections.abc import Sequence
from typing import Any, Literal, NamedTuple

import torch
from jaxtyping import Bool, Int
from torch import Tensor

from ..parallel.fsdp import sum_each

__all__ = ["Guard", "GuardReport", "NonFinite", "StepRecord", "is_finite"]

NonFinite = Literal["stop", "skip"]
"""What becomes of a step whose loss or gradient is not finite: it is the last, or left out."""

CHECK_EVERY = 100
"""Steps from one look at the counts to the next; each look waits for the device."""

_MOST_BYTES = 2**26
"""What the arguments of steps may take that are kept until the next look."""

_STEPS, _BAD, _FIRST, _RUN, _BLOCKED = range(5)


class GuardReport(NamedTuple):
    """Counts of the steps since the report before.

    Attributes:
        num_steps: how many steps there were.
        num_bad: how many of them were not finite.
        first_bad: number of the first step that was not finite, from 1.
        run_length: how many steps in a row, up to the last, were not finite; a run may have begun
            before the previous report.
    """

    num_steps: int
    num_bad: int
    first_bad: int
    run_length: int


class StepRecord(NamedTuple):
    """What a step was given.

    Attributes:
        step: its number.
        args: its arguments.
        kwargs: those by name.
        random: states of torch's random generators at its start.
    """

    step: int
    args: tuple[Any, ...]
    kwargs: dict[str, Any]
    random: list[Tensor]

    @classmethod
    def at_start(cls, step: int, args: tuple[Any, ...], kwargs: dict[str, Any]) -> "StepRecord":
        """What a step that begins now is given."""
        random = [torch.get_rng_state()]
        if torch.cuda.is_initialized():
            random += torch.cuda.get_rng_state_all()
        return cls(step, args, kwargs, random)


class Guard:
    """Counts, on the device, the steps whose loss or gradient is not finite, and blocks updates.

    Where the policy is to stop, all updates are blocked from the first such step to the next look,
    so that parameters stay what they were before it; where it is to skip, those of such steps
    alone. Steps are kept with what they were given, so that the first bad one can be run again.

    Arguments:
        policy: stop or skip.
        device: that of the parameters.

    Attributes:
        counts: on the device; a part of compiled steps.
        stops: whether the policy is to stop.
    """

    def __init__(self, policy: NonFinite, device: torch.device) -> None:
        self.counts = torch.zeros(5, dtype=torch.long, device=device)
        self.stops = policy == "stop"
        self._taken: list[StepRecord] = []
        self._num_bytes = 0

    def record(self, taken: StepRecord) -> None:
        """Keep what a step was given."""
        self._taken.append(taken)
        self._num_bytes += sum(each.nbytes for each in taken.args if isinstance(each, Tensor))

    @property
    def is_due(self) -> bool:
        """Whether it is time to look."""
        return len(self._taken) >= CHECK_EVERY or self._num_bytes > _MOST_BYTES

    def count_step(self, counts: Int[Tensor, "5"], tensors: Sequence[Tensor]) -> Bool[Tensor, ""]:
        """Count a step, as a function of tensors; whether its update is blocked.

        Arguments:
            counts: those of this guard, or what stands for them in a graph.
            tensors: losses and gradients of the step.
        """
        bad = ~is_finite(tensors)
        steps, num_bad, first, run, _ = counts.unbind()
        steps = steps + 1
        blocked = bad | (num_bad > 0) if self.stops else bad
        first = torch.where((num_bad == 0) & bad, steps, first)
        run = torch.where(bad, run + 1, 0)
        counts.copy_(torch.stack([steps, num_bad + bad, first, run, blocked.long()]))
        return blocked

    @property
    def blocked(self) -> Bool[Tensor, ""]:
        """Whether the update of the last step was blocked."""
        return self.counts[_BLOCKED] > 0

    def report(self) -> tuple[GuardReport, StepRecord | None]:
        """Wait for the device, and begin anew; with the first step that was bad, if one was."""
        found = GuardReport(*self.counts[:_BLOCKED].tolist())
        taken = self._taken[found.first_bad - 1] if found.num_bad else None
        self._taken, self._num_bytes = [], 0
        self.counts[:_RUN] = 0
        return found, taken


def is_finite(tensors: Sequence[Tensor]) -> Bool[Tensor, ""]:
    """Whether all entries are finite, and not so large that their sum is none.

    A sum is not finite where an entry is not, and is had at twenty times the speed of a look at
    each entry.
    """
    return torch.stack(sum_each(tensors)).isfinite().all()
