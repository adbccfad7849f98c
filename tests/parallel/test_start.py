"""Processes that start together find one another, and ignore what earlier ones left behind."""

from concurrent.futures import ThreadPoolExecutor
from time import sleep

import pytest
import torch.distributed as dist

from pyrovae.training.launch import _agree_on_start

NUM = 3


def start_all(store: dist.HashStore, delays: tuple[float, ...]) -> set[str]:
    """The names that processes, here threads, agree on if they start with these delays."""

    def start(rank: int) -> str:
        sleep(delays[rank])
        return _agree_on_start(store, rank, NUM)

    with ThreadPoolExecutor(NUM) as threads:
        return set(threads.map(start, range(NUM)))


@pytest.mark.slow
def test_each_start_has_its_own_name() -> None:
    store = dist.HashStore()
    names: set[str] = set()
    for delays in [(0.0, 0.1, 0.2), (0.0, 0.2, 0.1), (0.3, 0.0, 0.1), (0.1, 0.3, 0.0)]:
        (name,) = start_all(store, delays)
        assert name not in names
        names.add(name)


def test_tokens_of_killed_processes_are_ignored() -> None:
    """In an earlier start two processes had agreed, and the third had not started yet."""
    store = dist.HashStore()
    store.set("pyrovae/token/1", "old1")
    store.set("pyrovae/token/2", "old2")
    store.set("pyrovae/tokens", "old0 old1 old2")
    store.set("pyrovae/answer/1", "old0")
    (name,) = start_all(store, (0.0, 0.2, 0.1))
    assert not name.startswith("old")
