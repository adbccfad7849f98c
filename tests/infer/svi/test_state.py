"""States of optimisers: what is taken up again, and what is refused before it does harm."""

import json
from collections.abc import Callable
from functools import partial
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.optim import SGD, Adam, AdamW, Optimizer
from torch.optim.lr_scheduler import LinearLR

from pyrovae import InputError
from pyrovae.infer.svi.state import State

Make = Callable[[list[nn.Parameter]], Optimizer]
Tree = dict[str, Any]


def start() -> list[nn.Parameter]:
    return [nn.Parameter(torch.ones(2, 3)), nn.Parameter(torch.zeros(()))]


def step(optimiser: Optimizer, parameters: list[nn.Parameter]) -> None:
    for number, parameter in enumerate(parameters):
        parameter.grad = torch.full_like(parameter, 0.5 + number) + parameter.detach()
    optimiser.step()


class Tampered:
    """An optimiser whose state is changed before it is saved."""

    def __init__(self, optimiser: Optimizer, change: Callable[[Tree], Any]) -> None:
        self._optimiser, self._change = optimiser, change

    def state_dict(self) -> Tree:
        tree = self._optimiser.state_dict()
        self._change(tree)
        return tree


def save(
    make: Make = Adam, change: Callable[[Tree], Any] = lambda tree: None, name: str | None = None
) -> State:
    """The state of an optimiser after two steps, as it comes out of a file."""
    parameters = start()
    optimiser = make(parameters)
    for _ in range(2):
        step(optimiser, parameters)
    state = State()
    state.add_state_dict("optimiser", Tampered(optimiser, change))
    record = json.loads(json.dumps(state.record))
    record["class of optimiser"] = name or type(optimiser).__qualname__
    return State(state.tensors, record)


MAKERS: dict[str, Make] = {
    "Adam": partial(Adam, lr=0.1, betas=(0.8, 0.9)),
    "AMSGrad": partial(Adam, lr=0.1, amsgrad=True),
    "AdamW, fused": partial(AdamW, lr=0.1, fused=True),
    "SGD": partial(SGD, lr=0.1),
    "SGD with momentum": partial(SGD, lr=0.1, momentum=0.9),
    "a rate as a tensor": lambda p: Adam(p, lr=torch.tensor(0.1)),
    "groups": lambda p: Adam([{"params": p[1:], "lr": 0.3}, {"params": p[:1]}], lr=0.1),
}


@pytest.mark.parametrize("name", MAKERS)
def test_an_optimiser_goes_on_from_its_state(name: str) -> None:
    whole, resumed = start(), start()
    optimiser = MAKERS[name](whole)
    for _ in range(2):
        step(optimiser, whole)
    state = save(MAKERS[name])
    with torch.no_grad():
        for parameter, value in zip(resumed, whole, strict=True):
            parameter.copy_(value)
    other = MAKERS[name](resumed)
    state.load_state_dict("optimiser", other)
    for _ in range(2):
        step(optimiser, whole)
        step(other, resumed)
    torch.testing.assert_close(resumed, whole, rtol=0, atol=0)


def test_numbers_of_the_state_replace_those_of_the_optimiser() -> None:
    state = save(partial(Adam, lr=0.25, betas=(0.5, 0.75), eps=1, weight_decay=0.5))
    optimiser = Adam(start(), lr=1)
    LinearLR(optimiser)  # adds initial_lr to the groups
    state.load_state_dict("optimiser", optimiser)
    group = optimiser.param_groups[0]
    assert (group["lr"], group["eps"], group["weight_decay"]) == (0.25, 1, 0.5)
    assert tuple(group["betas"]) == (0.5, 0.75)


def set_option(**options: Any) -> Callable[[Tree], Any]:
    return lambda tree: tree["param_groups"][0].update(options)


def set_moment(number: int = 0, **values: Any) -> Callable[[Tree], Any]:
    """Replaces what is kept of a parameter; functions are called with the present value."""

    def change(tree: Tree) -> None:
        kept = tree["state"][number] = dict(tree["state"][number])
        for name, value in values.items():
            kept[name] = value(kept[name]) if callable(value) else value

    return change


def remove_moment(name: str) -> Callable[[Tree], Any]:
    def change(tree: Tree) -> None:
        tree["state"][1] = {key: v for key, v in tree["state"][1].items() if key != name}

    return change


REFUSED: dict[str, tuple[Callable[[Tree], Any], str]] = {
    "a group more": (lambda t: t["param_groups"].append(t["param_groups"][0]), "it has 2 groups"),
    "a parameter less": (lambda t: t["param_groups"][0]["params"].pop(), "has 1 parameters"),
    "a rate that is a word": (set_option(lr="fast"), "its lr differs"),
    "a rate that is a flag": (set_option(lr=True), "its lr differs"),
    "a rate that is not finite": (set_option(lr=float("nan")), "its lr differs"),
    "a tensor as rate": (set_option(lr=torch.tensor(0.1)), "its lr differs"),
    "another flag": (set_option(amsgrad=True), "its amsgrad differs"),
    "a number as flag": (set_option(amsgrad=0), "its amsgrad differs"),
    "a value for None": (set_option(fused=True), "its fused differs"),
    "three betas": (set_option(betas=(0.9, 0.9, 0.9)), "its betas differs"),
    "a word as beta": (set_option(betas=(0.9, "b")), "its betas differs"),
    "a number as betas": (set_option(betas=0.9), "its betas differs"),
    "no eps": (lambda t: t["param_groups"][0].pop("eps"), "eps"),
    "no initial rate": (lambda t: t["param_groups"][0].pop("lr"), "lr"),
    "no first moment": (remove_moment("exp_avg"), "lacks the moments of parameter 1"),
    "no second moment": (remove_moment("exp_avg_sq"), "lacks the moments of parameter 1"),
    "no step": (remove_moment("step"), "lacks the moments of parameter 1"),
    "another shape": (
        set_moment(exp_avg=torch.zeros(3, 2)),
        "exp_avg of parameter 0 has another shape or type",
    ),
    "a shape that broadcasts": (set_moment(exp_avg_sq=torch.zeros(())), "another shape or type"),
    "the step of each entry": (set_moment(step=torch.zeros(2, 3)), "step of parameter 0 has"),
    "a step of one entry": (set_moment(1, step=torch.zeros(1)), "step of parameter 1 has"),
    "a moment that is not finite": (
        set_moment(exp_avg=lambda m: m / 0),
        "another shape or type",
    ),
    "integers": (set_moment(exp_avg=torch.zeros(2, 3, dtype=torch.long)), "shape or type"),
    "double precision": (set_moment(exp_avg=Tensor.double), "is of torch.float64"),
    "a number as moment": (set_moment(exp_avg=3.0), "exp_avg of parameter 0 is not a tensor"),
    "moments of AMSGrad": (set_moment(max_exp_avg_sq=torch.zeros(2)), "max_exp_avg_sq of"),
    "an unknown parameter": (lambda t: t["state"].update({7: t["state"][0]}), "7"),
    "no groups": (lambda t: t.pop("param_groups"), "param_groups"),
}


@pytest.mark.parametrize("name", REFUSED)
def test_states_that_do_not_fit_are_refused(name: str) -> None:
    change, words = REFUSED[name]
    optimiser = Adam(start())
    before = optimiser.state_dict()
    with pytest.raises(InputError, match=f"the state is of another optimiser: .*{words}"):
        save(change=change).load_state_dict("optimiser", optimiser)
    assert optimiser.state_dict() == before


@pytest.mark.parametrize(
    "change",
    [
        set_moment(step=Tensor.double),
        set_moment(max_exp_avg_sq=None),
        set_moment(note="kept by a subclass"),
        set_moment(note=torch.full((7,), torch.inf)),
        set_option(lr=1, betas=[0, 0.5]),
    ],
)
def test_what_does_no_harm_is_taken(change: Callable[[Tree], Any]) -> None:
    parameters = start()
    optimiser = Adam(parameters)
    save(change=change).load_state_dict("optimiser", optimiser)
    step(optimiser, parameters)
    assert optimiser.state[parameters[0]]["step"] == 3


def test_other_optimisers_need_no_moments_of_adam() -> None:
    optimiser = SGD(start(), lr=0.1, momentum=0.9)
    with pytest.raises(InputError, match="momentum_buffer of parameter 0 has another shape"):
        save(
            MAKERS["SGD with momentum"], set_moment(momentum_buffer=torch.zeros(5))
        ).load_state_dict("optimiser", optimiser)
    save(MAKERS["SGD with momentum"], set_moment(momentum_buffer=None)).load_state_dict(
        "optimiser", optimiser
    )


def test_a_state_of_another_kind_of_optimiser_is_refused() -> None:
    with pytest.raises(InputError, match="another optimiser: a Adam, and this is a AdamW"):
        save().load_state_dict("optimiser", AdamW(start()))
    with pytest.raises(InputError, match="the state holds no schedule, but there is one now"):
        save().load_state_dict("schedule", LinearLR(Adam(start())))


def test_tensors_of_another_shape_type_or_number_are_refused() -> None:
    state = State()
    given = torch.arange(3.0, requires_grad=True)
    state.add("buffer", [given, torch.ones(2)])
    assert not any(tensor.requires_grad for tensor in state.tensors.values())
    for others, words in (
        ([torch.zeros(3)], "it holds 2 buffers, and there are 1"),
        ([torch.zeros(3), torch.zeros(4)], "buffer 1 has shape .2,. and type torch.float32"),
        ([torch.zeros(3).double(), torch.zeros(2)], "buffer 0 .*and now .3,. and torch.float64"),
    ):
        with pytest.raises(InputError, match=f"another model, likelihood or optimiser: {words}"):
            state.load("buffer", others)
    found = [torch.zeros(3), torch.zeros(2)]
    state.load("buffer", found)
    assert torch.equal(found[0], given)
    assert torch.equal(found[1], torch.ones(2))
