"""Clipping and Adam's update as tensor operations, against torch's own."""

from collections.abc import Callable
from functools import partial

import pytest
import torch
from torch import Tensor, nn
from torch.nn.utils import clip_grad_norm_
from torch.optim import SGD, Adam, AdamW, Optimizer

from pyrovae.infer.svi.adam import AdamUpdate, clip_gradients

# The two orders of operations differ by some roundings of 1e-16 a step.
TOLERANCE = {"rtol": 1e-12, "atol": 1e-14}

Make = Callable[[list[nn.Parameter]], Optimizer]
MAKERS: dict[str, Make] = {
    "Adam": partial(Adam, lr=0.03),
    "betas and eps": partial(Adam, lr=0.03, betas=(0.7, 0.95), eps=1e-2),
    "L2": partial(Adam, lr=0.03, weight_decay=0.2),
    "AdamW": partial(AdamW, lr=0.03, weight_decay=0.2),
    "fused": partial(Adam, lr=0.03, fused=True),
    "groups": lambda p: AdamW(
        [
            {"params": p[1:], "lr": 0.5, "betas": (0.5, 0.6), "eps": 0.1, "weight_decay": 0.3},
            {"params": p[:1]},
        ],
        lr=0.01,
    ),
}


def gradients_of(step: int) -> list[Tensor]:
    generator = torch.Generator().manual_seed(step)
    shapes = ((3, 2), (), (4,))
    return [torch.randn(s, generator=generator, dtype=torch.float64) for s in shapes]


def start() -> list[nn.Parameter]:
    return [nn.Parameter(gradient) for gradient in gradients_of(100)]


def step_ours(update: AdamUpdate, parameters: list[nn.Parameter], step: int, blocked: bool) -> None:
    update.refresh_rates()
    with torch.no_grad():
        gradients = gradients_of(step)[: len(parameters)]
        update(update.tensors, parameters, gradients, torch.tensor(blocked))


def step_theirs(optimiser: Optimizer, parameters: list[nn.Parameter], step: int) -> None:
    for parameter, gradient in zip(parameters, gradients_of(step), strict=False):
        parameter.grad = gradient
    optimiser.step()


@pytest.mark.parametrize("factor", [1e-9, 0.5, 0.999, 1.0, 1.001, 2.0, 1e9])
def test_gradients_are_clipped_as_torch_does(factor: float) -> None:
    """Also where the limit is the norm itself, or of the size of torch's 1e-6."""
    for scale in (1.0, 1e-6):
        gradients = [scale * gradient for gradient in gradients_of(0)]
        norm = torch.cat([gradient.flatten() for gradient in gradients]).norm().item()
        parameters = start()
        for parameter, gradient in zip(parameters, gradients, strict=True):
            parameter.grad = gradient.clone()
        clip_grad_norm_(parameters, factor * norm)
        ours = clip_gradients(gradients, factor * norm)
        for mine, parameter in zip(ours, parameters, strict=True):
            assert parameter.grad is not None
            torch.testing.assert_close(mine, parameter.grad, rtol=1e-12, atol=0)


def test_gradients_stay_as_they_are_without_a_limit() -> None:
    for mine, gradient in zip(clip_gradients(gradients_of(0), None), gradients_of(0), strict=True):
        assert torch.equal(mine, gradient)


@pytest.mark.parametrize("name", MAKERS)
def test_updates_are_those_of_torch(name: str) -> None:
    """Some before, of torch's own; the rates change on the way, and one update is blocked."""
    ours, theirs = start(), start()
    mine, other = MAKERS[name](ours), MAKERS[name](theirs)
    for step in range(2):
        step_theirs(mine, ours, step)
        step_theirs(other, theirs, step)
    update = AdamUpdate(mine, ours)
    update.load_step_counts()
    for step in range(2, 8):
        if step == 4:
            for optimiser in (mine, other):
                optimiser.param_groups[0]["lr"] = 0.07
        if step == 6:
            for optimiser in (mine, other):
                optimiser.param_groups[-1]["betas"] = (0.6, 0.8)
        step_ours(update, ours, step, blocked=step == 3)
        if step != 3:
            step_theirs(other, theirs, step)
    update.save_step_counts()
    torch.testing.assert_close(ours, theirs, **TOLERANCE)
    torch.testing.assert_close(mine.state_dict()["state"], other.state_dict()["state"], **TOLERANCE)


def test_updates_may_begin_blocked() -> None:
    """Here with one parameter, whose moments the update makes."""
    ours, theirs = start()[:1], start()[:1]
    mine, other = Adam(ours, lr=0.03), Adam(theirs, lr=0.03)
    update = AdamUpdate(mine, ours)
    step_ours(update, ours, 0, blocked=True)
    torch.testing.assert_close(ours, start()[:1], rtol=0, atol=0)
    step_ours(update, ours, 1, blocked=False)
    step_theirs(other, theirs, 1)
    torch.testing.assert_close(ours, theirs, **TOLERANCE)
    assert not any(value.requires_grad for value in mine.state[ours[0]].values())


def test_numbers_that_are_not_finite_do_no_harm_where_blocked() -> None:
    ours = start()
    update = AdamUpdate(AdamW(ours, weight_decay=0.1), ours)
    gradients = [torch.full_like(parameter, torch.nan) for parameter in ours]
    update.refresh_rates()
    with torch.no_grad():
        update(update.tensors, ours, gradients, torch.tensor(True))
    torch.testing.assert_close(ours, start(), rtol=0, atol=0)
    assert all(tensor.isfinite().all() for tensor in update.tensors)


@pytest.mark.parametrize(
    ("make", "is_compiled"),
    [
        (Adam, True),
        (AdamW, True),
        (partial(Adam, amsgrad=True), False),
        (partial(AdamW, maximize=True), False),
        (SGD, False),
        (lambda p: Adam([{"params": p[:1]}, {"params": p[1:], "amsgrad": True}]), False),
    ],
)
def test_which_optimisers_can_be_compiled(make: Make, is_compiled: bool) -> None:
    assert (AdamUpdate.key(make(start())) is not None) == is_compiled


def test_the_key_tells_what_a_compiled_update_is_made_of() -> None:
    optimiser = Adam(start(), lr=0.1)
    key = AdamUpdate.key(optimiser)
    optimiser.param_groups[0].update(lr=0.2, betas=(0.5, 0.5))
    assert AdamUpdate.key(optimiser) == key
    for change in ({"eps": 1e-3}, {"weight_decay": 0.1}):
        optimiser.param_groups[0].update(change)
        assert AdamUpdate.key(optimiser) != key
        key = AdamUpdate.key(optimiser)
