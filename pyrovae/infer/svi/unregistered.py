"""Networks that a program computes with and never registers, which Pyro leaves as they are."""

import warnings
from collections.abc import Sequence
from typing import Any

from torch import Tensor, nn

from ..compiler.watch import Watch
from .parameters import Parameters

__all__ = ["UnregisteredNetworks"]

_NUM_CHECKS = 3
"""Backward passes after which networks are searched; a search takes longer than a small step."""


class UnregisteredNetworks:
    """Names the networks that get a gradient, but are not parameters of the program.

    ``pyro.infer.SVI`` trains what ``pyro.param`` and ``pyro.module`` register, and so does
    :class:`~pyrovae.SVI`. A network that a program uses without registering it stays as it is,
    which is intended for a pretrained network, and a mistake otherwise.

    Arguments:
        roots: the model, the guide, and what else a step reads.
    """

    def __init__(self, roots: Sequence[Any]) -> None:
        self._watch = Watch(*roots)
        self._found: list[Tensor] = []
        self._num_checks = 0

    def check(self, parameters: Parameters) -> None:
        """Clear the gradients of unregistered networks after a backward pass; warn once of them."""
        for parameter in self._found:
            parameter.grad = None
        if self._num_checks == _NUM_CHECKS:
            return
        self._num_checks += 1
        known = {id(parameter) for parameter in parameters.tensors}
        found = [
            (name, parameter)
            for name, parameter in self._parameters()
            if parameter.grad is not None and id(parameter) not in known
        ]
        for _, parameter in found:
            parameter.grad = None
        if found and not self._found:
            more = f" and {len(found) - 1} more" if len(found) > 1 else ""
            warnings.warn(
                f"{found[0][0]}{more} of a network that model and guide use, but do not register, "
                "stays as it is, as in Pyro; register the network with pyro.module('name', "
                "network) to train it, or freeze it with network.requires_grad_(False)",
                UserWarning,
                stacklevel=2,
            )
        self._found += [parameter for _, parameter in found]

    def _parameters(self) -> list[tuple[str, Tensor]]:
        modules = (each for each in self._watch.objects() if isinstance(each, nn.Module))
        found: dict[int, tuple[str, Tensor]] = {}
        for module in modules:
            for name, parameter in module.named_parameters():
                found.setdefault(id(parameter), (f"{type(module).__name__}.{name}", parameter))
        return list(found.values())
