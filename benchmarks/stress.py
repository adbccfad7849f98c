"""``python -m benchmarks.stress``: compare every call of every graph with its program, under load.

Each program of :mod:`benchmarks.programs`, and some models of this package, take compiled steps, of
which each is run by the program, too, on the same noise. Other processes load the machine.
"""

import subprocess
import sys
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from typing import Annotated, Any

import pyro
import torch
from cyclopts import App, Parameter
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn
from rich.table import Table
from torch.optim import SGD, Adam, AdamW

from pyrovae import VAE, InputError
from pyrovae.infer import SVI
from pyrovae.infer.compiler import tiered
from pyrovae.infer.parallel.processes import Processes
from pyrovae.infer.parallel.shards import Shards

from .programs.compare import Training
from .programs.families import load_all
from .programs.program import PROGRAMS, Program

app = App(name="python -m benchmarks.stress", help_format="markdown")

_BUSY = "import torch; x = torch.randn(400, 400)\nwhile True: x = (x @ x).tanh()"

_MANY = 10**9
"""Steps to come, as told to the SVI, so that compiling pays."""

_OPTIONS: dict[str, dict[str, Any]] = {
    "as it is": {},
    "clipped": {"clip_norm": 1.0},
    "accumulated": {"accumulate": 2},
    "bfloat16": {"autocast": torch.bfloat16},
}
"""What each program is trained with, in turn."""

_MODELS: dict[str, dict[str, Any]] = {
    "VAE, counts": {"likelihood": "NegativeBinomial"},
    "VAE, flow": {"likelihood": "Normal", "posterior": "spline"},
    "VAE, mixture": {"likelihood": "Normal", "prior": "mixture"},
}

_OPTIMISERS: dict[str, Any] = {
    "Adam": partial(Adam, lr=1e-2),
    "AdamW, fused": partial(AdamW, lr=1e-2, fused=True),
    "SGD": partial(SGD, lr=1e-4),
}


@app.default
def main(
    *,
    steps: int = 25,
    load: int = 2,
    compile: Annotated[
        bool, Parameter(name="--compile", negative=["--no-compile", "--replay"])
    ] = True,
    word: Annotated[str, Parameter(name=["--word", "-k"])] = "",
    one_of: int = 1,
) -> None:
    """Train each program and model with all its steps compared, and print what differed.

    Args:
        steps: number of steps of each.
        load: number of other processes that keep the machine busy.
        compile: whether recorded steps are compiled, which takes 10 to 20 s each; otherwise the
            recorded operations run one by one.
        word: only the trainings whose names contain it.
        one_of: take one of so many of these.
    """
    load_all()
    torch.set_num_threads(1)
    tiered.AUDIT_EVERY = 1
    chosen = [(name, run) for name, run in _trainings() if word.lower() in name.lower()]
    chosen = chosen[::one_of]
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn())
    console = Console(stderr=True)
    num_compared, table = 0, Table("training", "what happened")
    with _busy(load), Progress(*columns, TimeRemainingColumn(), console=console) as progress:
        task = progress.add_task("trainings", total=len(chosen))
        for name, run in chosen:
            progress.update(task, description=name)
            num, text = _compare(run, steps, compile)
            num_compared += num
            if text:
                table.add_row(name, text)
            progress.update(task, advance=1)
    Console().print(table)
    print(f"{num_compared:,} calls of graphs of {len(chosen)} trainings were compared")


@contextmanager
def _busy(num: int) -> Iterator[None]:
    """Within, other processes keep the machine busy."""
    processes = [subprocess.Popen([sys.executable, "-c", _BUSY]) for _ in range(num)]
    try:
        yield
    finally:
        for process in processes:
            process.kill()
            process.wait()


_Run = Callable[[int, bool], list[SVI]]
"""Trains for some steps, compiled or not, and returns the SVIs."""


def _trainings() -> Iterator[tuple[str, _Run]]:
    names = list(_OPTIONS)
    for number, program in enumerate(PROGRAMS.values()):
        for name in dict.fromkeys((names[0], names[number % len(names)])):
            yield f"{program.name}; {name}", partial(_train_program, program, _OPTIONS[name])
    for model, arguments in _MODELS.items():
        for name, optimiser in _OPTIMISERS.items():
            for num_shards in (1, 3):
                run = partial(_train_model, arguments, optimiser, num_shards)
                yield f"{model}; {name}; {num_shards} shards", run


def _train_program(
    program: Program, options: dict[str, Any], steps: int, can_compile: bool
) -> list[SVI]:
    svis: list[SVI] = []

    def make(*args: Any, **kwargs: Any) -> SVI:
        svi = SVI(*args, **kwargs, **options, compile=True, num_steps=_MANY)
        svi._gradients.tiered.can_compile = can_compile
        svis.append(svi)
        return svi

    torch.set_default_dtype(torch.float64 if "autocast" not in options else torch.float32)
    with pyro.get_param_store().scope():
        training = Training(program, make)
        for _ in range(steps):
            training.step()
    return svis


def _train_model(
    arguments: dict[str, Any], optimiser: Any, num_shards: int, steps: int, can_compile: bool
) -> list[SVI]:
    torch.set_default_dtype(torch.float32)
    torch.manual_seed(0)
    vae = VAE((12,), 3, **arguments)
    x = torch.poisson(torch.full((64, 12), 3.0))
    shards = None if num_shards == 1 else Shards(num_shards, Processes())
    svi = SVI(vae.model, vae.guide, optimiser, compile=True, num_steps=_MANY, shards=shards)
    svi._gradients.tiered.can_compile = can_compile
    for step in range(steps):
        svi.step(x[step % 4 * 16 : step % 4 * 16 + 15])
    return [svi]


def _compare(run: _Run, steps: int, can_compile: bool) -> tuple[int, str]:
    """The number of calls compared, and what differed, was not recorded, or failed."""
    torch.manual_seed(0)
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        try:
            svis = run(steps, can_compile)
        except InputError as error:
            return 0, str(error)
        except Exception as error:  # it becomes a row of the table
            return 0, f"{type(error).__name__}: {error}"
    said = [str(each.message) for each in caught if "recorded step" in str(each.message)]
    found = [each for svi in svis for each in svi._gradients.tiered._specialisations._all()]
    return sum(each.calls_of_graph for each in found), "; ".join(said)


if __name__ == "__main__":
    app()
