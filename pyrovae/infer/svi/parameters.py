"""The parameters that a pair trains, in the order in which its programs meet them."""

import torch
from torch import Tensor
from torch.utils.weak import WeakTensorKeyDictionary

__all__ = ["Gradients", "Parameters"]

Gradients = list[Tensor | None]
"""The gradient in each parameter; None where there is none."""


_trained = WeakTensorKeyDictionary()
"""The parameters that have had a gradient in a step of any SVI, as keys."""


class Parameters:
    """The unconstrained parameters met so far, each once."""

    def __init__(self) -> None:
        self._by_id: dict[int, Tensor] = {}
        self._names: dict[int, str] = {}
        self._met: set[int] = set()
        self._new: dict[str, Tensor] = {}
        self._untrained: dict[int, Tensor] = {}

    def __len__(self) -> int:
        return len(self._by_id)

    @property
    def tensors(self) -> list[Tensor]:
        """All of them, in the order in which they were met."""
        return list(self._by_id.values())

    @property
    def num_trained(self) -> int:
        """How many of them have had a gradient, in this SVI or in another."""
        if self._untrained:
            self._untrained = {i: p for i, p in self._untrained.items() if p not in _trained}
        return len(self._by_id) - len(self._untrained)

    def name(self, parameter: Tensor) -> str:
        """The name under which a program declared a parameter."""
        return self._names[id(parameter)]

    def begin_run(self) -> None:
        """Forget which parameters the last run of the program met, and clear all gradients."""
        self._met.clear()
        self._new.clear()
        self.clear_gradients()

    def add(self, name: str, parameter: Tensor) -> None:
        """Note that the program meets a parameter; drops a gradient that a new one holds.

        A parameter that needs no gradient is not trained. If the same run replaces a parameter that
        it has made, as autoguides do, the last one counts.
        """
        if id(parameter) not in self._by_id and parameter.requires_grad:
            parameter.grad = None
            if name in self._new:
                self._forget(self._new[name])
            self._by_id[id(parameter)] = parameter
            self._names[id(parameter)] = name
            self._untrained[id(parameter)] = parameter
            self._new[name] = parameter
        self._met.add(id(parameter))

    def replace(self, name: str, parameter: Tensor, old: Tensor) -> None:
        """Train a parameter of a network, with its gradient, in the place of a value unused."""
        if self._new.get(name) is old:
            self._forget(old)
        if id(parameter) not in self._by_id:
            self._by_id[id(parameter)] = parameter
            self._names[id(parameter)] = name
            self._untrained[id(parameter)] = parameter
        self._met.add(id(parameter))

    def _forget(self, parameter: Tensor) -> None:
        self._by_id.pop(id(parameter), None)
        self._names.pop(id(parameter), None)
        self._untrained.pop(id(parameter), None)

    def take_gradients(self) -> Gradients:
        """Return the gradient in each parameter, and clear it there.

        A parameter that the program has met, and that had a gradient in an earlier step, has the
        gradient zero where the loss does not depend on it, as in Pyro: the optimiser goes on by
        its momentum.
        """
        gradients: Gradients = []
        for key, parameter in self._by_id.items():
            gradient = parameter.grad
            if gradient is not None:
                if self._untrained.pop(key, None) is not None:
                    _trained[parameter] = True
            elif key in self._met and parameter in _trained:
                gradient = torch.zeros_like(parameter)
            gradients.append(gradient)
        self.clear_gradients()
        return gradients

    def clear_gradients(self) -> None:
        """Set all gradients to None."""
        for parameter in self._by_id.values():
            parameter.grad = None
