"""What a program is, and the registry of all programs."""

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from pyro.infer import Trace_ELBO
from pyro.optim import Adam
from torch import Tensor, nn

__all__ = ["PROGRAMS", "Batches", "Program", "Run", "adam", "always", "cycle", "program"]

Batches = Callable[[int], tuple[tuple[Any, ...], dict[str, Any]]]
"""The positional arguments and the arguments by name of the step of a number, counted from 0."""


def adam(lr: float = 0.01) -> Any:
    """Pyro's Adam."""
    return Adam({"lr": lr})


@dataclass(frozen=True)
class Run:
    """All that a training needs, made afresh.

    Attributes:
        model: a Pyro model.
        guide: its guide.
        batches: the arguments of each step.
        loss: an ELBO of Pyro, or a function of model, guide and the arguments of a step.
        optim: an optimiser of Pyro.
        loss_and_grads: what computes a loss that is a function, and its gradients.
        before_step: called with the number of the step before it, to change attributes.
        after_step: called with the number of the step after it, to step a schedule.
        modules: networks whose buffers are compared, such as running means.
        then: trainings whose step follows each step of this one, such as an auxiliary loss.
    """

    model: Callable[..., Any]
    guide: Callable[..., Any]
    batches: Batches
    loss: Any = field(default_factory=Trace_ELBO)
    optim: Any = field(default_factory=adam)
    loss_and_grads: Callable[..., Any] | None = None
    before_step: Callable[[int], None] | None = None
    after_step: Callable[[int], None] | None = None
    modules: tuple[nn.Module, ...] = ()
    then: tuple["Run", ...] = ()


@dataclass(frozen=True)
class Program:
    """A model and a guide as Pyro's users write them.

    Attributes:
        name: its name in the table.
        build: makes it, with its data, from the random numbers of torch and from fixed seeds.
    """

    name: str
    build: Callable[[], Run]


PROGRAMS: dict[str, Program] = {}
"""All programs by their names; the families fill it when they are imported."""


def program(name: str) -> Callable[[Callable[[], Run]], Callable[[], Run]]:
    """Register what the decorated function builds under a name.

    Raises:
        ValueError: if another program has this name.
    """

    def register(build: Callable[[], Run]) -> Callable[[], Run]:
        if name in PROGRAMS:
            raise ValueError(f"there are two programs of the name {name!r}")
        PROGRAMS[name] = Program(name, build)
        return build

    return register


def always(*args: Any, **kwargs: Any) -> Batches:
    """The same arguments in each step."""
    return lambda step: (args, kwargs)


def cycle(size: int, /, *tensors: Tensor, **kwargs: Any) -> Batches:
    """Batches of a size, which go through the rows of all tensors again and again."""
    num = len(tensors[0]) // size

    def batch(step: int) -> tuple[tuple[Any, ...], dict[str, Any]]:
        start = step % num * size
        return tuple(tensor[start : start + size] for tensor in tensors), kwargs

    return batch
