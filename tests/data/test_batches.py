"""Batches cover the data once per pass, in a new order each time."""

import pytest
import torch
from torch.utils.data import DataLoader, SubsetRandomSampler

from pyrovae import Batches, InputError
from pyrovae.data.batches import LoaderBatches


def test_each_pass_yields_every_datum_once_in_a_new_order() -> None:
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


def test_unshuffled_batches_are_views() -> None:
    x = torch.arange(6.0)
    batches = list(Batches(x, 4, shuffle=False))
    assert [b.tolist() for (b,) in batches] == [[0, 1, 2, 3], [4, 5]]
    assert batches[1][0].data_ptr() == x[4:].data_ptr()


def test_batches_are_on_the_given_device() -> None:
    (batch,) = next(iter(Batches(torch.arange(4), device="meta")))
    assert batch.device.type == "meta"


def test_loader_batches_are_counted_transformed_and_moved() -> None:
    loader = DataLoader(list(torch.arange(10.0)), batch_size=4, drop_last=True)  # type: ignore[arg-type]
    batches = LoaderBatches(loader, lambda x: x + 1, "cpu")
    assert (len(batches), batches.size) == (2, 10)
    assert torch.cat([x for (x,) in batches]).tolist() == list(range(1, 9))


def test_size_of_a_loader_is_the_number_of_data_that_its_sampler_uses() -> None:
    """The size weights global latents; the data set may be larger than the sampled subset."""
    rows = list(torch.arange(10.0))
    loader = DataLoader(rows, batch_size=2, sampler=SubsetRandomSampler(range(3)))  # type: ignore[arg-type]
    assert LoaderBatches(loader).size == 3


def test_transform_receives_batches_that_are_dicts() -> None:
    rows = [{"x": torch.full((2,), float(i)), "id": str(i)} for i in range(6)]
    loader = DataLoader(rows, batch_size=4)  # type: ignore[arg-type]
    batches = list(LoaderBatches(loader, lambda batch: [batch["x"], torch.ones(len(batch["id"]))]))
    assert [x.shape for x, _ in batches] == [(4, 2), (2, 2)]


def test_generators_are_refused() -> None:
    with pytest.raises(InputError, match="Batches or a DataLoader"):
        LoaderBatches(x for x in [torch.zeros(3)])
