"""Rows of files larger than memory, read from the disk before they are asked for."""

import mmap
import os
from collections import deque
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager

import torch
from jaxtyping import Int
from torch import Tensor

__all__ = ["are_beyond_memory", "read_ahead"]

_DEPTH = 8
"""Batches that are read at once: a disk answers many requests in little more time than one."""


def are_beyond_memory(maps: Sequence[mmap.mmap]) -> bool:
    """Whether files are larger than the memory of the machine, so that it cannot keep them."""
    if not (hasattr(os, "sysconf") and hasattr(mmap.mmap, "madvise")):
        return False
    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    return sum(map(len, maps)) > memory


def read_ahead(
    indices: Iterable[Tensor], tensors: Sequence[Tensor], maps: Sequence[mmap.mmap]
) -> Iterator[Tensor]:
    """The same numbers of data, while threads read the pages of the batches that come next.

    Only pages are touched: where a thread is late, gathering a batch reads what it needs itself,
    and a batch that comes while all threads are busy is passed over. Meanwhile the system is told
    not to read the pages around these, as it does for files that are read in order.

    Arguments:
        indices: numbers of the data in each batch.
        tensors: that are mapped from files; those with gaps between their rows are left out.
        maps: the maps themselves.
    """
    pages = [_Pages(part) for part in tensors if part.is_contiguous() and part.numel()]
    coming: deque[Tensor] = deque()
    under_way: deque[Future[None]] = deque()
    pool = ThreadPoolExecutor(_DEPTH, thread_name_prefix="pyrovae-read-ahead")
    with _read_at_random(maps):
        try:
            for index in indices:
                while under_way and under_way[0].done():
                    under_way.popleft().result()
                if len(under_way) < _DEPTH:
                    under_way.append(pool.submit(_touch, pages, index))
                coming.append(index)
                if len(coming) > _DEPTH:
                    yield coming.popleft()
            yield from coming
        finally:
            pool.shutdown(wait=True, cancel_futures=True)  # the file may go once the pass is over


class _Pages:
    """One byte in each page of each row."""

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
def _read_at_random(maps: Sequence[mmap.mmap]) -> Iterator[None]:
    for each in maps:
        each.madvise(mmap.MADV_RANDOM)
    try:
        yield
    finally:
        for each in maps:
            each.madvise(mmap.MADV_NORMAL)
