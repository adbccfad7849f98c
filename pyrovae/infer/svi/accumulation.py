"""Gradients accumulated over several steps, whose mean makes one update."""

from collections.abc import Sequence

import torch
from jaxtyping import Bool
from torch import Tensor

from ...errors import InputError
from ..parallel.fsdp import shard_like
from .parameters import Gradients
from .state import State

__all__ = ["GradientAccumulator"]


class GradientAccumulator:
    """Adds up the gradients of some steps, apart from steps that are blocked.

    Arguments:
        num_steps: steps whose mean gradient makes one update.
    """

    def __init__(self, num_steps: int) -> None:
        if num_steps < 1:
            raise InputError(f"accumulate is {num_steps}; it must be 1 or more")
        self.num_steps = num_steps
        self._sums: dict[int, Tensor] = {}
        self._num_added = torch.zeros((), dtype=torch.long)

    def is_due(self, step: int) -> bool:
        """Whether an update follows the step of this number, counted from 1."""
        return step % self.num_steps == 0

    def add(self, gradients: Gradients, blocked: Bool[Tensor, ""]) -> None:
        """Add the gradients of a step, or zeros where it is blocked."""
        for place, gradient in enumerate(gradients):
            if gradient is not None:
                share = torch.where(blocked, 0.0, gradient / self.num_steps)
                total = self._sums.get(place)
                self._sums[place] = share if total is None else total + share
        self._num_added = self._num_added.to(blocked.device) + ~blocked

    def take_mean(self, num_parameters: int) -> tuple[Gradients, Bool[Tensor, ""]]:
        """The mean over the steps that were not blocked, and whether all were; starts anew."""
        # The sums hold the mean over all steps: scale it to that over those that were added.
        factor = self.num_steps / self._num_added.clamp_min(1)
        gradients = [
            None if total is None else total * factor.to(total.dtype)
            for total in map(self._sums.get, range(num_parameters))
        ]
        is_empty = self._num_added == 0
        self._sums.clear()
        self._num_added = torch.zeros_like(self._num_added)
        return gradients, is_empty

    def save(self, state: State) -> None:
        """Add the sums to a state."""
        state.add("sum", [self._sums[place] for place in sorted(self._sums)])
        state.record["sums"] = sorted(self._sums)
        state.add("num_summed", [self._num_added])

    def load(self, state: State, parameters: Sequence[Tensor]) -> None:
        """Take the sums from a state."""
        (self._num_added,) = state.tensors_of("num_summed")
        self._sums = {
            place: shard_like(value, parameters[place])
            for place, value in zip(state.record["sums"], state.tensors_of("sum"), strict=True)
        }
