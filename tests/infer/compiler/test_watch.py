"""Numbers and tensors that a program can reach are seen to change, wherever they are kept."""

import argparse
import functools
from collections.abc import Callable
from dataclasses import dataclass
from types import SimpleNamespace
from typing import Any

import numpy as np
import pyro.distributions as dist
import pytest
import torch
from pyro.infer.autoguide import AutoNormal
from torch import Tensor, nn

from pyrovae import VAE
from pyrovae.infer.compiler.watch import Watch

BETA = 1.0


@dataclass
class Settings:
    beta: float = 1.0


@dataclass(slots=True)
class Slotted:
    beta: float = 1.0


class Constants:
    beta = 1.0


class Called:
    def __call__(self) -> float:
        return BETA


class Computed:
    @property
    def beta(self) -> float:
        return BETA

    @staticmethod
    def other() -> float:
        return BETA


def uses_a_global() -> float:
    return BETA


def uses_another_function() -> float:
    return 2 * uses_a_global()


def set_global() -> None:
    global BETA
    BETA += 1.0


def reading(thing: Any) -> Callable[[], Any]:
    return lambda: thing


def closed_over() -> tuple[Any, Callable[[], None]]:
    beta = 1.0

    def model() -> float:
        return beta

    def change() -> None:
        nonlocal beta
        beta = 2.0

    return model, change


def in_something(thing: Any, change: Callable[[Any], Any]) -> Any:
    return lambda: (reading(thing), lambda: change(thing))


def of_module(change: Callable[[nn.Module], Any]) -> Any:
    def make() -> tuple[Any, Callable[[], None]]:
        module = nn.Sequential(nn.Linear(2, 2), nn.BatchNorm1d(2))
        module.prior = dist.Normal(0.0, 1.0)
        module.betas = [0.1, 0.2]
        return module.forward, lambda: change(module)

    return make


CHANGES: dict[str, Callable[[], tuple[Any, Callable[[], Any]]]] = {
    "closure": closed_over,
    "global": lambda: (uses_a_global, set_global),
    "global of a called function": lambda: (uses_another_function, set_global),
    "global of a callable object": lambda: (Called(), set_global),
    "global of a property": lambda: (Computed(), set_global),
    "partial": lambda: (functools.partial(uses_another_function), set_global),
    "function attribute": lambda: (closed_over, lambda: setattr(closed_over, "scale", Tensor())),
    "dataclass": in_something(Settings(), lambda s: setattr(s, "beta", 2.0)),
    "slots": in_something(Slotted(), lambda s: setattr(s, "beta", 2.0)),
    "class": in_something(Constants, lambda c: setattr(c, "beta", c.beta + 1)),
    "namespace": in_something(SimpleNamespace(beta=1.0), lambda s: setattr(s, "beta", 2.0)),
    "argparse": in_something(argparse.Namespace(beta=1.0), lambda s: setattr(s, "beta", 2.0)),
    "list": in_something([1.0, [2.0]], lambda s: s[1].append(3.0)),
    "type of a number": in_something(Settings(), lambda s: setattr(s, "beta", True)),
    "dict": in_something({"a": {"beta": 1.0}}, lambda s: s["a"].update(beta=2.0)),
    "array": in_something({"a": np.zeros(2)}, lambda s: s.update(a=np.ones(2))),
    "NumPy number": in_something({"a": np.float32(0)}, lambda s: s.update(a=np.float32(1))),
    "long list": in_something({"a": [0.0] * 1000}, lambda s: s.update(a=[1.0] * 1000)),
    "attribute": of_module(lambda m: setattr(m[1], "momentum", 0.5)),
    "mode": of_module(lambda m: m.eval()),
    "module": of_module(lambda m: m.append(nn.ReLU())),
    "parameter": of_module(lambda m: setattr(m[0], "weight", nn.Parameter(torch.ones(2, 2)))),
    "buffer": of_module(lambda m: setattr(m[1], "running_mean", torch.ones(2))),
    "frozen": of_module(lambda m: m[0].requires_grad_(False)),
    "hook": of_module(lambda m: m[0].register_forward_hook(lambda *_: None)),
    "distribution": of_module(lambda m: setattr(m, "prior", dist.Normal(5.0, 1.0))),
    "list of a module": of_module(lambda m: m.betas.append(0.3)),
}


@pytest.mark.parametrize("name", CHANGES)
def test_a_change_is_seen(name: str) -> None:
    program, change = CHANGES[name]()
    watch = Watch(program)
    before = watch.state()
    assert watch.state() is before
    assert watch.difference(before) is None
    change()
    assert watch.state() != before
    assert watch.difference(before)


def test_a_change_back_is_the_state_before() -> None:
    module = nn.Dropout(0.5)
    watch = Watch(module)
    before = watch.state()
    module.eval()
    assert watch.state() != before
    module.train()
    assert watch.state() == before


def test_an_equal_number_is_no_change() -> None:
    settings = Settings(beta=0.1 + 0.2)
    watch = Watch(reading(settings))
    before = watch.state()
    settings.beta = float(repr(settings.beta))  # another object
    assert watch.state() is before


def test_tensors_filled_in_place_are_inputs_and_so_no_change() -> None:
    vae = VAE((3,), 2, "Bernoulli")
    watch = Watch(vae.model, vae.guide)
    before = watch.state()
    with torch.no_grad():
        for tensor in (*vae.parameters(), *vae.buffers()):
            tensor.add_(1.0)
    assert watch.state() is before


def test_an_autoguide_that_runs_is_as_before() -> None:
    """It makes its plates anew in each call."""

    def model() -> None:
        import pyro

        with pyro.plate("data", 3):
            pyro.sample("z", dist.Normal(0.0, 1.0))

    guide = AutoNormal(model)
    guide()
    watch = Watch(model, guide)
    before = watch.state()
    guide()
    assert watch.state() == before
