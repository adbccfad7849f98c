"""Optimisers, schedules, clipping and accumulated gradients under compiled steps."""

from collections.abc import Callable
from functools import partial
from typing import Any

import pyro
import pyro.distributions as dist
import pytest
import torch
from torch import Tensor
from torch.optim import SGD, Adam, AdamW
from torch.optim.lr_scheduler import CosineAnnealingLR

from pyrovae.infer import ELBO, SVI
from tests.infer.programs import NUM, PROGRAMS, Networks, Program, adam, each_batch

from .runs import TOLERANCE, run_steps

GROUPS: dict[str, Callable[[list[Tensor]], torch.optim.Optimizer]] = {
    "AdamW": partial(AdamW, lr=1e-2, weight_decay=0.1),
    "Adam with L2": partial(Adam, lr=1e-2, weight_decay=0.1, betas=(0.8, 0.99), eps=1e-4),
    "Adam, fused": partial(Adam, lr=1e-2, fused=True),
    "two groups": lambda p: Adam([{"params": p[:3], "lr": 0.05}, {"params": p[3:]}], lr=1e-3),
    "SGD, which follows the graph": partial(SGD, lr=1e-3, momentum=0.9),
    "AMSGrad, which follows the graph": partial(Adam, lr=1e-2, amsgrad=True),
}


@pytest.mark.slow
@pytest.mark.usefixtures("float64")
@pytest.mark.parametrize("name", GROUPS)
def test_optimisers(name: str) -> None:
    options: dict[str, Any] = {
        "optimiser": GROUPS[name],
        "clip_norm": 20.0,
        "schedule": partial(CosineAnnealingLR, T_max=40),
        "steps": 40,
    }
    eager, _, eager_svi = run_steps(PROGRAMS["a ragged last batch"], compile=False, **options)
    compiled, _, svi = run_steps(PROGRAMS["a ragged last batch"], compile=True, **options)
    assert svi.num_graphs == (2, 1)
    torch.testing.assert_close(compiled, eager, **TOLERANCE)
    assert svi.learning_rate == eager_svi.learning_rate
    assert svi.optimiser is not None
    assert eager_svi.optimiser is not None
    states = [s.optimiser.state_dict()["state"] for s in (svi, eager_svi)]
    torch.testing.assert_close(states[0], states[1], **TOLERANCE)


@pytest.mark.slow
@pytest.mark.usefixtures("float64")
def test_accumulated_gradients_are_those_of_a_larger_batch() -> None:
    """In a model without latents the mean of two halves' gradients is the whole's."""

    def make(parts: int) -> Program:
        def model(x: Tensor) -> None:
            loc = pyro.param("loc", torch.zeros(3))
            with pyro.plate("data", len(x)):
                pyro.sample("x", dist.Normal(loc, 1.0).to_event(1), obs=x)

        def arguments(i: int) -> Any:
            whole = each_batch(i // parts)[0][0]
            return (whole.chunk(parts)[i % parts],), {}

        return Program(model, lambda x: None, ELBO(NUM), arguments)

    whole, _, _ = run_steps(partial(make, 1), steps=30, compile=False)
    for compile in (False, True):
        halves, _, svi = run_steps(partial(make, 2), steps=60, accumulate=2, compile=compile)
        torch.testing.assert_close(halves, whole, **TOLERANCE)
    assert svi.num_graphs == (1, 1)


@pytest.mark.slow
@pytest.mark.parametrize("compile", [False, True])
def test_a_gradient_of_the_first_half_alone_counts(compile: bool) -> None:
    """Of two parameters each is used in one half of every window."""

    def model(x: Tensor, number: int) -> None:
        loc = pyro.param(f"loc{number}", torch.zeros(3))
        with pyro.plate("data", len(x)):
            pyro.sample("x", dist.Normal(loc, 1.0).to_event(1), obs=x)

    svi = SVI(model, lambda x, number: None, adam, ELBO(), accumulate=2, compile=compile)
    for i in range(12):
        svi.step(torch.ones(4, 3), i % 2)
    moved = svi.pair.params()
    torch.testing.assert_close(moved["loc0"], moved["loc1"])
    assert moved["loc0"].min() > 0.04


@pytest.mark.slow
@pytest.mark.usefixtures("float64")
def test_the_optimiser_may_be_looked_at_saved_and_kept() -> None:
    def run(compile: bool, look: bool) -> dict[str, Tensor]:
        kept: list[Adam] = []

        def make(parameters: list[Tensor]) -> Adam:
            kept.append(Adam(parameters, lr=1e-2))
            return kept[0]

        torch.manual_seed(0)
        networks = Networks()
        svi = SVI(networks.model, networks.guide, make, ELBO(400), compile=compile)
        for i in range(12):
            svi.step(*each_batch(i)[0])
            if look and i > 5:
                assert kept[0].state_dict()["state"][0]["step"] == i + 1
                assert svi.optimiser is kept[0]
        return {name: p.detach() for name, p in networks.named_parameters()}

    eager = run(compile=False, look=True)
    torch.testing.assert_close(run(compile=True, look=True), eager, **TOLERANCE)
    torch.testing.assert_close(run(compile=True, look=False), eager, **TOLERANCE)


@pytest.mark.slow
def test_an_optimiser_that_is_loaded_goes_on_from_there() -> None:
    def run(compile: bool) -> dict[str, Tensor]:
        torch.manual_seed(0)
        networks = Networks()
        svi = SVI(networks.model, networks.guide, adam, ELBO(400), compile=compile)
        for i in range(6):
            svi.step(*each_batch(i)[0])
        assert svi.optimiser is not None
        state = svi.optimiser.state_dict()
        state["param_groups"][0]["lr"] = 0.3
        svi.optimiser.load_state_dict({**state, "state": dict(list(state["state"].items()))})
        for i in range(6):
            svi.step(*each_batch(i)[0])
        return {name: p.detach() for name, p in networks.named_parameters()}

    torch.testing.assert_close(run(True), run(False), rtol=1e-4, atol=1e-5)
