"""Compare a program under this package's SVI with the same program under Pyro's."""

import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from math import inf, isfinite
from statistics import median
from time import perf_counter
from typing import Any

import pyro
import torch
from pyro.infer import SVI as PyroSVI
from torch import Tensor

from pyrovae.errors import InputError
from pyrovae.infer import SVI

from .program import Program, Run

__all__ = [
    "Comparison",
    "MakeSVI",
    "Trained",
    "Training",
    "compare",
    "largest_difference",
    "make_ours",
    "train",
]

MakeSVI = Callable[..., Any]
"""Makes an SVI from model, guide, optimiser and loss."""

_SEED = 7
_MANY = 1_000_000
"""Steps to come, as told to our SVI, so that recording and compiling pay."""

_TURNS, _STEPS_OF_TURN = 7, 5


@dataclass(frozen=True)
class Comparison:
    """How a program ran under both classes.

    Attributes:
        name: name of the program.
        records: whether all its steps were recorded.
        num_graphs: how many graphs were recorded, and how many of them were compiled.
        reason: why steps were not recorded, or the program failed; empty if neither.
        loss_difference: the largest difference of a loss, relative to 1 or the larger loss.
        parameter_difference: the same of a parameter or buffer after the last step.
        milliseconds: median time of a step under Pyro's SVI.
        ratio: median time of a step under ours, divided by that.
    """

    name: str
    records: bool = False
    num_graphs: tuple[int, int] = (0, 0)
    reason: str = ""
    loss_difference: float | None = None
    parameter_difference: float | None = None
    milliseconds: float | None = None
    ratio: float | None = None


@dataclass(frozen=True)
class Trained:
    """Where a training ended.

    Attributes:
        losses: the loss of each step.
        state: the parameters by name, constrained, and the buffers.
        warning: the first warning that steps are not recorded; empty without one.
        num_graphs: recorded and compiled graphs, where the SVI is ours.
    """

    losses: Tensor
    state: dict[str, Tensor]
    warning: str
    num_graphs: tuple[int, int]


class Training:
    """A program with its SVIs, which runs step by step.

    Arguments:
        program: it is built afresh.
        make: makes its SVIs.
    """

    def __init__(self, program: Program, make: MakeSVI) -> None:
        self._runs: list[Run] = []
        pending = [program.build()]
        while pending:
            run = pending.pop(0)
            self._runs.append(run)
            pending += run.then
        self._svis = [_make_svi(run, make) for run in self._runs]
        self._step = 0

    @property
    def num_graphs(self) -> tuple[int, int]:
        """Recorded and compiled graphs of all SVIs that are ours."""
        each = [getattr(svi, "num_graphs", (0, 0)) for svi in self._svis]
        return sum(recorded for recorded, _ in each), sum(compiled for _, compiled in each)

    def step(self) -> list[Tensor]:
        """Take a step of each SVI; return their losses."""
        losses = []
        for run, svi in zip(self._runs, self._svis, strict=True):
            if run.before_step is not None:
                run.before_step(self._step)
            args, kwargs = run.batches(self._step)
            loss = svi.step(*args, **kwargs)
            losses.append(torch.as_tensor(loss, dtype=torch.get_default_dtype()).sum())
            if run.after_step is not None:
                run.after_step(self._step)
        self._step += 1
        return losses

    def state(self) -> dict[str, Tensor]:
        """Copies of the parameters in Pyro's store and of the buffers of the modules."""
        store = pyro.get_param_store()
        state = {name: value.detach().clone() for name, value in store.items()}
        for run in self._runs:
            for number, module in enumerate(run.modules):
                for name, buffer in module.named_buffers():
                    state[f"buffer {number}.{name}"] = buffer.detach().clone()
        return state


def _make_svi(run: Run, make: MakeSVI) -> Any:
    if run.loss_and_grads is None:
        return make(run.model, run.guide, run.optim, run.loss)
    return make(run.model, run.guide, run.optim, run.loss, loss_and_grads=run.loss_and_grads)


def make_ours(*args: Any, can_compile: bool = True, **options: Any) -> SVI:
    """Our SVI, which compiles what it records, or runs the recorded operations one by one."""
    svi = SVI(*args, num_steps=_MANY, **options)
    svi._gradients.tiered.can_compile = can_compile
    return svi


def train(program: Program, make: MakeSVI, steps: int) -> Trained:
    """Train a program from a fixed seed, with an empty store."""
    with _start():
        training = Training(program, make)
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always")
            losses = [loss for _ in range(steps) for loss in training.step()]
        ours = [str(each.message) for each in caught if _is_about_recording(each)]
        warning = ours[0] if ours else ""
        return Trained(torch.stack(losses), training.state(), warning, training.num_graphs)


@contextmanager
def _start() -> Iterator[None]:
    """Begin with an empty store and a fixed seed; leave an empty store."""
    pyro.clear_param_store()
    pyro.set_rng_seed(_SEED)
    try:
        yield
    finally:
        pyro.clear_param_store()


def _is_about_recording(caught: warnings.WarningMessage) -> bool:
    text = str(caught.message)
    return issubclass(caught.category, RuntimeWarning) and ("ordinary Python" in text)


def compare(program: Program, steps: int, can_compile: bool = True) -> Comparison:
    """Train a program under both classes, compare the results, and time the steps.

    A program that cannot be recorded runs as ordinary Python, and is compared and timed so.
    """
    theirs = train(program, PyroSVI, steps)
    if any(bool(each.isnan().any()) for each in (theirs.losses, *theirs.state.values())):
        return Comparison(program.name, reason="its loss or a parameter is NaN under Pyro's SVI")
    make = partial(make_ours, compile=True, can_compile=can_compile)
    reason = ""
    try:
        ours = train(program, make, steps)
        reason = ours.warning
    except InputError as error:
        reason = str(error).removeprefix("compile=True, but the step cannot be recorded: ")
        make = partial(make_ours, compile="auto", can_compile=can_compile)
        ours = train(program, make, steps)
    seconds = _time(program, [PyroSVI, make])
    return Comparison(
        name=program.name,
        records=not reason and ours.num_graphs[0] > 0,
        num_graphs=ours.num_graphs,
        reason=_one_line(reason),
        loss_difference=largest_difference({"": theirs.losses}, {"": ours.losses}),
        parameter_difference=largest_difference(theirs.state, ours.state),
        milliseconds=1e3 * seconds[0],
        ratio=seconds[1] / seconds[0],
    )


def _one_line(text: str) -> str:
    return " ".join(text.split())


def largest_difference(one: dict[str, Tensor], other: dict[str, Tensor]) -> float:
    """The largest difference of two tensors of one name, relative to 1 or the larger of them.

    It is infinite where a tensor is missing, has another shape, or is not finite in one alone.
    """
    if one.keys() != other.keys():
        return inf
    largest = 0.0
    for name, value in one.items():
        if value.shape != other[name].shape:
            return inf
        a, b = value.double(), other[name].double()
        scale = torch.maximum(a.abs(), b.abs()).clamp_min(1.0)
        difference = torch.where(a == b, 0.0, (a - b).abs() / scale)
        worst = float(difference.max()) if difference.numel() else 0.0
        largest = max(largest, worst if isfinite(worst) else inf)
    return largest


def _time(program: Program, makes: list[MakeSVI]) -> list[float]:
    """The median seconds of a step under each class, in turns, after as many to warm up.

    Each has a store of its own, as both train parameters of the same names.
    """
    store = pyro.get_param_store()
    trainings, states = [], []
    for make in makes:
        with _start(), store.scope() as state:
            trainings.append(Training(program, make))
        states.append(state)
    seconds: list[list[float]] = [[] for _ in makes]
    for turn in range(2 * _TURNS):
        for training, state, times in zip(trainings, states, seconds, strict=True):
            with store.scope(state), warnings.catch_warnings():
                warnings.simplefilter("ignore")
                for _ in range(_STEPS_OF_TURN):
                    start = perf_counter()
                    training.step()
                    if turn >= _TURNS:
                        times.append(perf_counter() - start)
    return [median(each) for each in seconds]
