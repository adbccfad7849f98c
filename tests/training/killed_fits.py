"""Run fits in separate processes, and kill them after a number of steps and seconds."""

import hashlib
import json
import multiprocessing
import os
import random
import signal
import threading
import time
import warnings
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pyro
import pyro.distributions as dist
import torch
from torch import Tensor, nn
from torch.optim import SGD, AdamW
from torch.optim.lr_scheduler import LambdaLR, MultiStepLR, OneCycleLR
from torch.utils.data import DataLoader, Dataset, TensorDataset, WeightedRandomSampler

from pyrovae import VAE, Batches, cli, fit
from pyrovae.priors import VampPrior
from pyrovae.runs import train as training
from pyrovae.training.resumable import Resumable

_PROCESSES = multiprocessing.get_context("forkserver")
_PROCESSES.set_forkserver_preload(["tests.training.killed_fits"])

NUM_DATA, BATCH = 50, 8
STEPS = 7
"""In a pass; the last batch holds two data."""

_BINOMIAL = {"family": "Binomial", "total_count": 16}


def counts() -> Tensor:
    with torch.random.fork_rng():
        torch.manual_seed(1)
        return torch.randint(0, 17, (NUM_DATA, 1, 4, 4)).float()


def vae_with_patience() -> dict[str, Any]:
    vae = VAE((1, 4, 4), 2, _BINOMIAL)
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

    vae = VAE((1, 4, 4), 2, _BINOMIAL, encoder=body)
    objective = {"name": "beta", "beta": {"steps": 20, "start": 0.0, "end": 1.0}}
    return {
        "model": vae.model,
        "guide": vae.guide,
        "data": Batches(counts(), BATCH),
        "objective": objective,
        "accumulate": 2,
    }


def user_program() -> dict[str, Any]:
    """Random ``pyro.param``s, momentum, and a loader without workers."""

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


def accumulated_with_momentum() -> dict[str, Any]:
    """Three batches per update; a pass ends in the middle of an update."""
    vae = VAE((1, 4, 4), 2, _BINOMIAL)
    return {
        "model": vae.model,
        "guide": vae.guide,
        "data": counts(),
        "accumulate": 3,
        "clip_norm": 5.0,
        "optimiser": partial(SGD, lr=1e-3, momentum=0.9, nesterov=True),
        "schedule": partial(LambdaLR, lr_lambda=lambda update: 1 / (1 + update)),
    }


def iwae_of_overdispersed_counts() -> dict[str, Any]:
    vae = VAE((1, 4, 4), 2, "NegativeBinomial")
    return {
        "model": vae.model,
        "guide": vae.guide,
        "data": counts(),
        "validation": counts()[:20],
        "objective": {"name": "iwae", "num_particles": 3},
        "optimiser": partial(AdamW, lr=0.01, amsgrad=True),
        "schedule": partial(MultiStepLR, milestones=[5, 15]),
    }


def one_cycle_in_half_precision() -> dict[str, Any]:
    """The schedule changes the momentum, too."""
    vae = VAE((1, 4, 4), 2, _BINOMIAL)
    return {
        "model": vae.model,
        "guide": vae.guide,
        "data": counts(),
        "autocast": torch.bfloat16,
        "schedule": partial(OneCycleLR, max_lr=0.05, total_steps=100),
    }


def prior_of_pseudo_inputs() -> dict[str, Any]:
    vae = VAE((1, 4, 4), 2, _BINOMIAL, prior=VampPrior((1, 4, 4), 5))
    return {"model": vae.model, "guide": vae.guide, "data": counts(), "lr": 0.01}


def posterior_of_each_datum() -> dict[str, Any]:
    free = {"name": "free", "num_data": NUM_DATA, "num_steps": 3}
    vae = VAE((1, 4, 4), 2, _BINOMIAL, inference=free)
    return {
        "model": vae.model,
        "guide": vae.guide,
        "data": (counts(), torch.arange(NUM_DATA)),
        "validation": counts()[:20],
        "patience": 1,
        "lr": 0.01,
    }


def discrete_latents() -> dict[str, Any]:
    """Score-function gradients."""
    decoder, encoder = nn.Linear(3, 16), nn.Linear(16, 3)

    def model(x: Tensor) -> None:
        pyro.module("decoder", decoder)
        with pyro.plate("data", len(x)):
            z = pyro.sample("z", dist.Bernoulli(torch.full((3,), 0.5)).to_event(1))
            pyro.sample("x", dist.Poisson(decoder(z).exp()).to_event(1), obs=x)

    def guide(x: Tensor) -> None:
        pyro.module("encoder", encoder)
        with pyro.plate("data", len(x)):
            pyro.sample("z", dist.Bernoulli(logits=encoder(x / 16)).to_event(1))

    return {
        "model": model,
        "guide": guide,
        "data": counts().flatten(1),
        "objective": {"name": "iwae", "num_particles": 2},
        "lr": 0.01,
    }


class _Noisy(Dataset[Tensor]):
    """Adds noise to each datum, drawn in the process that loads it."""

    def __getitem__(self, index: int) -> Tensor:
        return counts()[index].flatten() + torch.rand(()) / 10

    def __len__(self) -> int:
        return NUM_DATA


def loader_of_two_workers() -> dict[str, Any]:
    """Two workers, and a sampler with its own random generator."""
    generator = torch.Generator().manual_seed(5)
    sampler = WeightedRandomSampler(torch.ones(NUM_DATA).tolist(), NUM_DATA, generator=generator)
    setup = user_program()
    del setup["transform"]
    workers: Any = {"num_workers": 2, "multiprocessing_context": "fork"}
    loader = DataLoader(_Noisy(), BATCH, sampler=sampler, generator=generator, **workers)
    return setup | {"data": loader}


SETUPS: dict[str, Callable[[], dict[str, Any]]] = {
    each.__name__: each
    for each in (
        vae_with_patience,
        compiled,
        warmed_up_with_batch_normalisation,
        user_program,
        accumulated_with_momentum,
        iwae_of_overdispersed_counts,
        one_cycle_in_half_precision,
        prior_of_pseudo_inputs,
        posterior_of_each_datum,
        discrete_latents,
        loader_of_two_workers,
    )
}


@dataclass(frozen=True)
class Kill:
    """When to kill a process: in a step, before its state is saved, or some time later.

    Attributes:
        step: number of the step, from 1.
        seconds: delay after that; None for no delay.
        number: the signal.
    """

    step: int
    seconds: float | None = None
    number: signal.Signals = signal.SIGKILL


def _schedule_kill(kill: Kill) -> None:
    num_done = 0
    step_done = Resumable.step_done

    def step_done_and_kill(resumable: Resumable) -> None:
        nonlocal num_done
        num_done += 1
        if num_done == kill.step:
            if kill.seconds is None:
                os.kill(os.getpid(), kill.number)
            else:
                threading.Thread(target=kill_later, daemon=True).start()
        step_done(resumable)

    def kill_later() -> None:
        time.sleep(kill.seconds or 0.0)
        os.kill(os.getpid(), kill.number)

    Resumable.step_done = step_done_and_kill  # type: ignore[method-assign]


def train(setup: str, folder: Path, kill: Kill | None, every: float, epochs: int) -> None:
    """Start or resume a fit; write its result unless it is killed."""
    torch.set_num_threads(1)
    warnings.simplefilter("ignore")
    torch.manual_seed(0)
    random.seed(0)
    np.random.seed(0)  # noqa: NPY002
    settings = SETUPS[setup]()
    states = folder / "states"
    if kill is not None:
        _schedule_kill(kill)
    is_there = any((states / f"{name}.safetensors").is_file() for name in ("last", "previous"))
    history = fit(
        **settings,
        epochs=epochs,
        **({} if isinstance(settings["data"], Batches | DataLoader) else {"batch_size": BATCH}),
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


def run_fit(
    setup: str, folder: Path, kill: Kill | None, *, every: float = 0.0, epochs: int = 4
) -> dict[str, Any] | None:
    """Run :func:`train` in a separate process, and return its result; None if it was killed.

    Raises:
        RuntimeError: if the process failed.
    """
    folder.mkdir(exist_ok=True)
    arguments = (setup, folder, kill, every, epochs)
    process = _PROCESSES.Process(target=train, args=arguments)
    process.start()
    process.join()
    if process.exitcode == -signal.SIGKILL:
        return None
    if process.exitcode != 0:
        raise RuntimeError(f"exit code {process.exitcode}")
    found: dict[str, Any] = json.loads((folder / "result.json").read_text())
    return found


@dataclass(frozen=True)
class Outcome:
    """Exit code and output of a command; the code is minus the signal that killed it."""

    code: int
    out: str
    err: str


def _main(arguments: tuple[str, ...], folder: Path, kill: Kill | signal.Signals | None) -> None:
    os.chdir(folder)
    for descriptor, name in ((1, "out"), (2, "err")):
        os.dup2(os.open(folder / name, os.O_WRONLY | os.O_CREAT | os.O_TRUNC), descriptor)
    torch.set_num_threads(1)
    if isinstance(kill, Kill):
        _schedule_kill(kill)
    elif kill is not None:
        number = kill
        training.evaluate_elbo = lambda *_: os.kill(os.getpid(), number)
    cli.main(arguments)


def command(*arguments: str, folder: Path, kill: Kill | signal.Signals | None = None) -> Outcome:
    """Run ``pyrovae`` in a separate process.

    Arguments:
        arguments: as on the command line.
        folder: working folder.
        kill: kills the process in a step of training; a signal alone, as evaluation begins.
    """
    process = _PROCESSES.Process(target=_main, args=(arguments, folder, kill))
    process.start()
    process.join()
    assert process.exitcode is not None
    return Outcome(process.exitcode, *((folder / name).read_text() for name in ("out", "err")))
