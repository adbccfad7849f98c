"""Training with parameters that are split over processes (FSDP) equals training with whole ones."""

from collections.abc import Callable
from functools import partial
from pathlib import Path
from shutil import copytree
from typing import Any

import pyro
import pyro.distributions as dist
import pytest
import torch
from torch import Tensor, nn
from torch.distributed import ProcessGroup
from torch.distributed.fsdp import fully_shard
from torch.distributed.tensor import DTensor
from torch.optim import SGD

from pyrovae import VAE, Batches, InputError
from pyrovae.training.snapshots import Snapshots

from .fits import Settings, counts, result_of_fit
from .processes import get_results, run_processes

NUM = 20
"""Number of data: two batches of eight and one of four."""

_BINOMIAL = {"family": "Binomial", "total_count": 16}


def _vae(is_split: bool) -> VAE:
    vae = VAE((1, 4, 4), 2, _BINOMIAL)
    if is_split:
        fully_shard(vae.model.decoder)
        for parameter in vae.model.decoder.parameters():
            assert isinstance(parameter, DTensor)
            assert 2 * parameter.to_local().numel() == parameter.numel()
    return vae


def _settings(is_split: bool, **settings: Any) -> Settings:
    vae = _vae(is_split)
    return {"model": vae.model, "guide": vae.guide, "data": counts(NUM), "lr": 0.03} | settings


def clipped_with_patience(is_split: bool) -> Settings:
    patience = {"validation": counts(11), "patience": 1, "schedule": "cosine"}
    return _settings(is_split, clip_norm=5.0, **patience) | {"compile": "auto"}


def accumulated_with_momentum(is_split: bool) -> Settings:
    momentum = partial(SGD, lr=1e-3, momentum=0.9)
    return _settings(is_split, accumulate=2, optimiser=momentum, objective="iwae")


def functions_of_split_layers(is_split: bool) -> Settings:
    """Each layer is split by itself; a parameter of ``pyro.param`` is not."""
    networks = [
        nn.Sequential(nn.Linear(*n), nn.Tanh(), nn.Linear(8, 16)) for n in ((2, 8), (16, 8))
    ]
    decoder, encoder = networks
    if is_split:
        for network in networks:
            for layer in (network[0], network[2], network):
                fully_shard(layer)

    def model(x: Tensor) -> None:
        pyro.module("decoder", decoder)
        scale = pyro.param("scale", torch.tensor(2.0), constraint=dist.constraints.positive)
        with pyro.plate("data", len(x)):
            z = pyro.sample("z", dist.Normal(torch.zeros(2), 1.0).to_event(1))
            pyro.sample("x", dist.Normal(decoder(z), scale).to_event(1), obs=x)

    def guide(x: Tensor) -> None:
        pyro.module("encoder", encoder)
        with pyro.plate("data", len(x)):
            pyro.sample("z", dist.Normal(encoder(x)[:, :2], 0.5).to_event(1))

    data = counts(NUM).flatten(1)
    return {"model": model, "guide": guide, "data": data, "validation": data[:7]}


def skipped_step(is_split: bool) -> Settings:
    """The gradient of one datum is not finite, in the part of a parameter in one process."""
    settings = _settings(is_split)
    last = nn.Linear(1, 4)
    if is_split:
        fully_shard(last)

    def model(x: Tensor, is_bad: Tensor) -> None:
        settings["model"](x)
        pyro.module("last", last)
        value = last(torch.ones(1))[3]
        pyro.factor("bad", ((value - value.detach()).abs() + ~is_bad.any()).sqrt())

    def guide(x: Tensor, is_bad: Tensor) -> None:
        settings["guide"](x)

    data = Batches((counts(NUM), torch.arange(NUM) == 12), 8, shuffle=False)
    return settings | {"model": model, "guide": guide, "data": data, "non_finite": "skip"}


SETUPS: dict[str, Callable[[bool], Settings]] = {
    each.__name__: each
    for each in (
        clipped_with_patience,
        accumulated_with_momentum,
        functions_of_split_layers,
        skipped_step,
    )
}


def _gather(end: dict[str, Tensor]) -> dict[str, Tensor]:
    """Whole tensors; all processes gather them in the same order."""
    return {
        name: (tensor.full_tensor() if isinstance(tensor, DTensor) else tensor).clone()
        for name, tensor in sorted(end.items())
    }


def _results(group: ProcessGroup, is_split: bool) -> dict[str, Tensor]:
    shared = group if is_split else None
    ends = {}
    for name, setup in SETUPS.items():
        end = _gather(result_of_fit(lambda setup=setup: setup(is_split) | {"shards": 2}, shared))
        ends |= {f"{name}: {key}": tensor for key, tensor in end.items()}
    return ends


def _assert_close(these: dict[str, Tensor], those: dict[str, Tensor]) -> None:
    assert these.keys() == those.keys()
    for name, value in these.items():
        assert value.isfinite().all(), name
        assert torch.allclose(value, those[name], rtol=1e-9, atol=1e-9), name


@pytest.mark.slow
def test_split_parameters_train_as_whole_ones_do(tmp_path: Path) -> None:
    ends = get_results(run_processes(_results, True, folder=tmp_path))
    (alone,) = get_results(run_processes(_results, False, folder=tmp_path, num=1))
    for end in ends:
        _assert_close(end, alone)


def _fit_or_resume(
    group: ProcessGroup, states: Path, is_split: bool, epochs: int
) -> dict[str, Tensor]:
    is_there = Snapshots(states).exist()
    settings = {"resume" if is_there else "checkpoint": states, "epochs": epochs, "shards": 2}
    patience = {"validation": counts(11), "patience": 3}
    options = {"accumulate": 2, "optimiser": partial(SGD, lr=1e-3, momentum=0.9)} | patience

    def setup() -> Settings:
        return _settings(is_split) | options | settings | {"checkpoint_every": 0.0}

    return _gather(result_of_fit(setup, group if is_split else None))


def _fit_or_resume_alone(group: ProcessGroup, *args: Any) -> dict[str, Tensor]:
    return _fit_or_resume(group, *args)


@pytest.mark.slow
def test_states_hold_whole_parameters(tmp_path: Path) -> None:
    """So that any number of processes can resume: here one, which splits nothing."""
    (expected,) = get_results(
        run_processes(_fit_or_resume_alone, tmp_path / "whole", False, 4, folder=tmp_path, num=1)
    )
    states = tmp_path / "states"
    get_results(run_processes(_fit_or_resume, states, True, 1, folder=tmp_path))
    copytree(states, tmp_path / "copied")
    for end in get_results(run_processes(_fit_or_resume, states, True, 4, folder=tmp_path)):
        _assert_close(end, expected)
    (end,) = get_results(
        run_processes(_fit_or_resume_alone, tmp_path / "copied", False, 4, folder=tmp_path, num=1)
    )
    _assert_close(end, expected)


REFUSED: dict[str, Settings] = {
    "cannot be recorded; give 'auto' or False": {"compile": True},
    "leave shards at 2": {"shards": 4},
    "a batch of 7 data cannot be cut into 2 shards of equal size": {"batch_size": 7},
    "a batch of 1 data cannot be cut": {"data": counts(17)},
}


def _refusals(group: ProcessGroup) -> dict[str, Tensor]:
    for settings, used in [*((each, group) for each in REFUSED.values()), ({}, None)]:
        try:
            result_of_fit(lambda settings=settings: _settings(True) | settings, used)
        except InputError as error:
            print(error)
        torch.set_default_dtype(torch.float32)
    return {}


@pytest.mark.slow
def test_unsupported_options_are_refused(tmp_path: Path) -> None:
    ended = run_processes(_refusals, folder=tmp_path)
    get_results(ended)
    for each in ended:
        *sentences, alone = each.out.splitlines()
        for words, sentence in zip(REFUSED, sentences, strict=True):
            assert words in sentence
        assert "give fit group=torch.distributed.group.WORLD" in alone
