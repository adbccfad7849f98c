"""Compare a program under this package's SVI with the same program under Pyro's."""

import warnings
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from math import inf, isfinite
from pathlib import Path
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
    "train",
    "train_ours",
]

MakeSVI = Callable[..., Any]
"""Makes an SVI from model, guide, optimiser and loss."""

_SEED = 7
_MANY = 1_000_000
"""Steps to come, as told to our SVI, so that recording and compiling pay."""

_TURNS, _STEPS_OF_TURN = 7, 5

_EQUAL = 1e-9
"""Differences up to this one are not looked into."""


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
        rounding: where a difference is above 1e-9, how much Pyro's own parameters differ after the
            last step if they are changed by one unit in the last place after the first.
    """

    name: str
    records: bool = False
    num_graphs: tuple[int, int] = (0, 0)
    reason: str = ""
    loss_difference: float | None = None
    parameter_difference: float | None = None
    milliseconds: float | None = None
    ratio: float | None = None
    rounding: float | None = None


@dataclass(frozen=True)
class Trained:
    """A training after some steps.

    Attributes:
        training: it, which can go on within the scope of its store.
        store: its part of Pyro's store, by which two trainings keep apart.
        losses: the loss of each step.
        state: the parameters by name, constrained, and the buffers.
        warning: the first warning that steps are not recorded; empty without one.
        num_graphs: recorded and compiled graphs, where the SVI is ours.
    """

    training: "Training"
    store: Any
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


def _make_ours(*args: Any, can_compile: bool = True, **options: Any) -> SVI:
    """Our SVI, which compiles what it records, or runs the recorded operations one by one."""
    svi = SVI(*args, num_steps=_MANY, **options)
    svi._gradients.tiered.can_compile = can_compile
    return svi


def train(program: Program, make: MakeSVI, steps: int) -> Trained:
    """Train a program from a fixed seed, with an empty store, and leave Pyro's store as it was."""
    with pyro.get_param_store().scope() as store:
        pyro.set_rng_seed(_SEED)
        training = Training(program, make)
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always")
            losses = [loss for _ in range(steps) for loss in training.step()]
        state = training.state()
    ours = [str(each.message) for each in caught if _is_about_recording(each)]
    warning = ours[0] if ours else ""
    return Trained(training, store, torch.stack(losses), state, warning, training.num_graphs)


def _is_about_recording(caught: warnings.WarningMessage) -> bool:
    text = str(caught.message)
    return issubclass(caught.category, RuntimeWarning) and ("ordinary Python" in text)


def train_ours(program: Program, steps: int, can_compile: bool = True) -> tuple[Trained, str]:
    """Train a program with our SVI; also return why steps are not recorded, if they are not.

    Steps that cannot be recorded then run as ordinary Python.
    """
    make = partial(_make_ours, can_compile=can_compile)
    try:
        trained = train(program, partial(make, compile=True), steps)
    except InputError as error:
        reason = str(error).removeprefix("compile=True, but the step cannot be recorded: ")
        return train(program, partial(make, compile="auto"), steps), reason
    is_recorded = trained.num_graphs[0] > 0
    return trained, trained.warning or ("" if is_recorded else "no step was recorded")


def compare(program: Program, steps: int, can_compile: bool = True) -> Comparison:
    """Train a program under both classes, compare the results, and time the steps.

    A program that cannot be recorded runs as ordinary Python, and is compared and timed so.
    """
    theirs = train(program, PyroSVI, steps)
    if any(bool(each.isnan().any()) for each in (theirs.losses, *theirs.state.values())):
        return Comparison(program.name, reason="its loss or a parameter is NaN under Pyro's SVI")
    ours, reason = train_ours(program, steps, can_compile)
    seconds = _time([theirs, ours])
    losses = largest_difference({"": theirs.losses}, {"": ours.losses})
    parameters = largest_difference(theirs.state, ours.state)
    is_equal = max(losses, parameters) <= _EQUAL
    return Comparison(
        name=program.name,
        records=not reason,
        num_graphs=ours.num_graphs,
        reason=_shorten(reason),
        loss_difference=losses,
        parameter_difference=parameters,
        milliseconds=1e3 * seconds[0],
        ratio=seconds[1] / seconds[0],
        rounding=None if is_equal else _measure_rounding(program, steps, theirs.state),
    )


def _measure_rounding(program: Program, steps: int, state: dict[str, Tensor]) -> float:
    """How far Pyro's SVI ends from a state if all parameters are changed in their last digit."""
    generator = torch.Generator().manual_seed(_SEED)
    with pyro.get_param_store().scope(), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        pyro.set_rng_seed(_SEED)
        training = Training(program, PyroSVI)
        training.step()
        with torch.no_grad():
            for _, value in pyro.get_param_store().named_parameters():
                sign = torch.randint(0, 2, value.shape, generator=generator) * 2 - 1
                value.mul_(1 + torch.finfo(value.dtype).eps * sign)
        for _ in range(steps - 1):
            training.step()
        return largest_difference(state, training.state())


def _shorten(reason: str) -> str:
    """The reason in one line, with paths as short as they can be."""
    for folder in (f"{Path.cwd()}/", f"{Path(torch.__file__).parents[1]}/"):
        reason = reason.replace(folder, "")
    return " ".join(reason.split())


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


def _time(trained: list[Trained]) -> list[float]:
    """The median seconds of a further step of each, in turns."""
    seconds: list[list[float]] = [[] for _ in trained]
    for _ in range(_TURNS):
        for each, times in zip(trained, seconds, strict=True):
            with pyro.get_param_store().scope(each.store), warnings.catch_warnings():
                warnings.simplefilter("ignore")
                each.training.step()  # to warm up
                for _ in range(_STEPS_OF_TURN):
                    start = perf_counter()
                    each.training.step()
                    times.append(perf_counter() - start)
    return [median(each) for each in seconds]
