"""Contestants in processes of their own, timed in turn, so that the machine is the same to all.

A turn is run twice, and the second time counts: in the first, threads wake up and caches fill. The
order of turns is drawn anew in each round, since what ran before is felt (threads that still spin).
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
    """What is timed.

    Attributes:
        name: of the table.
        path: ``"module:function"``; the function makes, from keywords, a function that does as many
            steps as it is told and waits for them to end.
        keywords: of the function.
        needs: a package without which it does not run.
    """

    name: str
    path: str
    keywords: dict[str, Any] = field(default_factory=dict)
    needs: str | None = None

    @property
    def is_there(self) -> bool:
        """Whether its package is installed."""
        return self.needs is None or is_installed(self.needs)


def is_installed(package: str) -> bool:
    """Whether a peer is there to race."""
    return importlib.util.find_spec(package) is not None


def time_interleaved(
    candidates: list[Candidate], steps: int, rounds: int, warm_up: int = 2
) -> dict[str, float]:
    """Median seconds of a step of each candidate; they take turns, of so many steps each."""
    context = multiprocessing.get_context("spawn")
    runners = {}
    for candidate in candidates:
        if not candidate.is_there:
            print(f"  {candidate.name}: {candidate.needs} is not installed", flush=True)
            continue
        here, there = context.Pipe()
        process = context.Process(target=_serve, args=(there, candidate), daemon=True)
        process.start()
        there.close()
        try:
            for _ in range(warm_up):  # which compiles
                _turn(here, steps)
        except (EOFError, OSError):
            print(f"  {candidate.name} failed", flush=True)
            continue
        runners[candidate.name] = (process, here)
    seconds: dict[str, list[float]] = {name: [] for name in runners}
    order, draw = list(runners), random.Random(0)
    for _ in range(rounds):
        draw.shuffle(order)
        for name in order:
            seconds[name].append(_turn(runners[name][1], steps) / steps)
    for process, pipe in runners.values():
        pipe.close()
        process.join()
    return {name: median(each) for name, each in seconds.items()}


def _turn(pipe: Any, steps: int) -> float:
    pipe.send(steps)
    seconds: float = pipe.recv()
    return seconds


def _serve(pipe: Any, candidate: Candidate) -> None:
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
