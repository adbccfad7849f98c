"""Data in a memory-mapped file train a model as data in memory do, and are never read whole."""

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
"""MB in the file, and MB of private memory that the process may add to what it began with."""


@pytest.fixture
def counts(tmp_path: Path) -> Any:
    """Fifty data in double precision, in a read-only file."""
    values = np.random.default_rng(1).integers(0, 17, (50, 1, 4, 4)).astype(np.float64)
    np.save(tmp_path / "counts.npy", values)
    return np.load(tmp_path / "counts.npy", mmap_mode="r")


def make_vae() -> VAE:
    torch.manual_seed(3)
    return VAE((1, 4, 4), 2, {"family": "Binomial", "total_count": 16})


def train(vae: VAE, data: Any, **settings: Any) -> History:
    options = {"epochs": 2, "batch_size": 10, "progress": False, "compile": False} | settings
    torch.manual_seed(7)
    return fit(vae.model, vae.guide, data, **options)


def have_equal_states(one: VAE, other: VAE) -> bool:
    pairs = zip(one.state_dict().values(), other.state_dict().values(), strict=True)
    return all(torch.equal(a, b) for a, b in pairs)


def rows_without_seconds(history: History) -> list[dict[str, Any]]:
    return [{k: v for k, v in row.items() if k != "seconds"} for row in history.rows()]


@pytest.mark.slow
@pytest.mark.parametrize("where", ["in a file", "in an array"])
def test_arrays_give_the_figures_of_a_tensor(where: str, counts: Any) -> None:
    tensor = torch.tensor(counts).float()
    data = counts if where == "in a file" else np.array(counts)
    one, other = make_vae(), make_vae()
    settings: dict[str, Any] = {"objective": {"name": "iwae", "num_particles": 3}}
    histories = [
        train(vae, x, validation=x[:20], **settings) for vae, x in ((one, tensor), (other, data))
    ]
    assert rows_without_seconds(histories[0]) == rows_without_seconds(histories[1])
    assert have_equal_states(one, other)

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


@pytest.mark.slow
def test_recorded_step_reads_the_file(float64: None, counts: Any) -> None:
    """It agrees with a step in plain Python to round-off; what is compiled is what was recorded."""
    losses = []
    for compile in (False, True):
        vae, batches = make_vae(), Batches(counts, 10)
        adam = partial(torch.optim.Adam, lr=1e-2)
        loss = ELBO(batches.size)
        svi = SVI(vae.model, vae.guide, adam, loss, compile=compile, transform=batches.take)
        svi._gradients.tiered.can_compile = False
        losses.append([svi.step(index).loss for _ in range(3) for index in batches.indices()])
        assert svi.num_graphs == (int(compile), 0)
    torch.testing.assert_close(*losses, rtol=1e-9, atol=1e-9)


@pytest.mark.slow
def test_resumed_pass_does_not_read_earlier_batches_again(counts: Any, tmp_path: Path) -> None:
    num_calls = 0

    def count_calls(x: Tensor) -> Tensor:
        nonlocal num_calls
        num_calls += 1
        if num_calls == stop_at:
            os.kill(os.getpid(), signal.SIGINT)
        return x

    stop_at, one, other = 0, make_vae(), make_vae()
    whole = train(one, counts, transform=count_calls, checkpoint=tmp_path / "whole")
    check, first_check, steps = 5, 2, 2 * 5
    assert num_calls == check + first_check + steps
    num_calls, stop_at = 0, check + first_check + 3
    with pytest.raises(Interrupted, match="after epoch 0 and 3 steps"):
        train(make_vae(), counts, transform=count_calls, checkpoint=tmp_path / "part")
    num_calls, stop_at = 0, 0
    resumed = train(other, counts, transform=count_calls, resume=tmp_path / "part")
    assert num_calls == check + first_check + steps - 3
    assert rows_without_seconds(resumed) == rows_without_seconds(whole)
    assert have_equal_states(one, other)


def test_fit_on_tensors_resumes_on_a_file(counts: Any, tmp_path: Path) -> None:
    one, other = make_vae(), make_vae()
    whole = train(one, counts, epochs=3, checkpoint=tmp_path / "whole")
    train(make_vae(), torch.tensor(counts).float(), epochs=1, checkpoint=tmp_path / "part")
    resumed = train(other, counts, epochs=3, resume=tmp_path / "part")
    assert rows_without_seconds(resumed) == rows_without_seconds(whole)
    assert have_equal_states(one, other)


def _model(x: Tensor) -> None:
    loc = pyro.param("loc", torch.zeros(x.shape[1]))
    with pyro.plate("data", len(x)):
        z = pyro.sample("z", dist.Normal(0.0, 1.0))
        pyro.sample("x", dist.Normal(loc + z[:, None], 1.0).to_event(1), obs=x)


def _guide(x: Tensor) -> None:
    weight = pyro.param("weight", torch.zeros(x.shape[1]))
    with pyro.plate("data", len(x)):
        pyro.sample("z", dist.Normal(x @ weight, 1.0))


def _subsample_pixels(x: Tensor) -> Tensor:
    return x[:, ::1024].float()


def _private() -> int:
    """Bytes of private writable memory, which is what RLIMIT_DATA limits."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) * 1024 for line in lines if line.startswith("VmData"))


def _train(x: Any, states: Path) -> tuple[int, list[float]]:
    """Fit, and call every other function that iterates over data."""
    data = (x, np.zeros(len(x), dtype=np.int64))
    options: dict[str, Any] = {"transform": lambda x, _: _subsample_pixels(x), "batch_size": 50}
    held_out = tuple(part[: len(x) // 2] for part in data)
    fitted = {"epochs": 1, "compile": False, "validation": held_out, "checkpoint": states}
    history = fit(_model, _guide, data, **fitted, progress=False, **options)
    pair = (history.model, history.guide, data)
    evaluation = evaluate(*pair, num_particles=2, compile=False, **options)
    latent_report(*pair, max_data=100, progress=False, **options)
    importance_sample(*pair, num_samples=2, progress=False, **options)
    return evaluation.num_data, history["loss"]


def _train_within_bounds(folder: Path, outcome: Any) -> None:
    import resource  # Linux only

    torch.set_num_threads(1)
    x = np.load(folder / "large.npy", mmap_mode="r")
    _train(x[:100], folder / "warm up")  # so that all imports are done
    limit = _private() + ALLOWED * 2**20
    resource.setrlimit(resource.RLIMIT_DATA, (limit, limit))
    num_data, losses = _train(x, folder / "states")
    try:
        np.array(x[: len(x) // 4])
        limit_holds = False
    except MemoryError:
        limit_holds = True
    outcome.put((num_data, losses, limit_holds))


@pytest.mark.slow
@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="Linux counts private memory")
def test_memory_does_not_grow_with_the_data(tmp_path: Path) -> None:
    """In a process with too little memory for a fourth of the data; reading a fourth must fail."""
    width = 2**17
    shape = (LARGE * 2**20 // width, width)
    np.lib.format.open_memmap(tmp_path / "large.npy", "w+", np.uint8, shape)  # a sparse file
    outcome = _PROCESSES.SimpleQueue()
    process = _PROCESSES.Process(target=_train_within_bounds, args=(tmp_path, outcome))
    process.start()
    process.join()
    assert process.exitcode == 0
    num_data, losses, limit_holds = outcome.get()
    assert limit_holds
    assert num_data == shape[0]
    assert np.isfinite(losses).all()
