"""A valid call, whose arguments can be replaced by nonsense."""

from collections.abc import Callable
from dataclasses import dataclass
from functools import cache
from typing import Any

import torch

from pyrovae import models

__all__ = ["TINY", "Call", "Make", "const", "data", "labels", "method", "model", "pair", "used"]

Make = Callable[[], Any]
"""A function that makes a value."""

TINY = {"name": "mlp", "hidden": [4]}
"""A network that is quick to build and to train."""


@dataclass(frozen=True)
class Call:
    """A call that succeeds.

    Attributes:
        function: what is called, with keyword arguments.
        arguments: a function that makes each valid argument.
    """

    function: Callable[..., Any]
    arguments: dict[str, Make]

    def __call__(self, **replaced: Make) -> Any:
        """Call the function with some arguments replaced."""
        made = {name: make() for name, make in {**self.arguments, **replaced}.items()}
        return self.function(**made)


def const(value: Any) -> Make:
    """A function that returns this value."""
    return lambda: value


def data() -> torch.Tensor:
    """Eight data of six numbers."""
    return torch.linspace(-1, 1, 48).reshape(8, 6).sin()


def labels() -> torch.Tensor:
    """A label of three classes for each datum."""
    return torch.arange(8) % 3


@cache
def model(kind: str) -> Any:
    """A small model of each family. Valid calls do not change what it computes."""
    torch.manual_seed(0)
    parts: dict[str, Any] = {"encoder": TINY, "decoder": TINY, "likelihood": "Normal"}
    match kind:
        case "HierarchicalVAE":
            return models.HierarchicalVAE((6,), (3, 2), hidden=(4,), **parts)
        case "MixtureVAE":
            return models.MixtureVAE((6,), 2, 3, **parts)
        case "ConditionalVAE":
            return models.ConditionalVAE((6,), 2, num_classes=3, width=4, **parts)
        case "SemiSupervisedVAE":
            return models.SemiSupervisedVAE((6,), 2, 3, width=4, **parts)
        case "ProbabilisticPCA":
            return models.ProbabilisticPCA((6,), 2)
        case _:
            return getattr(models, kind)((6,), 2, **parts)


pair: dict[str, Make] = {
    "model": lambda: model("VAE").model,
    "guide": lambda: model("VAE").guide,
}
"""The model and the guide of a VAE."""


def method(kind: str, name: str, given: tuple[str, ...] = ()) -> Callable[..., Any]:
    """A method of a model; the arguments in ``given`` are passed by position."""

    def call(**arguments: Any) -> Any:
        first = [arguments.pop(each) for each in given]
        return getattr(model(kind), name)(*first, **arguments)

    return call


def used(make: Callable[..., Any], use: Callable[[Any], Any]) -> Callable[..., Any]:
    """Make an object and use it once, since some nonsense would be noticed only then."""
    return lambda **arguments: use(make(**arguments))
