"""Batches cover the data once a pass, in a new order each time."""

import pytest
import torch
from torch.utils.data import DataLoader, SubsetRandomSampler

from pyrovae import Batches, InputError
from pyrovae.data.batches import LoaderBatches


def test_every_datum_once_a_pass_in_a_new_order() -> None:
    batches = Batches((torch.arange(10), torch.arange(10) * 2), batch_size=4)
    passes = []
    for _ in range(2):
        parts = list(batches)
        assert [len(x) for x, _ in parts] == [4, 4, 2]
        assert all(torch.equal(2 * x, y) for x, y in parts)
        passes.append(torch.cat([x for x, _ in parts]).tolist())
    assert sorted(passes[0]) == sorted(passes[1]) == list(range(10))
    assert passes[0] != passes[1]
    assert (len(batches), batches.size) == (3, 10)


def test_order_follows_the_seed() -> None:
    def order() -> list[int]:
        torch.manual_seed(5)
        return torch.cat([x for (x,) in Batches(torch.arange(50), 7)]).tolist()

    assert order() == order()


def test_without_shuffling_batches_are_views() -> None:
    x = torch.arange(6.0)
    batches = list(Batches(x, 4, shuffle=False))
    assert [b.tolist() for (b,) in batches] == [[0, 1, 2, 3], [4, 5]]
    assert batches[1][0].data_ptr() == x[4:].data_ptr()


def test_batches_are_where_the_device_is() -> None:
    (batch,) = next(iter(Batches(torch.arange(4), device="meta")))
    assert batch.device.type == "meta"


def test_loaders_are_counted_and_moved() -> None:
    loader = DataLoader(list(torch.arange(10.0)), batch_size=4, drop_last=True)  # type: ignore[arg-type]
    batches = LoaderBatches(loader, lambda x: x + 1, "cpu")
    assert (len(batches), batches.size) == (2, 10)
    assert torch.cat([x for (x,) in batches]).tolist() == list(range(1, 9))


def test_the_size_is_that_of_what_the_sampler_draws_from() -> None:
    """Which weighs latents that all data share; the data set behind it may be larger."""
    rows = list(torch.arange(10.0))
    loader = DataLoader(rows, batch_size=2, sampler=SubsetRandomSampler(range(3)))  # type: ignore[arg-type]
    assert LoaderBatches(loader).size == 3


def test_batches_that_are_dicts_go_to_the_transform() -> None:
    rows = [{"x": torch.full((2,), float(i)), "id": str(i)} for i in range(6)]
    loader = DataLoader(rows, batch_size=4)  # type: ignore[arg-type]
    batches = list(LoaderBatches(loader, lambda batch: [batch["x"], torch.ones(len(batch["id"]))]))
    assert [x.shape for x, _ in batches] == [(4, 2), (2, 2)]


def test_an_endless_source_is_refused() -> None:
    with pytest.raises(InputError, match="a DataLoader; got generator"):
        LoaderBatches(x for x in [torch.zeros(3)])
