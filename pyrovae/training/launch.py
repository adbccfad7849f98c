"""The processes that ``torchrun`` starts, found by what it tells them, and joined."""

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

_LONGEST_WAIT = 300
"""Seconds for which a process that has started waits for the others."""

_POLL = 0.02


def is_first() -> bool:
    """Whether this is the process that writes and speaks; so it is where it is the only one."""
    return not _is_launched() or os.environ.get("RANK", "0") == "0"


def num_processes() -> int:
    """How many there are."""
    return int(os.environ.get("WORLD_SIZE", "1")) if _is_launched() else 1


def may_restart() -> bool:
    """Whether torchrun would."""
    return _is_launched() and int(os.environ.get("TORCHELASTIC_MAX_RESTARTS", "0")) > 0


@contextmanager
def join_processes() -> Iterator[tuple["Processes", bool]]:
    """Within, all of the processes are joined: by gloo, and by NCCL between GPUs.

    Each takes the GPU of its number on its machine, where there are any.

    Yields:
        The processes, and whether torchrun has started them again, since one had died: by its
        count in any of them, which is of each machine by itself, or by its store.
    """
    import torch
    import torch.distributed as dist
    from torch.distributed.rendezvous import rendezvous

    from ..infer.parallel.processes import Processes

    if num_processes() == 1:
        yield Processes(), _is_counted_as_restarted()
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
    is_again = processes.is_first and store.add("pyrovae/starts", 1) > 1
    said = processes.first_nonempty_text("again" if is_again or _is_counted_as_restarted() else "")
    try:
        yield processes, bool(said)
    except InputError as error:
        if not (processes.is_first or isinstance(error, Agreed)):
            print(f"pyrovae: process {processes.rank}: {error}", file=sys.stderr)
        raise
    finally:
        dist.destroy_process_group()


def _agree_on_start(store: "Store", rank: int, num: int) -> str:
    """A name for this start, which all processes of it have, and none of an earlier one.

    The store of torchrun outlives a restart, with all that processes wrote that are no more: they
    would be waited for where they were. So each process says a word of its own, the first repeats
    what it hears until all have found theirs, and they answer with its word.

    Raises:
        Separated: if one has not come within five minutes.
    """
    own = token_hex(8)
    deadline = monotonic() + _LONGEST_WAIT

    def heard(key: str) -> str:
        return store.get(key).decode() if store.check([key]) else ""

    others = range(1, num)
    if rank:
        store.set(f"pyrovae/word/{rank}", own)
    while monotonic() < deadline:
        if rank:
            first, *words = heard("pyrovae/words").split() or [""]
            if own in words:
                store.set(f"pyrovae/answer/{rank}", first)
                return first
        else:
            words = [own, *(heard(f"pyrovae/word/{each}") or "?" for each in others)]
            store.set("pyrovae/words", " ".join(words))
            if all(heard(f"pyrovae/answer/{each}") == own for each in others):
                return own
        sleep(_POLL)
    raise Separated(
        f"process {rank} of {num} waited {_LONGEST_WAIT // 60} minutes for the others to start"
    )


def _is_counted_as_restarted() -> bool:
    return _is_launched() and os.environ.get("TORCHELASTIC_RESTART_COUNT", "0") != "0"


def _is_launched() -> bool:
    return "TORCHELASTIC_RUN_ID" in os.environ
