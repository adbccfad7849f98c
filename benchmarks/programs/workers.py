"""Compare each program in a process of its own, so that a crash or a hang ends that one alone."""

import multiprocessing
import multiprocessing.connection
import signal
import traceback
from collections.abc import Iterator, Sequence
from contextlib import suppress

import torch

from .compare import Comparison, compare
from .families import load_all
from .program import PROGRAMS, Program

__all__ = ["compare_each"]


def compare_each(
    programs: Sequence[Program], steps: int, can_compile: bool, limit: float
) -> Iterator[Comparison]:
    """Compare programs one after another.

    Arguments:
        programs: registered programs.
        steps: number of steps of each.
        can_compile: whether recorded steps are compiled.
        limit: seconds after which a program is given up.
    """
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload([__name__])
    for program in programs:
        pipe, far_end = context.Pipe(duplex=False)
        arguments = (far_end, program.name, steps, can_compile)
        process = context.Process(target=_serve, args=arguments, daemon=True)
        process.start()
        far_end.close()
        result = Comparison(program.name, reason=f"it took more than {limit:g} s")
        if pipe.poll(limit):
            result = _receive(pipe, program.name)
        else:
            process.kill()
        process.join()
        if not result.reason and process.exitcode:
            name = signal.Signals(-process.exitcode).name if process.exitcode < 0 else "an error"
            result = Comparison(program.name, reason=f"its process ended with {name}")
        pipe.close()
        yield result


def _receive(pipe: "multiprocessing.connection.Connection[Comparison]", name: str) -> Comparison:
    with suppress(EOFError):
        return pipe.recv()
    return Comparison(name, reason="its process ended without a result")


def _serve(
    pipe: "multiprocessing.connection.Connection[Comparison]",
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
