"""Processes that start together find one another, and not what earlier ones have left."""

from concurrent.futures import ThreadPoolExecutor
from time import sleep

import torch.distributed as dist

from pyrovae.training.launch import _agree_on_start

NUM = 3


def started(store: dist.HashStore, delays: tuple[float, ...]) -> set[str]:
    """The names that processes, here threads, agree on, having come one after the other."""

    def come(rank: int) -> str:
        sleep(delays[rank])
        return _agree_on_start(store, rank, NUM)

    with ThreadPoolExecutor(NUM) as threads:
        return set(threads.map(come, range(NUM)))


def test_each_start_has_a_name_of_its_own() -> None:
    store = dist.HashStore()
    names: set[str] = set()
    for delays in [(0.0, 0.1, 0.2), (0.0, 0.2, 0.1), (0.3, 0.0, 0.1), (0.1, 0.3, 0.0)]:
        (name,) = started(store, delays)
        assert name not in names
        names.add(name)


def test_what_one_that_was_killed_has_left_is_not_answered() -> None:
    """Two of an earlier start had agreed, and the third had not come."""
    store = dist.HashStore()
    store.set("pyrovae/word/1", "old1")
    store.set("pyrovae/word/2", "old2")
    store.set("pyrovae/words", "old0 old1 old2")
    store.set("pyrovae/answer/1", "old0")
    (name,) = started(store, (0.0, 0.2, 0.1))
    assert not name.startswith("old")
