"""Find the processes that ``torchrun`` started, by its environment variables, and join them."""

import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from secrets import token_hex
from time import monotonic, sleep
from typing import TYPE_CHECKING

from ..errors import Agreed, InputError, Separated

if TYPE_CHECKING:
    from torch.distributed import Store  # type: ignore[attr-defined]

    from ..infer.parallel.processes import Processes

__all__ = ["is_first", "join_processes", "may_restart", "num_processes"]

_MAX_WAIT = 300
"""Seconds that a process waits for the others to start."""

_POLL = 0.02
"""Seconds between two looks at the store."""


def is_first() -> bool:
    """Whether this process writes files and prints; a process by itself does."""
    return not _is_launched() or os.environ.get("RANK", "0") == "0"


def num_processes() -> int:
    """Number of processes that torchrun started; 1 without it."""
    return int(os.environ.get("WORLD_SIZE", "1")) if _is_launched() else 1


def may_restart() -> bool:
    """Whether torchrun may start the processes again."""
    return _is_launched() and int(os.environ.get("TORCHELASTIC_MAX_RESTARTS", "0")) > 0


@contextmanager
def join_processes() -> Iterator[tuple["Processes", bool]]:
    """Join all processes in a group: by gloo, and by NCCL between GPUs.

    Each process takes the GPU of its local rank, if there are any.

    Yields:
        The processes, and whether torchrun has restarted them because one had died. The restart
        count of any process shows this (each machine has its own count), and so does torchrun's
        store.
    """
    import torch
    import torch.distributed as dist
    from torch.distributed.rendezvous import rendezvous

    from ..infer.parallel.processes import Processes

    if num_processes() == 1:
        yield Processes(), _has_restart_count()
        return
    has_gpus = torch.cuda.is_available() and dist.is_nccl_available()
    if has_gpus:
        torch.cuda.set_device(int(os.environ["LOCAL_RANK"]))
    store, rank, num = next(rendezvous("env://"))
    dist.init_process_group(
        "cpu:gloo,cuda:nccl" if has_gpus else "gloo",
        store=dist.PrefixStore(  # type: ignore[attr-defined]
            _agree_on_start(store, rank, num), store
        ),
        rank=rank,
        world_size=num,
    )
    processes = Processes(dist.group.WORLD)
    in_store = processes.is_first and store.add("pyrovae/starts", 1) > 1
    is_restarted = processes.first_nonempty_text(
        "restarted" if in_store or _has_restart_count() else ""
    )
    try:
        yield processes, bool(is_restarted)
    except InputError as error:
        if not (processes.is_first or isinstance(error, Agreed)):
            print(f"pyrovae: process {processes.rank}: {error}", file=sys.stderr)
        raise
    finally:
        dist.destroy_process_group()


def _agree_on_start(store: "Store", rank: int, num: int) -> str:
    """Agree on a name for this start, which differs from the names of earlier starts.

    The store of torchrun survives a restart, with all that dead processes wrote; new processes
    would take it for messages of their peers. So each process writes a random token, the first one
    publishes all tokens that it reads, and each other process, once it finds its own token among
    them, answers with the token of the first. That token is the name.

    Raises:
        Separated: if a process has not started within five minutes.
    """
    own = token_hex(8)
    deadline = monotonic() + _MAX_WAIT

    def read(key: str) -> str:
        return store.get(key).decode() if store.check([key]) else ""

    others = range(1, num)
    if rank:
        store.set(f"pyrovae/token/{rank}", own)
    while monotonic() < deadline:
        if rank:
            first, *tokens = read("pyrovae/tokens").split() or [""]
            if own in tokens:
                store.set(f"pyrovae/answer/{rank}", first)
                return first
        else:
            tokens = [own, *(read(f"pyrovae/token/{each}") or "?" for each in others)]
            store.set("pyrovae/tokens", " ".join(tokens))
            if all(read(f"pyrovae/answer/{each}") == own for each in others):
                return own
        sleep(_POLL)
    raise Separated(
        f"process {rank} of {num} waited {_MAX_WAIT // 60} minutes for the others to start"
    )


def _has_restart_count() -> bool:
    return _is_launched() and os.environ.get("TORCHELASTIC_RESTART_COUNT", "0") != "0"


def _is_launched() -> bool:
    return "TORCHELASTIC_RUN_ID" in os.environ
