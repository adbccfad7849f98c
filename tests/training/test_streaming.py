"""Data mapped from a file are trained on as those in memory, and never held."""

import multiprocessing
import os
import signal
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pyro
import pyro.distributions as dist
import pytest
import torch
from torch import Tensor

from pyrovae import SVI, VAE, Batches, History, evaluate, fit
from pyrovae.errors import Interrupted
from pyrovae.infer import ELBO, importance_sample, latent_report

_PROCESSES = multiprocessing.get_context("forkserver")
_PROCESSES.set_forkserver_preload(["tests.training.test_streaming"])

LARGE = 240
ALLOWED = 40
"""MB of a file, and of private memory beyond what the process began with."""


@pytest.fixture
def counts(tmp_path: Path) -> Any:
    """Fifty data in double precision, in a file that cannot be written to."""
    values = np.random.default_rng(1).integers(0, 17, (50, 1, 4, 4)).astype(np.float64)
    np.save(tmp_path / "counts.npy", values)
    return np.load(tmp_path / "counts.npy", mmap_mode="r")


def small() -> VAE:
    torch.manual_seed(3)
    return VAE((1, 4, 4), 2, {"family": "Binomial", "total_count": 16})


def trained(vae: VAE, data: Any, **settings: Any) -> History:
    options = {"epochs": 2, "batch_size": 10, "progress": False, "compile": False} | settings
    torch.manual_seed(7)
    return fit(vae.model, vae.guide, data, **options)


def same(one: VAE, other: VAE) -> bool:
    pairs = zip(one.state_dict().values(), other.state_dict().values(), strict=True)
    return all(torch.equal(a, b) for a, b in pairs)


def rows(history: History) -> list[dict[str, Any]]:
    return [{k: v for k, v in row.items() if k != "seconds"} for row in history.rows()]


@pytest.mark.parametrize("where", ["in a file", "in an array"])
def test_all_figures_are_those_of_a_tensor(where: str, counts: Any) -> None:
    tensor = torch.tensor(counts).float()
    data = counts if where == "in a file" else np.array(counts)
    one, other = small(), small()
    settings: dict[str, Any] = {"objective": {"name": "iwae", "num_particles": 3}}
    histories = [
        trained(vae, x, validation=x[:20], **settings) for vae, x in ((one, tensor), (other, data))
    ]
    assert rows(histories[0]) == rows(histories[1])
    assert same(one, other)

    def figures(x: Any) -> list[Any]:
        torch.manual_seed(5)
        pair = (one.model, one.guide, x)
        (report,) = latent_report(*pair, max_data=30, batch_size=20)
        estimate = importance_sample(*pair, num_samples=5, batch_size=20)
        return [
            evaluate(*pair, batch_size=20, compile=False),
            report.mutual_information,
            report.kl.tolist(),
            estimate.log_likelihood.tolist(),
        ]

    assert figures(tensor) == figures(data)


def test_a_recorded_step_reads_the_file(float64: None, counts: Any) -> None:
    """Beside a step as plain Python, to round-off; what is compiled is what was recorded."""
    losses = []
    for compile in (False, True):
        vae, batches = small(), Batches(counts, 10)
        adam = partial(torch.optim.Adam, lr=1e-2)
        loss = ELBO(batches.size)
        svi = SVI(vae.model, vae.guide, adam, loss, compile=compile, transform=batches.take)
        svi._gradients._can_compile = False
        losses.append([svi.step(index).loss for _ in range(3) for index in batches.indices()])
        assert svi.num_graphs == (int(compile), 0)
    torch.testing.assert_close(*losses, rtol=1e-9, atol=1e-9)


def test_an_interrupted_pass_goes_on_without_what_it_has_seen(counts: Any, tmp_path: Path) -> None:
    num_calls = 0

    def counted(x: Tensor) -> Tensor:
        nonlocal num_calls
        num_calls += 1
        if num_calls == stop_at:
            os.kill(os.getpid(), signal.SIGINT)
        return x

    stop_at, one, other = 0, small(), small()
    whole = trained(one, counts, transform=counted, checkpoint=tmp_path / "whole")
    check, looked_at, steps = 5, 2, 2 * 5
    assert num_calls == check + looked_at + steps
    num_calls, stop_at = 0, check + looked_at + 3
    with pytest.raises(Interrupted, match="after epoch 0 and 3 steps"):
        trained(small(), counts, transform=counted, checkpoint=tmp_path / "part")
    num_calls, stop_at = 0, 0
    resumed = trained(other, counts, transform=counted, resume=tmp_path / "part")
    assert num_calls == check + looked_at + steps - 3
    assert rows(resumed) == rows(whole)
    assert same(one, other)


def test_a_fit_begun_in_memory_goes_on_from_a_file(counts: Any, tmp_path: Path) -> None:
    one, other = small(), small()
    whole = trained(one, counts, epochs=3, checkpoint=tmp_path / "whole")
    trained(small(), torch.tensor(counts).float(), epochs=1, checkpoint=tmp_path / "part")
    resumed = trained(other, counts, epochs=3, resume=tmp_path / "part")
    assert rows(resumed) == rows(whole)
    assert same(one, other)


def _model(x: Tensor) -> None:
    loc = pyro.param("loc", torch.zeros(x.shape[1]))
    with pyro.plate("data", len(x)):
        z = pyro.sample("z", dist.Normal(0.0, 1.0))
        pyro.sample("x", dist.Normal(loc + z[:, None], 1.0).to_event(1), obs=x)


def _guide(x: Tensor) -> None:
    weight = pyro.param("weight", torch.zeros(x.shape[1]))
    with pyro.plate("data", len(x)):
        pyro.sample("z", dist.Normal(x @ weight, 1.0))


def _some(x: Tensor) -> Tensor:
    return x[:, ::1024].float()


def _private() -> int:
    """Bytes of private writable memory, which is what RLIMIT_DATA limits."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) * 1024 for line in lines if line.startswith("VmData"))


def _train(x: Any, states: Path) -> tuple[int, list[float]]:
    """And everything else that goes through data."""
    data = (x, np.zeros(len(x), dtype=np.int64))
    options: dict[str, Any] = {"transform": lambda x, _: _some(x), "batch_size": 50}
    held_out = tuple(part[: len(x) // 2] for part in data)
    fitted = {"epochs": 1, "compile": False, "validation": held_out, "checkpoint": states}
    history = fit(_model, _guide, data, **fitted, progress=False, **options)
    pair = (history.model, history.guide, data)
    evaluation = evaluate(*pair, num_particles=2, compile=False, **options)
    latent_report(*pair, max_data=100, progress=False, **options)
    importance_sample(*pair, num_samples=2, progress=False, **options)
    return evaluation.num_data, history["loss"]


def _train_within_bounds(folder: Path, outcome: Any) -> None:
    import resource  # which Linux has

    torch.set_num_threads(1)
    x = np.load(folder / "large.npy", mmap_mode="r")
    _train(x[:100], folder / "warm up")  # which imports what is needed
    limit = _private() + ALLOWED * 2**20
    resource.setrlimit(resource.RLIMIT_DATA, (limit, limit))
    num_data, losses = _train(x, folder / "states")
    try:
        np.array(x[: len(x) // 4])
        is_held_to_it = False
    except MemoryError:
        is_held_to_it = True
    outcome.put((num_data, losses, is_held_to_it))


@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="Linux counts private memory")
def test_memory_does_not_grow_with_the_data(tmp_path: Path) -> None:
    """In a process that may not hold a fourth of them; what it may not, it cannot."""
    width = 2**17
    shape = (LARGE * 2**20 // width, width)
    np.lib.format.open_memmap(tmp_path / "large.npy", "w+", np.uint8, shape)  # of holes
    outcome = _PROCESSES.SimpleQueue()
    process = _PROCESSES.Process(target=_train_within_bounds, args=(tmp_path, outcome))
    process.start()
    process.join()
    assert process.exitcode == 0
    num_data, losses, is_held_to_it = outcome.get()
    assert is_held_to_it
    assert num_data == shape[0]
    assert np.isfinite(losses).all()
