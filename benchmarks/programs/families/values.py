"""Small programs whose shapes, course or random numbers depend on values or on Python's state."""

import math

import numpy as np
import pyro
import pyro.distributions as dist
import torch
from pyro import poutine
from pyro.infer import TraceGraph_ELBO
from pyro.infer.autoguide import AutoNormal
from torch import Tensor
from torch.distributions import constraints
from torch.nn import functional

from ..program import Run, adam, always, cycle, program
from .arguments import guide_of_mean, observe, points


@program("rows up to a tensor n, x[:n]")
def up_to_n() -> Run:
    def model(x: Tensor, n: Tensor) -> None:
        observe(x[:n])

    return Run(model, guide_of_mean, always(points(), torch.tensor(12)))


@program("rows up to a tensor n of another value each step")
def up_to_changing_n() -> Run:
    def model(x: Tensor, n: Tensor) -> None:
        observe(x[:n])

    x = points()
    return Run(model, guide_of_mean, lambda step: ((x, torch.tensor(10 + 5 * (step % 3))), {}))


@program("torch.arange(n) of a tensor n, and an assert that reads tensors")
def arange_n() -> Run:
    def model(x: Tensor, n: Tensor) -> None:
        assert n.max() <= len(x)
        assert not torch.isnan(x).any()
        index = torch.arange(n)
        observe(x[index])

    return Run(model, guide_of_mean, always(points(), torch.tensor(20)))


@program("one_hot without a number of classes")
def one_hot() -> Run:
    labels = torch.arange(40) % 3

    def model(x: Tensor, labels: Tensor) -> None:
        table = pyro.param("table", torch.zeros(3, 2))
        known = functional.one_hot(labels).to(x.dtype)
        observe(x - known @ table)

    return Run(model, guide_of_mean, always(points(), labels))


@program("boolean mask of a fixed count")
def mask_of_fixed_count() -> Run:
    def model(x: Tensor, seen: Tensor) -> None:
        observe(x[seen])

    return Run(model, guide_of_mean, always(points(), torch.arange(40) % 2 == 0))


@program("boolean mask whose count differs")
def mask_of_changing_count() -> Run:
    def model(x: Tensor, seen: Tensor) -> None:
        observe(x[seen])

    x, number = points(), torch.arange(40)
    return Run(model, guide_of_mean, lambda step: ((x, number % (2 + step % 3) == 0), {}))


@program("missing data, NaN to a mask")
def missing() -> Run:
    x = points()
    x[::3, 0] = math.nan

    def model(x: Tensor) -> None:
        mean = pyro.sample("mean", dist.Normal(torch.zeros(2), 3.0).to_event(1))
        seen = ~torch.isnan(x)
        filled = torch.where(seen, x, torch.zeros_like(x))
        with pyro.plate("data", len(x)):
            pyro.sample("x", dist.Normal(mean, 1.0).mask(seen).to_event(1), obs=filled)

    return Run(model, guide_of_mean, always(x))


@program("missing data, partial observation by obs_mask")
def obs_mask() -> Run:
    seen = torch.arange(20) % 4 != 0

    def model(x: Tensor) -> None:
        loc = pyro.sample("loc", dist.Normal(0.0, 3.0))
        with pyro.plate("data", len(x)):
            pyro.sample("x", dist.Normal(loc, 1.0), obs=x, obs_mask=seen)

    return Run(model, AutoNormal(model), always(points(20)[:, 0]))


@program("if on a value of the data")
def branch_on_data() -> Run:
    def model(x: Tensor) -> None:
        observe(x, 1.0 if x.mean() > 0 else 2.0)

    return Run(model, guide_of_mean, cycle(10, points()))


@program("if on a latent value")
def branch_on_latent() -> Run:
    def model(x: Tensor) -> None:
        mean = pyro.sample("mean", dist.Normal(torch.zeros(2), 3.0).to_event(1))
        scale = 1.0 if mean[0] > 0.5 else 2.0
        with pyro.plate("data", len(x)):
            pyro.sample("x", dist.Normal(mean, scale).to_event(1), obs=x)

    return Run(model, guide_of_mean, always(points()))


@program("a recursive model of random depth")
def random_depth() -> Run:
    def geometric(p: Tensor, depth: int = 0) -> int:
        stop = pyro.sample(f"stop_{depth}", dist.Bernoulli(p))
        return depth if stop.item() == 1 or depth == 5 else geometric(p, depth + 1)

    def model(x: Tensor) -> None:
        depth = geometric(torch.tensor(0.5))
        with pyro.plate("data", len(x)):
            pyro.sample("x", dist.Normal(float(depth), 1.0), obs=x)

    def guide(x: Tensor) -> None:
        geometric(pyro.param("p", torch.tensor(0.4), constraint=constraints.unit_interval))

    return Run(model, guide, always(points()[:, 0]), TraceGraph_ELBO(), adam(0.01))


@program("a count of calls in the model, which weights the loss")
def counting() -> Run:
    class Counting:
        steps = 0

        def model(self, x: Tensor) -> None:
            self.steps += 1
            with poutine.scale(scale=min(1.0, self.steps / 20)):
                observe(x)

    return Run(Counting().model, guide_of_mean, always(points()))


@program("losses and values kept in a list by the model")
def keeps_values() -> Run:
    history: list[Tensor] = []

    def model(x: Tensor) -> None:
        observe(x)

    def guide(x: Tensor) -> None:
        guide_of_mean()
        history.append(pyro.param("guide_loc").detach().clone())

    return Run(model, guide, always(points()))


@program("random indices by torch.randperm in the model")
def permuted() -> Run:
    x = points()

    def model() -> None:
        observe(x[torch.randperm(len(x))[:10]], size=40)

    return Run(model, guide_of_mean, always())


@program("random indices by NumPy in the model")
def numpy_indices() -> Run:
    x = points()

    def model() -> None:
        observe(x[np.random.choice(40, 10)], size=40)  # noqa: NPY002 - as users write it

    return Run(model, guide_of_mean, always())


@program("a generator of batches in the closure")
def generator_in_closure() -> Run:
    x, state = points(), {"index": 0}

    def next_batch() -> Tensor:
        state["index"] = (state["index"] + 1) % 4
        return x[10 * state["index"] : 10 * state["index"] + 10]

    def model() -> None:
        observe(next_batch(), size=40)

    return Run(model, guide_of_mean, always())
