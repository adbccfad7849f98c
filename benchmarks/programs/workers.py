"""Compare each program in a process of its own, so that a crash or a hang ends that one alone."""

import multiprocessing
import multiprocessing.connection
import signal
import traceback
from collections.abc import Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass
from multiprocessing.process import BaseProcess
from time import monotonic
from typing import Any, TypeAlias

import torch

from .compare import Comparison, compare
from .families import load_all
from .program import PROGRAMS, Program

__all__ = ["compare_each"]

_Pipe: TypeAlias = "multiprocessing.connection.Connection[Comparison]"


@dataclass(frozen=True)
class _Job:
    """A process that compares a program, to be ended at a time of the monotonic clock."""

    name: str
    process: BaseProcess
    end: float


def compare_each(
    programs: Sequence[Program], steps: int, can_compile: bool, limit: float, jobs: int = 1
) -> Iterator[Comparison]:
    """Compare programs, and yield each result when it is there.

    Arguments:
        programs: registered programs.
        steps: number of steps of each.
        can_compile: whether recorded steps are compiled.
        limit: seconds after which a program is given up.
        jobs: number of processes at a time.
    """
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload([__name__])
    waiting, running = list(reversed(programs)), dict[Any, _Job]()
    while waiting or running:
        while waiting and len(running) < jobs:
            program = waiting.pop()
            pipe, far_end = context.Pipe(duplex=False)
            arguments = (far_end, program.name, steps, can_compile)
            process = context.Process(target=_serve, args=arguments, daemon=True)
            process.start()
            far_end.close()
            running[pipe] = _Job(program.name, process, monotonic() + limit)
        first_end = min(job.end for job in running.values())
        multiprocessing.connection.wait(list(running), max(0.0, first_end - monotonic()))
        for pipe, job in list(running.items()):
            if pipe.poll():
                yield _receive(pipe, job)
            elif monotonic() >= job.end:
                job.process.kill()
                job.process.join()
                yield Comparison(job.name, reason=f"it took more than {limit:g} s")
            else:
                continue
            pipe.close()
            del running[pipe]


def _receive(pipe: _Pipe, job: _Job) -> Comparison:
    with suppress(EOFError):
        result: Comparison = pipe.recv()
        job.process.join()
        return result
    job.process.join()
    code = job.process.exitcode or 0
    how = f"with {signal.Signals(-code).name}" if code < 0 else "without a result"
    return Comparison(job.name, reason=f"its process ended {how}")


def _serve(
    pipe: _Pipe,
    name: str,
    steps: int,
    can_compile: bool,
) -> None:
    """Compare one program and send the result, in a process of its own."""
    torch.set_num_threads(1)
    torch.set_default_dtype(torch.float64)
    load_all()
    try:
        result = compare(PROGRAMS[name], steps, can_compile)
    except Exception as error:  # it becomes a row of the table
        last = traceback.extract_tb(error.__traceback__)[-1]
        text = " ".join(str(error).split())
        where = f"{last.filename}:{last.lineno}"
        result = Comparison(name, reason=f"failed with {type(error).__name__}: {text} ({where})")
    pipe.send(result)
