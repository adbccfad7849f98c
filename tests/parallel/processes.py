"""Run a function in several new processes, joined in a gloo group."""

import multiprocessing
import os
import tempfile
import warnings
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import safetensors.torch
import torch
import torch.distributed as dist
from torch import Tensor

_PROCESSES = multiprocessing.get_context("forkserver")
_PROCESSES.set_forkserver_preload(["tests.parallel.fits"])

_SECONDS = 120
"""Time after which a process that has not ended is killed, and the test fails."""

Work = Callable[..., dict[str, Tensor]]
"""A function of the group and further arguments, which returns tensors by name."""


@dataclass(frozen=True)
class ProcessResult:
    """Exit code, output and result of a process.

    Attributes:
        code: exit code, or minus the signal that killed it.
        out: its standard output.
        err: its standard error.
        tensors: the tensors that its function returned; None if it did not return.
    """

    code: int
    out: str
    err: str
    tensors: dict[str, Tensor] | None


def run_processes(work: Work, *args: Any, folder: Path, num: int = 2) -> list[ProcessResult]:
    """Run a function in joined processes, and wait for all of them to end.

    Arguments:
        work: a function at module level.
        args: arguments of the function, after the group.
        folder: folder for temporary files.
        num: number of processes.
    """
    own = Path(tempfile.mkdtemp(dir=folder))
    return start_processes(
        _join_and_run, *((work, rank, num, own, args) for rank in range(num)), folder=own
    )


def get_results(ended: list[ProcessResult]) -> list[dict[str, Tensor]]:
    """The tensors that each process returned; all must have ended well."""
    assert [each.code for each in ended] == [0] * len(ended), [each.err for each in ended]
    return [each.tensors for each in ended if each.tensors is not None]


def start_processes(
    function: Callable[..., None], *args: tuple[Any, ...], folder: Path
) -> list[ProcessResult]:
    """Call a function in new processes, one for each tuple of arguments."""
    processes = [
        _PROCESSES.Process(target=_redirect_and_call, args=(folder, rank, function, each))
        for rank, each in enumerate(args)
    ]
    for process in processes:
        process.start()
    for process in processes:
        process.join(_SECONDS)
    is_late = [process.is_alive() for process in processes]
    for process in processes:
        process.kill()
        process.join()
    assert not any(is_late), "a process hangs"
    return [_read_result(folder, rank, process.exitcode) for rank, process in enumerate(processes)]


def _read_result(folder: Path, rank: int, code: int | None) -> ProcessResult:
    assert code is not None
    path = folder / f"{rank}.safetensors"
    tensors = safetensors.torch.load_file(path) if path.is_file() else None
    out, err = ((folder / f"{name}{rank}").read_text() for name in ("out", "err"))
    return ProcessResult(code, out, err, tensors)


def _redirect_and_call(
    folder: Path, rank: int, function: Callable[..., None], args: tuple[Any, ...]
) -> None:
    for descriptor, name in ((1, f"out{rank}"), (2, f"err{rank}")):
        os.dup2(os.open(folder / name, os.O_WRONLY | os.O_CREAT | os.O_TRUNC), descriptor)
    torch.set_num_threads(1)
    function(*args)


def _join_and_run(work: Work, rank: int, num: int, folder: Path, args: tuple[Any, ...]) -> None:
    warnings.simplefilter("ignore")
    store = dist.FileStore(str(folder / "store"), num)
    dist.init_process_group("gloo", store=store, rank=rank, world_size=num)
    tensors = work(dist.group.WORLD, *args)
    safetensors.torch.save_file(tensors, folder / f"{rank}.safetensors")
    dist.destroy_process_group()
