"""Generators and counters of data and programs are found, saved and restored."""

import random
from collections.abc import Callable, Iterator
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pyro
import pyro.distributions as dist
import pytest
import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset, Sampler, TensorDataset

from pyrovae import InputError, fit
from pyrovae.data.batches import LoaderBatches
from pyrovae.training.generators import find_random_sources
from pyrovae.training.sources import Sources

NUM_DATA, BATCH = 30, 7
X = torch.randn(NUM_DATA, 3, generator=torch.Generator().manual_seed(0))


class Shuffled(Sampler[int]):
    """A sampler that keeps its generator under a name of its own, and counts its passes."""

    def __init__(self, source: Any) -> None:
        self.source = source
        self.passes = 0

    def __len__(self) -> int:
        return NUM_DATA

    def __iter__(self) -> Iterator[int]:
        self.passes += 1
        if isinstance(self.source, torch.Generator):
            order = torch.randperm(NUM_DATA, generator=self.source).tolist()
        elif isinstance(self.source, np.random.Generator | np.random.RandomState):
            order = self.source.permutation(NUM_DATA).tolist()
        else:
            order = self.source.sample(range(NUM_DATA), NUM_DATA)
        return iter(order[self.passes % 3 :] + order[: self.passes % 3])


class Noisy(Dataset[Tensor]):
    """Data with noise from a generator in a list."""

    def __init__(self) -> None:
        self.rngs = [np.random.default_rng(5)]

    def __len__(self) -> int:
        return NUM_DATA

    def __getitem__(self, number: int) -> Tensor:
        return X[number] + torch.from_numpy(self.rngs[0].normal(size=3)).float()


SOURCES: dict[str, Callable[[], Any]] = {
    "torch": lambda: torch.Generator().manual_seed(1),
    "numpy": lambda: np.random.default_rng(1),
    "mersenne": lambda: np.random.Generator(np.random.MT19937(1)),
    "legacy numpy": lambda: np.random.RandomState(1),
    "python": lambda: random.Random(1),
}


def pair(own: torch.Generator | None = None) -> tuple[Any, Any]:

    def model(x: Tensor) -> None:
        with pyro.plate("data", len(x)):
            z = pyro.sample("z", dist.Normal(torch.zeros(3), 1.0).to_event(1))
            pyro.sample("x", dist.Normal(z, 1.0).to_event(1), obs=x)

    def guide(x: Tensor) -> None:
        loc = pyro.param("loc", torch.zeros(3))
        shift = 0.1 * torch.randn(3, generator=own)
        with pyro.plate("data", len(x)):
            pyro.sample("z", dist.Normal(x / 2 + loc + shift, 0.7).to_event(1))

    return model, guide


def run(folder: Path, epochs: int, make: Callable[[], Any], **options: Any) -> Any:
    """The last loss and the parameter of a fit; data, sampler and guide draw from generators."""
    pyro.clear_param_store()
    torch.manual_seed(3)
    loader = DataLoader(Noisy(), BATCH, sampler=Shuffled(make()))
    options |= {"progress": False, "compile": False, "checkpoint_every": 0.0}
    own = torch.Generator().manual_seed(7)
    history = fit(*pair(own), loader, epochs=epochs, lr=0.05, **options)
    return history["loss"], history.params["loc"].tolist()


@pytest.mark.parametrize("kind", SOURCES)
def test_a_resumed_fit_goes_on_with_all_generators(kind: str, tmp_path: Path) -> None:
    make = SOURCES[kind]
    whole = run(tmp_path / "whole", 4, make, checkpoint=tmp_path / "whole")
    run(tmp_path / "part", 2, make, checkpoint=tmp_path / "part")
    resumed = run(tmp_path / "part", 4, make, resume=tmp_path / "part")
    assert resumed == whole


class Late(Shuffled):
    """A sampler that counts its passes from the first one on."""

    def __init__(self, source: Any) -> None:
        self.source = source

    def __iter__(self) -> Iterator[int]:
        self.passes = getattr(self, "passes", 0)
        return super().__iter__()


def test_numbers_that_appear_later_go_on(tmp_path: Path) -> None:
    def train(epochs: int, **options: Any) -> Any:
        pyro.clear_param_store()
        torch.manual_seed(3)
        loader = DataLoader(Noisy(), BATCH, sampler=Late(torch.Generator().manual_seed(1)))
        options |= {"progress": False, "compile": False, "checkpoint_every": 0.0}
        return fit(*pair(), loader, epochs=epochs, lr=0.05, **options)["loss"]

    whole = train(4, checkpoint=tmp_path / "whole")
    train(2, checkpoint=tmp_path / "part")
    assert train(4, resume=tmp_path / "part") == whole


def test_generators_are_found_wherever_they_are() -> None:
    sampler = Shuffled(np.random.default_rng(0))
    deep = {"list": [Shuffled(random.Random(0))]}
    model, guide = pair(torch.Generator())
    found = find_random_sources(sampler, deep, model, guide, torch.randperm, refuses=True)
    assert {type(each) for each in found} == {np.random.Generator, random.Random, torch.Generator}


def test_global_generators_are_left_to_the_process() -> None:
    holder = Shuffled([random, np.random, torch.default_generator, np.random.mtrand._rand])
    assert find_random_sources(holder, refuses=True) == []


def test_python_generators_are_refused_where_states_are_saved(tmp_path: Path) -> None:
    def numbers() -> Iterator[int]:
        yield from range(10**6)

    sampler = Shuffled(torch.Generator())
    sampler.stream = numbers()  # type: ignore[attr-defined]
    loader = DataLoader(TensorDataset(X), BATCH, sampler=sampler)
    fit(*pair(), loader, epochs=1, progress=False, compile=False)
    with pytest.raises(InputError, match=r"sampler\.stream is a Python generator"):
        fit(*pair(), loader, epochs=1, progress=False, checkpoint=tmp_path)


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (lambda record: record["others"].pop(), "shorter|longer"),
        (lambda record: record["others"].__setitem__(2, 3), "another kind"),
        (lambda record: record["others"][2]["state"].update(pos=10**9), "not valid"),
        (lambda record: record["others"][2]["state"]["key"].pop(), "another size"),
        (lambda record: record["counters"][0].update(secret=1), "counts no number 'secret'"),
        (lambda record: record["counters"][0].update(passes="x"), "counts no number 'passes'"),
    ],
)
def test_states_that_do_not_fit_are_refused(change: Any, words: str) -> None:
    loader = DataLoader(TensorDataset(X), BATCH, sampler=Shuffled(SOURCES["mersenne"]()))
    sources = Sources((), (LoaderBatches(loader),), is_saved=True)
    state = sources.state()
    change(state.record)
    with pytest.raises(ValueError, match=words):
        sources.restore(state)


def kinds(folder: Path, epochs: int, **options: Any) -> Any:
    """A fit with batches of 5 sizes, whose order is drawn."""
    pyro.clear_param_store()
    torch.manual_seed(3)
    sizes = list(range(3, 8))
    starts = np.cumsum([0, *sizes])
    blocks = [range(a, b) for a, b in pairwise(starts.tolist())]
    data = torch.randn(int(starts[-1]), 3, generator=torch.Generator().manual_seed(1))

    class Blocks(Sampler[list[int]]):
        def __iter__(self) -> Iterator[list[int]]:
            return iter([list(blocks[i]) for i in torch.randperm(len(blocks)).tolist()])

        def __len__(self) -> int:
            return len(blocks)

    loader = DataLoader(TensorDataset(data), batch_sampler=Blocks())
    options |= {"progress": False, "checkpoint_every": 0.0, "compile": True}
    history = fit(*pair(), loader, epochs=epochs, lr=0.05, **options)
    return history["loss"], history.params["loc"].tolist()


@pytest.mark.slow
def test_more_kinds_of_batch_than_graphs_are_kept(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Which kinds have a graph does not depend on where the fit was resumed."""
    for module in ("tiered", "specialisations"):
        monkeypatch.setattr(f"pyrovae.infer.compiler.{module}.MOST_SPECIALISATIONS", 3)
    whole = kinds(tmp_path / "whole", 4, checkpoint=tmp_path / "whole")
    kinds(tmp_path / "part", 2, checkpoint=tmp_path / "part")
    assert kinds(tmp_path / "part", 4, resume=tmp_path / "part") == whole
