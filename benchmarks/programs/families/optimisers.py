"""Every kind of optimiser of Pyro, and parameters that come late."""

from collections.abc import Callable
from typing import Any

import pyro
import pyro.distributions as dist
import pyro.optim as optim
import torch
from pyro.infer.autoguide import AutoNormal
from torch import Tensor, nn
from torch.distributions import constraints

from ..program import Run, adam, always, cycle, program


def numbers(num: int = 40) -> Tensor:
    """Pairs of numbers."""
    return 1 + torch.randn(num, 2, generator=torch.Generator().manual_seed(40))


class Pair(nn.Module):
    """A network as a guide, and a positive parameter in the model."""

    def __init__(self) -> None:
        super().__init__()
        self.encoder = nn.Sequential(nn.Linear(2, 6), nn.Tanh(), nn.Linear(6, 2))

    def model(self, x: Tensor) -> None:
        scale = pyro.param("scale", torch.tensor(2.0), constraint=constraints.positive)
        with pyro.plate("data", len(x)):
            z = pyro.sample("z", dist.Normal(0.0, 1.0))
            both = torch.stack([z, z], -1)
            pyro.sample("x", dist.Normal(both, scale).to_event(1), obs=x)

    def guide(self, x: Tensor) -> None:
        pyro.module("encoder", self.encoder)
        loc, log_scale = self.encoder(x).unbind(-1)
        with pyro.plate("data", len(x)):
            pyro.sample("z", dist.Normal(loc, log_scale.exp()))


def _options(name: str) -> dict[str, Any]:
    return {"lr": 0.05} if name == "scale" else {"lr": 0.002, "betas": (0.8, 0.99)}


def _schedule(name: str, **options: Any) -> Any:
    settings = {"optimizer": torch.optim.Adam, "optim_args": {"lr": 0.05}, **options}
    return getattr(optim, name)(settings)


OPTIMISERS: dict[str, Callable[[], Any]] = {
    "Adam, betas and weight decay": lambda: optim.Adam(
        {"lr": 0.01, "betas": (0.95, 0.999), "weight_decay": 0.01}
    ),
    "Adam, options by parameter": lambda: optim.Adam(_options),
    "Adam, clip_args": lambda: optim.Adam({"lr": 0.01}, {"clip_norm": 1.0}),
    "ClippedAdam": lambda: optim.ClippedAdam({"lr": 0.01, "clip_norm": 5.0, "lrd": 0.99}),
    "AdamW": lambda: optim.AdamW({"lr": 0.01, "weight_decay": 0.1}),
    "Adamax": lambda: optim.Adamax({"lr": 0.01}),
    "RAdam": lambda: optim.RAdam({"lr": 0.01}),
    "SGD with momentum": lambda: optim.SGD({"lr": 0.001, "momentum": 0.9, "nesterov": True}),
    "RMSprop": lambda: optim.RMSprop({"lr": 0.005}),
    "Adagrad": lambda: optim.Adagrad({"lr": 0.05}),
    "Adadelta": lambda: optim.Adadelta({"lr": 1.0}),
    "Rprop": lambda: optim.Rprop({"lr": 0.001}),
    "AdagradRMSProp": lambda: optim.AdagradRMSProp({"eta": 0.2, "delta": 1e-8, "t": 0.1}),
    "DCTAdam": lambda: optim.DCTAdam({"lr": 0.01, "betas": (0.9, 0.99)}),
}
"""An optimiser by its name."""


def _register(name: str, make: Callable[[], Any]) -> None:
    @program(f"optimiser {name}")
    def build() -> Run:
        pair = Pair()
        return Run(pair.model, pair.guide, cycle(10, numbers()), optim=make())


for _name, _make in OPTIMISERS.items():
    _register(_name, _make)

SCHEDULES: dict[str, dict[str, Any]] = {
    "ExponentialLR": {"gamma": 0.95},
    "StepLR": {"step_size": 2, "gamma": 0.5},
    "MultiStepLR": {"milestones": [2, 4], "gamma": 0.2},
    "CosineAnnealingLR": {"T_max": 5},
    "OneCycleLR": {"max_lr": 0.1, "total_steps": 200},
}
"""The options of a schedule by its name."""


def _register_schedule(name: str, options: dict[str, Any]) -> None:
    @program(f"schedule {name}, stepped each 5 steps")
    def build() -> Run:
        pair, schedule = Pair(), _schedule(name, **options)

        def after(step: int) -> None:
            if step % 5 == 4:
                schedule.step()

        return Run(pair.model, pair.guide, cycle(10, numbers()), optim=schedule, after_step=after)


for _name, _options_of in SCHEDULES.items():
    _register_schedule(_name, _options_of)


@program("schedule LambdaLR, ClippedAdam, clip_args")
def lambda_schedule() -> Run:
    pair = Pair()
    settings = {"optimizer": torch.optim.AdamW, "optim_args": {"lr": 0.02}}
    schedule = optim.LambdaLR({**settings, "lr_lambda": lambda n: 0.9**n}, {"clip_value": 0.5})
    batches = cycle(10, numbers())
    return Run(
        pair.model, pair.guide, batches, optim=schedule, after_step=lambda step: schedule.step()
    )


@program("parameters that come at step 3 and 6")
def late() -> Run:
    stage = {"number": 0}

    def advance(step: int) -> None:
        stage["number"] = (step >= 3) + (step >= 6)

    def model(x: Tensor) -> None:
        loc = pyro.param("loc", torch.zeros(2))
        if stage["number"] >= 1:
            loc = loc + pyro.param("offset", lambda: torch.ones(2))
        scale = torch.ones(2)
        if stage["number"] >= 2:
            scale = pyro.param("scale", scale, constraint=constraints.positive)
        with pyro.plate("data", len(x)):
            pyro.sample("x", dist.Normal(loc, scale).to_event(1), obs=x)

    def guide(x: Tensor) -> None:
        """There is nothing to infer."""

    return Run(model, guide, cycle(10, numbers()), optim=adam(0.05), before_step=advance)


@program("parameters that come with another kind of call")
def late_by_call() -> Run:
    def model(x: Tensor, with_scale: bool = False) -> None:
        loc = pyro.param("loc", torch.zeros(2))
        scale = torch.ones(2)
        if with_scale:
            scale = pyro.param("scale", scale, constraint=constraints.positive)
        with pyro.plate("data", len(x)):
            pyro.sample("x", dist.Normal(loc, scale).to_event(1), obs=x)

    def guide(x: Tensor, with_scale: bool = False) -> None:
        """There is nothing to infer."""

    data = cycle(10, numbers())
    return Run(model, guide, lambda step: (data(step)[0], {"with_scale": step % 4 == 3}))


@program("a network whose layers are frozen after some steps")
def frozen() -> Run:
    pair = Pair()

    def freeze(step: int) -> None:
        for parameter in pair.encoder[0].parameters():
            parameter.requires_grad_(step < 4)

    return Run(pair.model, pair.guide, cycle(10, numbers()), before_step=freeze)


@program("two guides of one model, one optimiser")
def two_guides() -> Run:
    def model(x: Tensor) -> None:
        loc = pyro.sample("loc", dist.Normal(torch.zeros(2), 3.0).to_event(1))
        with pyro.plate("data", len(x)):
            pyro.sample("x", dist.Normal(loc, 1.0).to_event(1), obs=x)

    def guide(x: Tensor) -> None:
        mean = pyro.param("mean", torch.zeros(2))
        spread = pyro.param("spread", torch.ones(2), constraint=constraints.positive)
        pyro.sample("loc", dist.Normal(mean, spread).to_event(1))

    shared, data = adam(0.02), always(numbers())
    return Run(
        model, AutoNormal(model), data, optim=shared, then=(Run(model, guide, data, optim=shared),)
    )
