"""Work that two processes of their own do together, joined by gloo."""

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
"""After which a process that does not end is stopped, and the test fails."""

Work = Callable[..., dict[str, Tensor]]
"""Takes the group, then the arguments; gives tensors by name."""


@dataclass(frozen=True)
class Ended:
    """How a process ended.

    Attributes:
        code: minus a signal that killed it.
        out: what it wrote on standard output.
        err: and on standard error.
        found: what its work gave, where it came to its end.
    """

    code: int
    out: str
    err: str
    found: dict[str, Tensor] | None


def together(work: Work, *args: Any, folder: Path, num: int = 2) -> list[Ended]:
    """Let processes do some work together, and wait for all of them to end.

    Arguments:
        work: a function of a module.
        args: of the work, after the group.
        folder: to write to.
        num: how many processes.
    """
    place = Path(tempfile.mkdtemp(dir=folder))
    return started(_join, *((work, rank, num, place, args) for rank in range(num)), folder=place)


def found(ended: list[Ended]) -> list[dict[str, Tensor]]:
    """What each process found, where all of them came to their end."""
    assert [each.code for each in ended] == [0] * len(ended), [each.err for each in ended]
    return [each.found for each in ended if each.found is not None]


def started(function: Callable[..., None], *args: tuple[Any, ...], folder: Path) -> list[Ended]:
    """Call a function in processes of their own, one for each tuple of arguments."""
    processes = [
        _PROCESSES.Process(target=_told, args=(folder, rank, function, each))
        for rank, each in enumerate(args)
    ]
    for process in processes:
        process.start()
    for process in processes:
        process.join(_SECONDS)
    are_late = [process.is_alive() for process in processes]
    for process in processes:
        process.kill()
        process.join()
    assert not any(are_late), "a process hangs"
    return [_ended(folder, rank, process.exitcode) for rank, process in enumerate(processes)]


def _ended(folder: Path, rank: int, code: int | None) -> Ended:
    assert code is not None
    path = folder / f"{rank}.safetensors"
    found = safetensors.torch.load_file(path) if path.is_file() else None
    return Ended(code, *((folder / f"{name}{rank}").read_text() for name in ("out", "err")), found)


def _told(folder: Path, rank: int, function: Callable[..., None], args: tuple[Any, ...]) -> None:
    for descriptor, name in ((1, f"out{rank}"), (2, f"err{rank}")):
        os.dup2(os.open(folder / name, os.O_WRONLY | os.O_CREAT | os.O_TRUNC), descriptor)
    torch.set_num_threads(1)
    function(*args)


def _join(work: Work, rank: int, num: int, folder: Path, args: tuple[Any, ...]) -> None:
    warnings.simplefilter("ignore")
    store = dist.FileStore(str(folder / "store"), num)
    dist.init_process_group("gloo", store=store, rank=rank, world_size=num)
    found = work(dist.group.WORLD, *args)
    safetensors.torch.save_file(found, folder / f"{rank}.safetensors")
    dist.destroy_process_group()
