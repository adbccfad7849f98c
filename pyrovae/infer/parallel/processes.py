"""Several processes at one piece of work, as ``torch.distributed`` joins them."""

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
    """This process among others.

    Where another one has ended, what they do together raises :class:`~pyrovae.errors.Separated`.

    Arguments:
        group: of ``torch.distributed``; None for this process by itself.

    Attributes:
        group: that which was given.
        rank: number of this process.
        num: how many there are.
        device: of what they tell each other beside gradients.
    """

    def __init__(self, group: ProcessGroup | None = None) -> None:
        self.group = group
        self.rank = 0 if group is None else dist.get_rank(group)
        self.num = 1 if group is None else dist.get_world_size(group)
        on_cpu = group is None or "cpu" in str(dist.get_backend_config(group))
        self.device = torch.device("cpu" if on_cpu else "cuda")

    @property
    def is_first(self) -> bool:
        """Whether this is the one that writes and speaks."""
        return self.rank == 0

    def all_reduce(self, tensor: Tensor) -> None:
        """Put the sum over all processes in place of a tensor."""
        if self.group is not None:
            with self._together():
                dist.all_reduce(tensor, group=self.group)

    def broadcast(self, tensor: Tensor) -> None:
        """Put the tensor of the first process in place of all."""
        if self.group is not None:
            whole = tensor.contiguous()
            with self._together():
                dist.broadcast(whole, group_src=0, group=self.group)
            if whole is not tensor:
                tensor.copy_(whole)

    def broadcast_text(self, text: str) -> str:
        """The text that the first process has."""
        return self._text_of(0, text)

    def first_nonempty_text(self, text: str) -> str:
        """The text of the first process that has one; empty where none has."""
        has_one = torch.zeros(self.num, device=self.device)
        has_one[self.rank] = float(bool(text))
        self.all_reduce(has_one)
        return self._text_of(int(has_one.argmax()), text) if has_one.any() else ""

    def run_in_all(self, work: Callable[[], Result]) -> Result:
        """Do something, and raise what the first that cannot raises, in all processes.

        Arguments:
            work: in which they may not do anything together.

        Raises:
            InputError: if one of them raised it.
        """
        if self.group is None:
            return work()
        result, message = None, ""
        try:
            result = work()
        except InputError as error:
            message = str(error).partition("\n")[0] or type(error).__name__
        said = self.first_nonempty_text(message)
        if said:
            raise Agreed(said)
        return cast(Result, result)

    def run_in_first(self, work: Callable[[], object]) -> None:
        """Let the first process do something, while the others wait.

        Raises:
            InputError: in all of them, if it raised it.
        """
        self.run_in_all(lambda: work() if self.is_first else None)

    def _text_of(self, rank: int, text: str) -> str:
        if self.group is None:
            return text
        data = torch.tensor(list(text.encode()), dtype=torch.uint8, device=self.device)
        size = torch.tensor([len(data)], device=self.device)
        with self._together():
            dist.broadcast(size, group_src=rank, group=self.group)
            if self.rank != rank:
                data = torch.zeros(int(size), dtype=torch.uint8, device=self.device)
            if len(data):
                dist.broadcast(data, group_src=rank, group=self.group)
        return bytes(data.tolist()).decode()

    @contextmanager
    def _together(self) -> Iterator[None]:
        try:
            yield
        except RuntimeError as error:  # DistBackendError among them; gloo raises it as it is
            raise Separated(
                f"process {self.rank} of {self.num} stopped, as another one did not answer: "
                f"{_reason(error)}"
            ) from error


def _reason(error: Exception) -> str:
    """What torch says, without the place in its code and without its advice."""
    line = (str(error).splitlines() or [""])[0]
    return re.sub(r"^\[[^]]*:\d+\] ", "", line).partition(". ")[0]
