"""Weights that change with the number of steps taken."""

from dataclasses import dataclass
from typing import ClassVar

import torch
from jaxtyping import Float, Int
from torch import Tensor

from ...errors import InputError

__all__ = ["Cyclical", "Linear", "Weight", "weight_at"]


@dataclass(frozen=True)
class Linear:
    """From one weight to another in equal steps; then constant.

    Arguments:
        steps: how many it takes.
        start: weight at the first step.
        end: weight from step number ``steps`` on.
    """

    __pydantic_config__: ClassVar = {"extra": "forbid"}

    steps: int
    start: float = 0.0
    end: float = 1.0

    def __post_init__(self) -> None:
        if self.steps < 1:
            raise InputError(f"a linear schedule takes 1 step or more; got {self.steps}")

    def __call__(self, step: Int[Tensor, ""]) -> Float[Tensor, ""]:
        """The weight at a step, of which there have been so many before."""
        done = (step.to(torch.get_default_dtype()) / self.steps).clamp(max=1.0)
        return self.start + (self.end - self.start) * done


@dataclass(frozen=True)
class Cyclical:
    """Up from ``start`` to ``end``, and on from the start again (Fu et al. 2019).

    Arguments:
        period: steps in a cycle.
        cycles: how many there are; the weight is ``end`` afterwards.
        ramp: share of a cycle in which the weight rises; in the rest it is ``end``.
        start: weight at the first step of a cycle.
        end: weight at its last.
    """

    __pydantic_config__: ClassVar = {"extra": "forbid"}

    period: int
    cycles: int = 4
    ramp: float = 0.5
    start: float = 0.0
    end: float = 1.0

    def __post_init__(self) -> None:
        if self.period < 1 or self.cycles < 1 or not 0 < self.ramp <= 1:
            raise InputError(
                "a cyclical schedule has a period of 1 step or more, 1 cycle or more, and a ramp "
                f"above 0 and up to 1; got {self.period}, {self.cycles} and {self.ramp}"
            )

    def __call__(self, step: Int[Tensor, ""]) -> Float[Tensor, ""]:
        """The weight at a step, of which there have been so many before."""
        in_cycle = (step % self.period).to(torch.get_default_dtype()) / self.period
        done = (in_cycle / self.ramp).clamp(max=1.0)
        weight = self.start + (self.end - self.start) * done
        return torch.where(step < self.period * self.cycles, weight, self.end)


Weight = float | Linear | Cyclical
"""A constant weight, or one that changes with the step."""


def weight_at(weight: Weight, step: Int[Tensor, ""]) -> Float[Tensor, ""] | float:
    """The weight at a step."""
    return weight(step) if callable(weight) else weight
