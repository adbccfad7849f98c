"""Fits in processes of their own, which are killed."""

import hashlib
import json
import multiprocessing
import os
import random
import signal
import threading
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pyro
import pyro.distributions as dist
import torch
from torch import Tensor, nn
from torch.optim import SGD
from torch.utils.data import DataLoader, TensorDataset

from pyrovae import VAE, Batches, fit

_PROCESSES = multiprocessing.get_context("forkserver")
_PROCESSES.set_forkserver_preload(["tests.killed"])

NUM_DATA = 50


def counts() -> Tensor:
    with torch.random.fork_rng():
        torch.manual_seed(1)
        return torch.randint(0, 17, (NUM_DATA, 1, 4, 4)).float()


def vae_with_patience() -> dict[str, Any]:
    vae = VAE((1, 4, 4), 2, {"family": "Binomial", "total_count": 16})
    return {
        "model": vae.model,
        "guide": vae.guide,
        "data": counts(),
        "validation": counts()[:20],
        "patience": 2,
        "schedule": "cosine",
        "clip_norm": 50.0,
        "lr": 0.03,
    }


def compiled() -> dict[str, Any]:
    return vae_with_patience() | {"compile": True}


def warmed_up_with_batch_normalisation() -> dict[str, Any]:
    def body(in_shape: Any, out_shape: Any) -> nn.Module:
        return nn.Sequential(
            nn.Flatten(-3),
            nn.Linear(16, 8),
            nn.BatchNorm1d(8),
            nn.Dropout(0.3),
            nn.Linear(8, 4),
            nn.Unflatten(-1, out_shape),
        )

    vae = VAE((1, 4, 4), 2, {"family": "Binomial", "total_count": 16}, encoder=body)
    objective = {"name": "beta", "beta": {"steps": 20, "start": 0.0, "end": 1.0}}
    return {
        "model": vae.model,
        "guide": vae.guide,
        "data": Batches(counts(), 16),
        "objective": objective,
        "accumulate": 2,
    }


def program_of_a_user() -> dict[str, Any]:
    """Parameters of Pyro's, drawn at random; momentum; a loader whose workers are none."""

    def model(x: Tensor) -> None:
        loc = pyro.param("loc", lambda: torch.randn(16))
        with pyro.plate("data", len(x)):
            z = pyro.sample("z", dist.Normal(0.0, 1.0))
            p = dist.Normal(loc + z[:, None], 3.0).to_event(1)
            pyro.sample("x", p, obs=x)

    def guide(x: Tensor) -> None:
        scale = pyro.param("scale", torch.tensor(1.0), constraint=dist.constraints.positive)
        weight = pyro.param("weight", lambda: torch.randn(16) / 20)
        with pyro.plate("data", len(x)):
            pyro.sample("z", dist.Normal(x @ weight, scale))

    def with_noise(x: Tensor) -> Tensor:
        return x + np.random.normal() / 10 + random.random() / 10  # noqa: NPY002

    loader = DataLoader(TensorDataset(counts().flatten(1)), 8, shuffle=True)
    return {
        "model": model,
        "guide": guide,
        "data": loader,
        "transform": with_noise,
        "optimiser": partial(SGD, lr=1e-4, momentum=0.9),
    }


SETUPS: dict[str, Callable[[], dict[str, Any]]] = {
    each.__name__: each
    for each in (
        vae_with_patience,
        compiled,
        warmed_up_with_batch_normalisation,
        program_of_a_user,
    )
}


def train(setup: str, folder: Path, kill_after: float | None, every: float, epochs: int) -> None:
    """Begin a fit, or go on; killed after so many seconds of it, or else its result is written."""
    torch.set_num_threads(1)
    for seed in (torch.manual_seed, random.seed, np.random.seed):  # noqa: NPY002
        seed(0)
    settings = SETUPS[setup]()
    states = folder / "states"
    if kill_after is not None:

        def kill() -> None:
            time.sleep(kill_after)
            os.kill(os.getpid(), signal.SIGKILL)

        threading.Thread(target=kill, daemon=True).start()
    is_there = any((states / f"{name}.safetensors").is_file() for name in ("last", "previous"))
    history = fit(
        **settings,
        epochs=epochs,
        batch_size=8,
        progress=False,
        checkpoint_every=every,
        **{"resume" if is_there else "checkpoint": states},
    )
    digest = hashlib.sha256()
    for name, value in sorted(history.params.items()):
        digest.update(name.encode() + value.numpy().tobytes())
    for part in (settings["model"], settings["guide"]):
        if isinstance(part, nn.Module):
            for tensor in part.state_dict().values():
                digest.update(tensor.numpy().tobytes())
    rows = [{k: v for k, v in row.items() if k != "seconds"} for row in history.rows()]
    drawn = [torch.rand(()).item(), random.random(), float(np.random.random())]  # noqa: NPY002
    result = {"parameters": digest.hexdigest(), "epochs": rows, "next random numbers": drawn}
    (folder / "result.json").write_text(json.dumps(result))


def run(
    setup: str, folder: Path, kill_after: float | None, *, every: float = 0.0, epochs: int = 4
) -> dict[str, Any] | None:
    """In a process of its own; what it ended with, or None if it was killed before.

    Raises:
        RuntimeError: if it ended by itself, but not well.
    """
    folder.mkdir(exist_ok=True)
    arguments = (setup, folder, kill_after, every, epochs)
    process = _PROCESSES.Process(target=train, args=arguments)
    process.start()
    process.join()
    if process.exitcode == -signal.SIGKILL:
        return None
    if process.exitcode != 0:
        raise RuntimeError(f"exit code {process.exitcode}")
    found: dict[str, Any] = json.loads((folder / "result.json").read_text())
    return found
