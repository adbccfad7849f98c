"""Small programs whose arguments, data and idioms are unusual for a compiler, but not for users."""

import argparse
from collections import namedtuple
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd
import pyro
import pyro.distributions as dist
import torch
from pyro import poutine
from pyro.infer.autoguide import AutoNormal
from torch import Tensor, nn
from torch.distributions import constraints
from torch.nn import functional
from torch.utils.data import DataLoader, TensorDataset

from ..program import Batches, Run, always, cycle, program


def points(num: int = 40, dim: int = 2) -> Tensor:
    """Data around one."""
    return 1 + torch.randn(num, dim, generator=torch.Generator().manual_seed(70))


def guide_of_mean(*args: Any, **kwargs: Any) -> None:
    """A Gaussian of the latent that all these models share."""
    loc = pyro.param("guide_loc", torch.zeros(2))
    scale = pyro.param("guide_scale", torch.ones(2), constraint=constraints.positive)
    pyro.sample("mean", dist.Normal(loc, scale).to_event(1))


def observe(x: Tensor, scale: Any = 1.0, size: int | None = None) -> None:
    """The mean, and data around it."""
    mean = pyro.sample("mean", dist.Normal(torch.zeros(2), 3.0).to_event(1))
    with pyro.plate("data", len(x) if size is None else size, subsample=x):
        pyro.sample("x", dist.Normal(mean, scale).to_event(1), obs=x)


@program("arguments in a Namespace with tensors and numbers")
def namespace() -> Run:
    def model(args: argparse.Namespace) -> None:
        observe(args.x, args.scale, size=args.size)

    data = cycle(10, points())

    def batches(step: int) -> tuple[tuple[Any, ...], dict[str, Any]]:
        return (argparse.Namespace(x=data(step)[0][0], scale=0.8, size=40, cuda=False),), {}

    return Run(model, guide_of_mean, batches)


@dataclass
class Batch:
    """A batch of a user's own class."""

    x: Tensor
    scale: float = 1.0
    label: str = ""


@program("arguments in a dataclass")
def dataclass_argument() -> Run:
    def model(batch: Batch) -> None:
        observe(batch.x, batch.scale)

    data = cycle(10, points())
    return Run(model, guide_of_mean, lambda step: ((Batch(data(step)[0][0], 0.9, "train"),), {}))


Observed = namedtuple("Observed", ["x", "weights"])


@program("arguments in a namedtuple and nested dicts")
def nested() -> Run:
    def model(data: Observed, options: dict[str, Any]) -> None:
        with poutine.scale(scale=data.weights["all"]):
            observe(data.x, options["likelihood"]["scale"])

    x, options = points(), {"likelihood": {"scale": 0.7, "name": "Normal"}}
    data = Observed(x, {"all": torch.tensor(0.5)})
    return Run(model, guide_of_mean, always(data, options))


@program("a function and a network as arguments")
def callables() -> Run:
    net = nn.Linear(2, 2)

    def model(x: Tensor, net: nn.Module, link: Any) -> None:
        pyro.module("net", net)
        observe(x, 0.1 + link(net(x)))

    return Run(model, guide_of_mean, always(points(), net, functional.softplus))


@program("a lambda made anew at each step as argument")
def fresh_lambda() -> Run:
    def model(x: Tensor, transform: Any) -> None:
        observe(transform(x))

    data = cycle(10, points())
    return Run(model, guide_of_mean, lambda step: ((data(step)[0][0], lambda x: 2 * x - 1), {}))


@program("NumPy arrays as arguments, torch.from_numpy in the model")
def arrays() -> Run:
    def model(x: np.ndarray) -> None:
        observe(torch.from_numpy(x))

    return Run(model, guide_of_mean, always(points().numpy()))


@program("torch.tensor of a NumPy array in the model")
def copied_arrays() -> Run:
    array = points().numpy()

    def model() -> None:
        observe(torch.tensor(array, dtype=torch.get_default_dtype()))

    return Run(model, guide_of_mean, always())


@program("a pandas frame in the closure")
def frame() -> Run:
    table = pd.DataFrame(points().numpy(), columns=["a", "b"])

    def model() -> None:
        observe(torch.tensor(table[["a", "b"]].to_numpy(), dtype=torch.get_default_dtype()))

    return Run(model, guide_of_mean, always())


@program("a list of tensors of different lengths as argument")
def ragged_list() -> Run:
    def model(groups: list[Tensor]) -> None:
        mean = pyro.sample("mean", dist.Normal(torch.zeros(2), 3.0).to_event(1))
        for i, group in enumerate(groups):
            with pyro.plate(f"data_{i}", len(group)):
                pyro.sample(f"x_{i}", dist.Normal(mean, 1.0).to_event(1), obs=group)

    return Run(model, guide_of_mean, always(list(points().split([5, 15, 20]))))


@program("batches of a DataLoader, shuffled, with a ragged last one")
def data_loader() -> Run:
    generator = torch.Generator().manual_seed(71)
    data = TensorDataset(points(35))
    batches = [
        b for _ in range(30) for b in DataLoader(data, 10, shuffle=True, generator=generator)
    ]

    def model(x: Tensor) -> None:
        observe(x, size=35)

    return Run(model, guide_of_mean, lambda step: (tuple(batches[step % 120]), {}))


@program("weights of importance by data and poutine.scale of a tensor")
def weighted() -> Run:
    def model(x: Tensor, weights: Tensor) -> None:
        mean = pyro.sample("mean", dist.Normal(torch.zeros(2), 3.0).to_event(1))
        with pyro.plate("data", len(x)), poutine.scale(scale=weights):
            pyro.sample("x", dist.Normal(mean, 1.0).to_event(1), obs=x)

    return Run(model, guide_of_mean, always(points(), torch.linspace(0.1, 1, 40)))


@program("temperature as an argument, RelaxedBernoulli")
def temperature() -> Run:
    def model(x: Tensor, temperature: float) -> None:
        mean = pyro.sample("mean", dist.Normal(torch.zeros(2), 3.0).to_event(1))
        relaxed = dist.RelaxedBernoulliStraightThrough(
            torch.tensor(temperature), probs=torch.tensor(0.5)
        )
        with pyro.plate("data", len(x)):
            gate = pyro.sample("gate", relaxed)
            pyro.sample("x", dist.Normal(mean * gate[:, None], 1.0).to_event(1), obs=x)

    def guide(x: Tensor, temperature: float) -> None:
        guide_of_mean()
        logits = pyro.param("logits", lambda: torch.zeros(len(x)))
        with pyro.plate("data", len(x)):
            relaxed = dist.RelaxedBernoulliStraightThrough(torch.tensor(temperature), logits=logits)
            pyro.sample("gate", relaxed)

    x = points()
    return Run(model, guide, lambda step: ((x, max(0.3, 1.0 - step / 50)), {}))


def _halves() -> Batches:
    x = points()
    return lambda step: ((x if step % 2 else x[:20],), {"num": 40, "verbose": step % 2 == 0})


@program("a bool argument and two sizes")
def kinds_of_call() -> Run:
    def model(x: Tensor, num: int, verbose: bool) -> None:
        observe(x, size=num)

    return Run(model, guide_of_mean, _halves())


@program("model as a class with __call__, guide as a bound method")
def callable_object() -> Run:
    class Model:
        def __init__(self) -> None:
            self.scale = torch.tensor(0.8)

        def __call__(self, x: Tensor) -> None:
            observe(x, self.scale)

        def guide(self, x: Tensor) -> None:
            guide_of_mean()

    model = Model()
    return Run(model, model.guide, always(points()))


@program("pyro.condition, pyro.do and poutine.lift of a model")
def handlers() -> Run:
    def prior(x: Tensor) -> None:
        slope = pyro.param("slope", torch.ones(2))
        shift = pyro.sample("shift", dist.Normal(0.0, 1.0))
        with pyro.plate("data", len(x)):
            pyro.sample("y", dist.Normal(x @ slope + shift, 1.0))

    x = points()
    lifted = poutine.lift(prior, prior={"slope": dist.Normal(torch.zeros(2), 1.0).to_event(1)})
    intervened = pyro.do(lifted, data={"shift": torch.tensor(0.3)})
    model = pyro.condition(intervened, data={"y": x.sum(-1)})
    return Run(model, AutoNormal(model), always(x))
