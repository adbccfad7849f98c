"""Numbers and tensors that a program can reach are seen to change, wherever they are kept."""

import argparse
import functools
import os
import time
from array import array
from collections import deque
from collections.abc import Callable, Iterator
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


def reads_environment() -> str:
    return os.environ.get("PYROVAE_TEST_SCALE", "1")


def change_environment() -> None:
    os.environ["PYROVAE_TEST_SCALE"] = str(time.time())


def hooked_twice() -> tuple[Any, Callable[[], Any]]:
    layer = nn.Linear(2, 2)
    layer.weight.register_hook(lambda g: g)
    return layer.forward, lambda: layer.weight.register_hook(torch.zeros_like)


def hooked_by_a_number() -> tuple[Any, Callable[[], Any]]:
    layer, settings = nn.Linear(2, 2), Settings()
    layer.weight.register_hook(lambda g: g * settings.beta)
    return layer.forward, lambda: setattr(settings, "beta", 3.0)


def hooked_everywhere() -> tuple[Any, Callable[[], Any]]:
    return nn.Linear(2, 2).forward, lambda: HOOKS.append(
        nn.modules.module.register_module_forward_hook(lambda *_: None)
    )


HOOKS: list[Any] = []


@pytest.fixture(autouse=True)
def clean_up() -> Iterator[None]:
    yield
    os.environ.pop("PYROVAE_TEST_SCALE", None)
    while HOOKS:
        HOOKS.pop().remove()


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
    "entry of an array": in_something({"a": np.zeros(2)}, lambda s: s["a"].fill(1.0)),
    "shape of an array": in_something({"a": np.zeros(4)}, lambda s: s["a"].resize((2, 2))),
    "array of Python": in_something({"a": array("d", [1.0])}, lambda s: s["a"].append(2.0)),
    "bytes": in_something({"a": bytearray(b"a")}, lambda s: s["a"].extend(b"b")),
    "set": in_something({"a": {1, 2}}, lambda s: s["a"].add(3)),
    "deque": in_something(deque([1.0, 2.0]), lambda d: d.rotate()),
    "environment": lambda: (reads_environment, change_environment),
    "NumPy number": in_something({"a": np.float32(0)}, lambda s: s.update(a=np.float32(1))),
    "long list": in_something({"a": [0.0] * 1000}, lambda s: s.update(a=[1.0] * 1000)),
    "attribute": of_module(lambda m: setattr(m[1], "momentum", 0.5)),
    "mode": of_module(lambda m: m.eval()),
    "module": of_module(lambda m: m.append(nn.ReLU())),
    "parameter": of_module(lambda m: setattr(m[0], "weight", nn.Parameter(torch.ones(2, 2)))),
    "buffer": of_module(lambda m: setattr(m[1], "running_mean", torch.ones(2))),
    "frozen": of_module(lambda m: m[0].requires_grad_(False)),
    "hook": of_module(lambda m: m[0].register_forward_hook(lambda *_: None)),
    "backward hook": of_module(lambda m: m[0].register_full_backward_hook(lambda *_: None)),
    "hook before": of_module(lambda m: m[0].register_full_backward_pre_hook(lambda *_: None)),
    "hook of a parameter": of_module(lambda m: m[0].weight.register_hook(torch.zeros_like)),
    "second hook of a parameter": hooked_twice,
    "hook after accumulation": of_module(
        lambda m: m[0].weight.register_post_accumulate_grad_hook(lambda _: None)
    ),
    "number in a hook": hooked_by_a_number,
    "hook of all modules": hooked_everywhere,
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


def test_large_arrays_are_data() -> None:
    large = np.zeros(10_000)
    watch = Watch(reading(large))
    before = watch.state()
    large[0] = 1.0
    assert watch.state() is before


def test_what_a_flow_remembers_is_no_change() -> None:
    flow = dist.transforms.affine_autoregressive(2, [4])
    watch = Watch(reading(flow))
    before = watch.state()
    flow(torch.randn(3, 2))
    assert watch.state() == before


class TestFreed:
    def test_their_values_are_no_part_of_the_state(self) -> None:
        settings, others = Settings(), {"a": [1.0, 2.0]}
        watch = Watch(reading(settings), reading(others))
        before = watch.state()
        settings.beta, others["a"][1] = 5.0, 6.0
        assert watch.free_changes(before)
        after = watch.state()
        assert watch.freed() == [5.0, 6.0]
        settings.beta = 7.0
        assert watch.state() is after
        assert watch.freed() == [7.0, 6.0]
        others["a"][0] = 3.0
        assert watch.state() != after

    def test_a_float_that_becomes_another_type_is_a_change(self) -> None:
        settings = Settings()
        watch = Watch(reading(settings))
        before = watch.state()
        settings.beta = 5.0
        watch.free_changes(before)
        after = watch.state()
        settings.beta = 5
        assert watch.state() != after
        assert watch.freed() == []

    def test_other_changes_free_nothing(self) -> None:
        settings, others = Settings(), [1]
        watch = Watch(reading(settings), reading(others))
        before = watch.state()
        assert not watch.free_changes(before)
        settings.beta, others[0] = 2.0, 2
        assert not watch.free_changes(before)

    @pytest.mark.parametrize("name", ["weight", "running_mean"])
    def test_parameters_and_buffers_stay_part_of_the_state(self, name: str) -> None:
        network = nn.BatchNorm1d(3)
        watch = Watch(reading(network))
        before = watch.state()
        old = getattr(network, name)
        setattr(network, name, type(old)(torch.zeros(3)))
        assert watch.state() != before
        assert not watch.free_changes(before)

    def test_they_are_replaced_and_put_back(self) -> None:
        settings, slotted = Settings(), Slotted()
        watch = Watch(reading(settings), reading(slotted), closed_over)
        before = watch.state()
        settings.beta = slotted.beta = 2.0
        watch.free_changes(before)
        watch.state()
        one, other = torch.tensor(1.0), torch.tensor(3.0)
        with watch.replace_freed([one, other]) as changed:
            assert settings.beta is one
            assert slotted.beta is other
            settings.beta = one + 1
        assert (settings.beta, slotted.beta) == (2.0, 2.0)
        assert len(changed) == 1
        assert "beta" in changed[0]


def test_known_buffers_are_searched_again_from_time_to_time() -> None:
    owner = SimpleNamespace(network=nn.Sequential(nn.BatchNorm1d(2), nn.Linear(2, 2)))
    watch = Watch(reading(owner))
    assert {id(b) for b in watch.known_buffers()} == {id(b) for b in owner.network.buffers()}
    owner.network = nn.BatchNorm1d(3)
    found = [{id(b) for b in watch.known_buffers()} for _ in range(100)]
    assert found[-1] == {id(b) for b in owner.network.buffers()}
