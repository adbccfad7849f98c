"""Read rows of files larger than memory from the disk before batches need them."""

import mmap
from collections import deque
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager

import torch
from jaxtyping import Int
from torch import Tensor

from .memory import available_memory

__all__ = ["are_larger_than_memory", "read_ahead"]

_DEPTH = 8
"""Batches to read at once; a disk serves many requests in little more time than one."""


def are_larger_than_memory(maps: Sequence[mmap.mmap]) -> bool:
    """Whether files are together larger than the memory of the machine, which cannot cache them."""
    memory = available_memory()
    return memory is not None and hasattr(mmap.mmap, "madvise") and sum(map(len, maps)) > memory


def read_ahead(
    indices: Iterable[Tensor], tensors: Sequence[Tensor], maps: Sequence[mmap.mmap]
) -> Iterator[Tensor]:
    """Yield the indices unchanged, while threads read the pages of the next batches.

    Threads only touch pages: if one is late, gathering the batch reads the pages that it needs,
    and if all threads are busy, a batch is skipped. Meanwhile the operating system is advised not
    to read neighbouring pages, as it does for files that are read in order.

    Arguments:
        indices: indices of the data in each batch.
        tensors: memory-mapped tensors; those with gaps between their rows are ignored.
        maps: their memory maps.
    """
    pages = [_Pages(part) for part in tensors if part.is_contiguous() and part.numel()]
    upcoming: deque[Tensor] = deque()
    pending: deque[Future[None]] = deque()
    pool = ThreadPoolExecutor(_DEPTH, thread_name_prefix="pyrovae-read-ahead")
    with _advise_random_access(maps):
        try:
            for index in indices:
                while pending and pending[0].done():
                    pending.popleft().result()
                if len(pending) < _DEPTH:
                    pending.append(pool.submit(_touch, pages, index))
                upcoming.append(index)
                if len(upcoming) > _DEPTH:
                    yield upcoming.popleft()
            yield from upcoming
        finally:
            pool.shutdown(wait=True, cancel_futures=True)  # the file may be closed after the pass


class _Pages:
    """Touches one byte in each page of each row."""

    def __init__(self, part: Tensor) -> None:
        self._bytes = part.view(len(part), -1).view(torch.uint8)
        width = self._bytes.shape[1]
        self._columns = torch.tensor([*range(0, width, mmap.PAGESIZE), width - 1])

    def touch(self, index: Int[Tensor, "batch"]) -> None:
        self._bytes[index[:, None], self._columns]


def _touch(pages: Sequence[_Pages], index: Tensor) -> None:
    for each in pages:
        each.touch(index)


@contextmanager
def _advise_random_access(maps: Sequence[mmap.mmap]) -> Iterator[None]:
    for each in maps:
        each.madvise(mmap.MADV_RANDOM)
    try:
        yield
    finally:
        for each in maps:
            each.madvise(mmap.MADV_NORMAL)
