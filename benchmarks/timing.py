"""Time several candidates in interleaved turns, each in a process of its own.

Interleaving gives all candidates the same conditions on the machine. Each turn runs its steps
twice, and only the second run is timed: during the first one, threads wake up and caches fill. The
order of the candidates is random in every round, because the previous candidate can disturb the
next one (its threads may still spin).
"""

import importlib
import importlib.util
import multiprocessing
import random
from collections.abc import Callable
from dataclasses import dataclass, field
from statistics import median
from time import perf_counter
from typing import Any

__all__ = ["Candidate", "is_installed", "time_interleaved"]


@dataclass(frozen=True)
class Candidate:
    """A function to time.

    Attributes:
        name: name in the table.
        path: ``"module:function"`` of a factory. The factory takes ``keywords`` and returns a
            function of a number of steps, which runs them and waits for them to finish.
        keywords: keyword arguments of the factory.
        needs: package that must be installed, if any.
    """

    name: str
    path: str
    keywords: dict[str, Any] = field(default_factory=dict)
    needs: str | None = None

    @property
    def is_available(self) -> bool:
        """Whether the package that it needs is installed."""
        return self.needs is None or is_installed(self.needs)


def is_installed(package: str) -> bool:
    """Whether a package is installed."""
    return importlib.util.find_spec(package) is not None


def time_interleaved(
    candidates: list[Candidate], steps: int, rounds: int, warm_up: int = 2
) -> dict[str, float]:
    """Return the median seconds per step of each candidate.

    Arguments:
        candidates: what to time; those that need a missing package are skipped.
        steps: steps in a turn.
        rounds: timed turns of each candidate.
        warm_up: turns of each candidate before timing, in which its steps are compiled.
    """
    context = multiprocessing.get_context("spawn")
    workers = {}
    for candidate in candidates:
        if not candidate.is_available:
            print(f"  {candidate.name}: {candidate.needs} is not installed", flush=True)
            continue
        pipe, worker_pipe = context.Pipe()
        process = context.Process(target=_serve, args=(worker_pipe, candidate), daemon=True)
        process.start()
        worker_pipe.close()
        try:
            for _ in range(warm_up):
                _time_turn(pipe, steps)
        except (EOFError, OSError):
            print(f"  {candidate.name} failed", flush=True)
            continue
        workers[candidate.name] = (process, pipe)
    seconds: dict[str, list[float]] = {name: [] for name in workers}
    order, generator = list(workers), random.Random(0)
    for _ in range(rounds):
        generator.shuffle(order)
        for name in order:
            seconds[name].append(_time_turn(workers[name][1], steps) / steps)
    for process, pipe in workers.values():
        pipe.close()
        process.join()
    return {name: median(each) for name, each in seconds.items()}


def _time_turn(pipe: Any, steps: int) -> float:
    """Ask a worker to run a turn, and return the seconds that it took."""
    pipe.send(steps)
    seconds: float = pipe.recv()
    return seconds


def _serve(pipe: Any, candidate: Candidate) -> None:
    """Run turns in a worker process until the pipe is closed."""
    module, _, function = candidate.path.partition(":")
    make: Callable[..., Callable[[int], None]] = getattr(importlib.import_module(module), function)
    run = make(**candidate.keywords)
    while True:
        try:
            steps = pipe.recv()
        except (EOFError, OSError):
            return
        run(steps)
        start = perf_counter()
        run(steps)
        pipe.send(perf_counter() - start)
