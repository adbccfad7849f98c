"""Schedules: weights that change with the number of steps so far."""

from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from jaxtyping import Float, Int
from torch import Tensor

from ...arguments import as_real, as_whole, describe
from ...errors import InputError

__all__ = ["Cyclical", "Linear", "Weight", "as_weight", "weight_at"]


@dataclass(frozen=True)
class Linear:
    """A weight that changes linearly from ``start`` to ``end``, and then stays constant.

    Arguments:
        steps: number of steps to get there.
        start: weight at the first step.
        end: weight from step number ``steps`` on.
    """

    __pydantic_config__: ClassVar = {"extra": "forbid"}

    steps: int
    start: float = 0.0
    end: float = 1.0

    def __post_init__(self) -> None:
        _set(self, steps=as_whole("steps", self.steps, 1))
        _set(self, start=as_real("start", self.start), end=as_real("end", self.end))

    def __call__(self, step: Int[Tensor, ""]) -> Float[Tensor, ""]:
        """The weight after ``step`` steps."""
        progress = (step.to(torch.get_default_dtype()) / self.steps).clamp(max=1.0)
        return self.start + (self.end - self.start) * progress


@dataclass(frozen=True)
class Cyclical:
    """A weight that rises from ``start`` to ``end`` again in each cycle (Fu et al. 2019).

    Arguments:
        period: steps in a cycle.
        cycles: number of cycles; afterwards the weight is ``end``.
        ramp: share of a cycle in which the weight rises; for the rest it is ``end``.
        start: weight at the first step of a cycle.
        end: weight at the last step of a cycle.
    """

    __pydantic_config__: ClassVar = {"extra": "forbid"}

    period: int
    cycles: int = 4
    ramp: float = 0.5
    start: float = 0.0
    end: float = 1.0

    def __post_init__(self) -> None:
        _set(self, period=as_whole("period", self.period, 1))
        _set(self, cycles=as_whole("cycles", self.cycles, 1))
        _set(self, ramp=as_real("ramp", self.ramp, high=1, above=0))
        _set(self, start=as_real("start", self.start), end=as_real("end", self.end))

    def __call__(self, step: Int[Tensor, ""]) -> Float[Tensor, ""]:
        """The weight after ``step`` steps."""
        in_cycle = (step % self.period).to(torch.get_default_dtype()) / self.period
        progress = (in_cycle / self.ramp).clamp(max=1.0)
        weight = self.start + (self.end - self.start) * progress
        return torch.where(step < self.period * self.cycles, weight, self.end)


Weight = float | Linear | Cyclical
"""A constant weight, or one that changes with the step."""


def as_weight(name: str, value: Any) -> Weight:
    """A weight that is finite, or a schedule.

    Raises:
        InputError: if it is something else.
    """
    if isinstance(value, Linear | Cyclical):
        return value
    if callable(value):
        raise InputError(f"{name} is {describe(value)}; it must be a number, Linear or Cyclical")
    return as_real(name, value)


def _set(schedule: Linear | Cyclical, **plain: int | float) -> None:
    """Set attributes of a frozen schedule to their plain form."""
    for name, value in plain.items():
        object.__setattr__(schedule, name, value)


def weight_at(weight: Weight, step: Int[Tensor, ""]) -> Float[Tensor, ""] | float:
    """The weight after ``step`` steps, of a schedule or a constant."""
    return weight(step) if callable(weight) else weight
