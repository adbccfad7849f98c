"""The parameters that a pair trains, in the order in which its programs meet them."""

from typing import Any

from pyro.poutine.messenger import Messenger
from torch import Tensor

__all__ = ["Gradients", "ParameterCollector", "Parameters"]

Gradients = list[Tensor | None]
"""The gradient in each parameter; None where there is none."""


class Parameters:
    """The unconstrained parameters met so far, each once."""

    def __init__(self) -> None:
        self._by_id: dict[int, Tensor] = {}

    def __len__(self) -> int:
        return len(self._by_id)

    @property
    def tensors(self) -> list[Tensor]:
        """All of them, in the order in which they were met."""
        return list(self._by_id.values())

    def add(self, parameter: Tensor) -> None:
        """Add a parameter that is trained, unless it is known; drops a gradient that it holds."""
        if id(parameter) not in self._by_id and parameter.requires_grad:
            parameter.grad = None
            self._by_id[id(parameter)] = parameter

    def take_gradients(self) -> Gradients:
        """Return the gradient in each parameter, and clear it there."""
        gradients = [parameter.grad for parameter in self._by_id.values()]
        self.clear_gradients()
        return gradients

    def clear_gradients(self) -> None:
        """Set all gradients to None."""
        for parameter in self._by_id.values():
            parameter.grad = None


class ParameterCollector(Messenger):
    """A handler of effects that adds each ``pyro.param`` of a program to the parameters.

    Arguments:
        parameters: where to add them.
    """

    def __init__(self, parameters: Parameters) -> None:
        super().__init__()
        self._parameters = parameters

    def _pyro_post_param(self, msg: Any) -> None:
        value = msg["value"]
        self._parameters.add(value.unconstrained() if hasattr(value, "unconstrained") else value)
