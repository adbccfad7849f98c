"""Parameters that are split over processes (FSDP) are trained as whole ones are."""

from collections.abc import Callable
from functools import partial
from pathlib import Path
from shutil import copytree
from typing import Any

import pyro
import pyro.distributions as dist
import torch
from torch import Tensor, nn
from torch.distributed import ProcessGroup
from torch.distributed.fsdp import fully_shard
from torch.distributed.tensor import DTensor
from torch.optim import SGD

from pyrovae import VAE, Batches, InputError
from pyrovae.training.snapshots import Snapshots

from .fits import Settings, counts, end_of
from .processes import found, together

NUM = 20
"""In batches of eight, and a last one of four."""

_BINOMIAL = {"family": "Binomial", "total_count": 16}


def _vae(is_split: bool) -> VAE:
    vae = VAE((1, 4, 4), 2, _BINOMIAL)
    if is_split:
        fully_shard(vae.model.decoder)
        for parameter in vae.model.decoder.parameters():
            assert isinstance(parameter, DTensor)
            assert 2 * parameter.to_local().numel() == parameter.numel()
    return vae


def _of(is_split: bool, **settings: Any) -> Settings:
    vae = _vae(is_split)
    return {"model": vae.model, "guide": vae.guide, "data": counts(NUM), "lr": 0.03} | settings


def clipped_with_patience(is_split: bool) -> Settings:
    patience = {"validation": counts(11), "patience": 1, "schedule": "cosine"}
    return _of(is_split, clip_norm=5.0, **patience) | {"compile": "auto"}


def accumulated_with_momentum(is_split: bool) -> Settings:
    momentum = partial(SGD, lr=1e-3, momentum=0.9)
    return _of(is_split, accumulate=2, optimiser=momentum, objective="iwae")


def functions_of_split_layers(is_split: bool) -> Settings:
    """Each layer by itself, and all parameters but one of ``pyro.param``."""
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


def step_that_is_left_out(is_split: bool) -> Settings:
    """One datum has a gradient that is not finite, in the part of one process alone."""
    settings = _of(is_split)
    last = nn.Linear(1, 4)
    if is_split:
        fully_shard(last)

    def model(x: Tensor, is_bad: Tensor) -> None:
        settings["model"](x)
        pyro.module("last", last)
        value = last(torch.ones(1))[3]
        with pyro.plate("rows", len(x)):
            pyro.factor("bad", ((value - value.detach()).abs() + ~is_bad).sqrt())

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
        step_that_is_left_out,
    )
}


def _whole(end: dict[str, Tensor]) -> dict[str, Tensor]:
    """Gathered by all processes, in one order."""
    return {
        name: (tensor.full_tensor() if isinstance(tensor, DTensor) else tensor).clone()
        for name, tensor in sorted(end.items())
    }


def _ends(group: ProcessGroup, is_split: bool) -> dict[str, Tensor]:
    shared = group if is_split else None
    ends = {}
    for name, setup in SETUPS.items():
        end = _whole(end_of(lambda setup=setup: setup(is_split) | {"shards": 2}, shared))
        ends |= {f"{name}: {key}": tensor for key, tensor in end.items()}
    return ends


def _assert_close(these: dict[str, Tensor], those: dict[str, Tensor]) -> None:
    assert these.keys() == those.keys()
    for name, value in these.items():
        assert value.isfinite().all(), name
        assert torch.allclose(value, those[name], rtol=1e-9, atol=1e-9), name


def test_split_parameters_end_as_whole_ones_do(tmp_path: Path) -> None:
    ends = found(together(_ends, True, folder=tmp_path))
    (alone,) = found(together(_ends, False, folder=tmp_path, num=1))
    for end in ends:
        _assert_close(end, alone)


def _resumed(group: ProcessGroup, states: Path, is_split: bool, epochs: int) -> dict[str, Tensor]:
    is_there = Snapshots(states).exist()
    settings = {"resume" if is_there else "checkpoint": states, "epochs": epochs, "shards": 2}
    patience = {"validation": counts(11), "patience": 3}
    options = {"accumulate": 2, "optimiser": partial(SGD, lr=1e-3, momentum=0.9)} | patience

    def setup() -> Settings:
        return _of(is_split) | options | settings | {"checkpoint_every": 0.0}

    return _whole(end_of(setup, group if is_split else None))


def _by_one(group: ProcessGroup, *args: Any) -> dict[str, Tensor]:
    return _resumed(group, *args)


def test_states_are_of_whole_parameters(tmp_path: Path) -> None:
    """So that another number of processes goes on from them: here one, which splits nothing."""
    (expected,) = found(together(_by_one, tmp_path / "whole", False, 4, folder=tmp_path, num=1))
    states = tmp_path / "states"
    found(together(_resumed, states, True, 1, folder=tmp_path))
    copytree(states, tmp_path / "copied")
    for end in found(together(_resumed, states, True, 4, folder=tmp_path)):
        _assert_close(end, expected)
    (end,) = found(together(_by_one, tmp_path / "copied", False, 4, folder=tmp_path, num=1))
    _assert_close(end, expected)


REFUSED: dict[str, Settings] = {
    "cannot be recorded; give 'auto' or False": {"compile": True},
    "leave shards at 2": {"shards": 4},
    "a batch of 7 data cannot be cut into 2 shards of equal size": {"batch_size": 7},
    "a batch of 1 data cannot be cut": {"data": counts(17)},
}


def _refusals(group: ProcessGroup) -> dict[str, Tensor]:
    for settings, of in [*((each, group) for each in REFUSED.values()), ({}, None)]:
        try:
            end_of(lambda settings=settings: _of(True) | settings, of)
        except InputError as error:
            print(error)
        torch.set_default_dtype(torch.float32)
    return {}


def test_what_cannot_be_had_of_them_is_refused(tmp_path: Path) -> None:
    ended = together(_refusals, folder=tmp_path)
    found(ended)
    for each in ended:
        *sentences, alone = each.out.splitlines()
        for words, sentence in zip(REFUSED, sentences, strict=True):
            assert words in sentence
        assert "give fit group=torch.distributed.group.WORLD" in alone
