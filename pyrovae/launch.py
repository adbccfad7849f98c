"""The processes that ``torchrun`` starts, found by what it tells them, and joined."""

import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

from .errors import Agreed, InputError

if TYPE_CHECKING:
    from .infer.processes import Processes

__all__ = ["is_first", "is_restarted", "joined", "may_restart", "num_processes"]


def is_first() -> bool:
    """Whether this is the process that writes and speaks; so it is where it is the only one."""
    return not _is_launched() or os.environ.get("RANK", "0") == "0"


def num_processes() -> int:
    """How many there are."""
    return int(os.environ.get("WORLD_SIZE", "1")) if _is_launched() else 1


def is_restarted() -> bool:
    """Whether torchrun started these processes again, since one had died."""
    return _is_launched() and _num_restarts() > 0


def may_restart() -> bool:
    """Whether torchrun would."""
    return _is_launched() and int(os.environ.get("TORCHELASTIC_MAX_RESTARTS", "0")) > 0


@contextmanager
def joined() -> Iterator["Processes"]:
    """Within, all of the processes are joined: by gloo, and by NCCL between GPUs.

    Each takes the GPU of its number on its machine, where there are any.
    """
    import torch
    import torch.distributed as dist

    from .infer.processes import Processes

    if num_processes() == 1:
        yield Processes()
        return
    has_gpus = torch.cuda.is_available() and dist.is_nccl_available()
    if has_gpus:
        torch.cuda.set_device(int(os.environ["LOCAL_RANK"]))
    store, rank, num = next(dist.rendezvous("env://"))
    # Addresses of processes before a restart would be found under the same keys.
    store = dist.PrefixStore(f"restart {_num_restarts()}", store)
    backend = "cpu:gloo,cuda:nccl" if has_gpus else "gloo"
    dist.init_process_group(backend, store=store, rank=rank, world_size=num)
    processes = Processes(dist.group.WORLD)
    try:
        yield processes
    except InputError as error:
        if not (processes.is_first or isinstance(error, Agreed)):
            print(f"pyrovae: process {processes.rank}: {error}", file=sys.stderr)
        raise
    finally:
        dist.destroy_process_group()


def _is_launched() -> bool:
    return "TORCHELASTIC_RUN_ID" in os.environ


def _num_restarts() -> int:
    return int(os.environ.get("TORCHELASTIC_RESTART_COUNT", "0"))
