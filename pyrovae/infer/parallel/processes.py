"""Communication between the processes of a ``torch.distributed`` group."""

import re
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TypeVar, cast

import torch
import torch.distributed as dist
from torch import Tensor
from torch.distributed import ProcessGroup

from ...errors import Agreed, InputError, Separated

__all__ = ["Processes"]

Result = TypeVar("Result")


class Processes:
    """This process and the others of its group.

    All processes must call the methods together. If another process has ended, a call raises
    :class:`~pyrovae.errors.Separated`.

    Arguments:
        group: a group of ``torch.distributed``; None for this process by itself.

    Attributes:
        group: the group that was given.
        rank: number of this process.
        num: number of processes.
        device: device of the small tensors that processes exchange.
    """

    def __init__(self, group: ProcessGroup | None = None) -> None:
        self.group = group
        self.rank = 0 if group is None else dist.get_rank(group)
        self.num = 1 if group is None else dist.get_world_size(group)
        on_cpu = group is None or "cpu" in str(dist.get_backend_config(group))
        self.device = torch.device("cpu" if on_cpu else "cuda")

    @property
    def is_first(self) -> bool:
        """Whether this process is the one that writes files and prints."""
        return self.rank == 0

    def all_reduce(self, tensor: Tensor) -> None:
        """Replace a tensor by its sum over all processes, in place."""
        if self.group is not None:
            with self._detect_separation():
                dist.all_reduce(tensor, group=self.group)

    def broadcast(self, tensor: Tensor) -> None:
        """Replace a tensor by that of the first process, in place."""
        if self.group is not None:
            contiguous = tensor.contiguous()
            with self._detect_separation():
                dist.broadcast(contiguous, group_src=0, group=self.group)
            if contiguous is not tensor:
                tensor.copy_(contiguous)

    def broadcast_text(self, text: str) -> str:
        """The text of the first process."""
        return self._broadcast_text_from(0, text)

    def first_nonempty_text(self, text: str) -> str:
        """The first text, in the order of ranks, that is not empty; empty if there is none."""
        has_text = torch.zeros(self.num, device=self.device)
        has_text[self.rank] = float(bool(text))
        self.all_reduce(has_text)
        if not has_text.any():
            return ""
        return self._broadcast_text_from(int(has_text.argmax()), text)

    def run_in_all(self, work: Callable[[], Result]) -> Result:
        """Call a function in each process; if one raises InputError, all raise it.

        The message is that of the lowest-ranked process that raised.

        Arguments:
            work: the function, which must not communicate between processes.

        Raises:
            InputError: if the function raised it in any process.
        """
        if self.group is None:
            return work()
        result, message = None, ""
        try:
            result = work()
        except InputError as error:
            message = str(error).partition("\n")[0] or type(error).__name__
        first_message = self.first_nonempty_text(message)
        if first_message:
            raise Agreed(first_message)
        return cast(Result, result)

    def run_in_first(self, work: Callable[[], object]) -> None:
        """Call a function in the first process alone, while the others wait.

        Raises:
            InputError: in all processes, if the function raised it.
        """
        self.run_in_all(lambda: work() if self.is_first else None)

    def _broadcast_text_from(self, rank: int, text: str) -> str:
        if self.group is None:
            return text
        data = torch.tensor(list(text.encode()), dtype=torch.uint8, device=self.device)
        size = torch.tensor([len(data)], device=self.device)
        with self._detect_separation():
            dist.broadcast(size, group_src=rank, group=self.group)
            if self.rank != rank:
                data = torch.zeros(int(size), dtype=torch.uint8, device=self.device)
            if len(data):
                dist.broadcast(data, group_src=rank, group=self.group)
        return bytes(data.tolist()).decode()

    @contextmanager
    def _detect_separation(self) -> Iterator[None]:
        try:
            yield
        except RuntimeError as error:  # or its subclass DistBackendError; gloo raises the base
            raise Separated(
                f"process {self.rank} of {self.num} stopped, as another one did not answer: "
                f"{_reason(error)}"
            ) from error


def _reason(error: Exception) -> str:
    """The first sentence of torch's message, without the location in its code."""
    line = (str(error).splitlines() or [""])[0]
    return re.sub(r"^\[[^]]*:\d+\] ", "", line).partition(". ")[0]
