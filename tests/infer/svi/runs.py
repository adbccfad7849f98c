"""Train a program for some steps, and return where it ended."""

from collections.abc import Callable
from functools import cache
from typing import Any

import pyro
import pyro.distributions as dist
import torch
from torch import Tensor

from pyrovae.infer import SVI
from tests.infer.programs import PROGRAMS, Program, adam

STEPS = 200
TOLERANCE = {"rtol": 1e-9, "atol": 1e-9}


def run_steps(
    make: Callable[[], Program],
    steps: int = STEPS,
    optimiser: Any = adam,
    can_compile: bool = True,
    **options: Any,
) -> tuple[dict[str, Tensor], Tensor, SVI]:
    """Parameters and buffers after some steps, the losses on the way, and the SVI."""
    pyro.clear_param_store()  # programs of one name share it, as long as their SVIs exist
    torch.manual_seed(3)
    program = make()
    svi = SVI(
        program.model,
        program.guide,
        optimiser,
        program.loss,
        transform=program.transform,
        **options,
    )
    svi._gradients.tiered.can_compile = can_compile
    losses = []
    for i in range(steps):
        args, kwargs = program.arguments(i)
        loss = svi.step(*args, **kwargs)
        losses.append(torch.as_tensor(getattr(loss, "loss", loss)))
    state = svi.pair.params()
    for number, module in enumerate(program.modules):
        tensors = [*module.named_parameters(), *module.named_buffers()]
        state |= {f"{number}.{name}": tensor.detach().clone() for name, tensor in tensors}
    return state, torch.stack(losses), svi


@cache
def run_eagerly(name: str) -> tuple[dict[str, Tensor], Tensor]:
    """Parameters and losses of the program as it is, in double precision."""
    state, losses, _ = run_steps(PROGRAMS[name], compile=False)
    return state, losses


def repeat(times: int, step: Callable[[int], None]) -> None:
    for i in range(times):
        step(i)


def mean_of_data(x: Tensor) -> None:
    loc = pyro.param("loc", torch.zeros(3))
    with pyro.plate("data", len(x)):
        pyro.sample("x", dist.Normal(loc, 1.0, validate_args=False).to_event(1), obs=x)
