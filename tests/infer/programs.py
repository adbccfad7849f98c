"""Pairs of many kinds, each with the arguments of its steps, to compare steps on."""

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any

import pyro
import pyro.distributions as dist
import torch
from pyro import poutine
from pyro.infer import (
    RenyiELBO,
    Trace_ELBO,
    TraceEnum_ELBO,
    TraceGraph_ELBO,
    TraceMeanField_ELBO,
    config_enumerate,
)
from pyro.infer.autoguide import AutoNormal
from pyro.nn import PyroModule, PyroParam, PyroSample
from torch import Tensor, nn
from torch.distributions import constraints

from pyrovae import VAE, Batches
from pyrovae.infer import ELBO
from tests.pairs import user_pair

NUM, DIM = 12, 3


@dataclass
class Program:
    """A pair, its loss, and the arguments of each of its steps."""

    model: Any
    guide: Any
    loss: Any
    arguments: Callable[[int], tuple[tuple[Any, ...], dict[str, Any]]]
    modules: tuple[nn.Module, ...] = ()
    transform: Any = None


def data() -> Tensor:
    return torch.randn(40, NUM, DIM, generator=torch.Generator().manual_seed(5))


def each_batch(i: int) -> tuple[tuple[Tensor], dict[str, Any]]:
    return (data()[i % 40],), {}


def ragged_batches(i: int) -> tuple[tuple[Tensor], dict[str, Any]]:
    return (data()[i % 40][: 5 if i % 4 == 3 else NUM],), {}


class Networks(nn.Module):
    """A hand-written VAE, with a further layer such as batch normalisation if you give one."""

    def __init__(self, body: nn.Module | None = None) -> None:
        super().__init__()
        # No bias before BatchNorm: its gradient is only round-off, which Adam would amplify.
        linear = nn.Linear(DIM, 6, bias=body is None)
        self.body = nn.Sequential(linear, body or nn.Identity(), nn.Tanh())
        self.loc, self.log_scale, self.decoder = nn.Linear(6, 2), nn.Linear(6, 2), nn.Linear(2, DIM)
        self.shift = 0.0

    def model(self, x: Tensor, beta: Any = 1.0) -> None:
        pyro.module("networks", self)
        with pyro.plate("data", len(x)):
            with poutine.scale(scale=beta):
                z = pyro.sample("z", dist.Normal(torch.zeros(2), 1.0).to_event(1))
            x_loc = self.decoder(z) + self.shift
            pyro.sample("x", dist.Normal(x_loc, 0.5).to_event(1), obs=x)

    def guide(self, x: Tensor, beta: Any = 1.0) -> None:
        pyro.module("networks", self)
        h = self.body(x)
        with pyro.plate("data", len(x)), poutine.scale(scale=beta):
            q = dist.Normal(self.loc(h), self.log_scale(h).exp())
            pyro.sample("z", q.to_event(1))


def vae() -> Program:
    likelihood = {"family": "Normal", "scale": "per_feature"}
    ours = VAE((DIM,), latent_dim=2, likelihood=likelihood)
    return Program(ours.model, ours.guide, ELBO(400), each_batch, (ours,))


def data_on_the_device() -> Program:
    ours = VAE((DIM,), latent_dim=2, likelihood="Bernoulli")
    grey = torch.rand(40, DIM, generator=torch.Generator().manual_seed(1))
    batches = Batches(grey, 12, transform=torch.bernoulli)
    order = torch.randperm(40, generator=torch.Generator().manual_seed(2)).split(12)
    return Program(
        ours.model,
        ours.guide,
        ELBO(40),
        lambda i: ((order[i % 4],), {}),
        (ours,),
        transform=batches.take,
    )


def ragged() -> Program:
    networks = Networks()
    return Program(networks.model, networks.guide, ELBO(400), ragged_batches, (networks,))


def user() -> Program:
    pair = user_pair(lambda x: {"size": 500, "subsample": torch.arange(len(x))})
    return Program(pair.model, pair.guide, Trace_ELBO(), each_batch, (pair.encoder, pair.decoder))


def normalised() -> Program:
    networks = Networks(nn.Sequential(nn.BatchNorm1d(6), nn.Dropout(0.3)))
    return Program(networks.model, networks.guide, Trace_ELBO(), each_batch, (networks,))


def particles() -> Program:
    networks = Networks()
    loss = Trace_ELBO(num_particles=5, vectorize_particles=True)
    return Program(networks.model, networks.guide, loss, each_batch, (networks,))


def iwae() -> Program:
    networks = Networks()
    loss = RenyiELBO(alpha=0, num_particles=4, vectorize_particles=True)
    return Program(networks.model, networks.guide, loss, each_batch, (networks,))


def scheduled() -> Program:
    networks = Networks()

    def arguments(i: int) -> tuple[tuple[Tensor], dict[str, Any]]:
        return each_batch(i)[0], {"beta": min(1.0, 0.1 + i / 100)}

    return Program(networks.model, networks.guide, TraceMeanField_ELBO(), arguments, (networks,))


def autoguide() -> Program:
    class Regression(PyroModule):
        def __init__(self) -> None:
            super().__init__()
            self.linear = PyroModule[nn.Linear](DIM, 1)
            self.linear.weight = PyroSample(dist.Normal(0.0, 1.0).expand([1, DIM]).to_event(2))
            self.scale = PyroParam(torch.tensor(1.0), constraint=constraints.positive)

        def forward(self, x: Tensor) -> None:
            mean = self.linear(x).squeeze(-1)
            with pyro.plate("data", 480, subsample=torch.arange(len(x))):
                pyro.sample("y", dist.Normal(mean, self.scale), obs=x.sum(-1))

    model = Regression()
    return Program(model, AutoNormal(model), Trace_ELBO(), each_batch, (model,))


def enumerated() -> Program:
    @config_enumerate
    def model(x: Tensor) -> None:
        weights = pyro.param("weights", torch.ones(3) / 3, constraint=constraints.simplex)
        scale = pyro.param("scale", torch.tensor(1.0), constraint=constraints.positive)
        with pyro.plate("components", 3):
            loc = pyro.sample("loc", dist.Normal(0.0, 3.0))
        with pyro.plate("data", len(x)):
            k = pyro.sample("k", dist.Categorical(weights))
            pyro.sample("x", dist.Normal(loc[k], scale), obs=x[:, 0])

    guide = AutoNormal(poutine.block(model, expose=["loc"]))
    return Program(model, guide, TraceEnum_ELBO(max_plate_nesting=1), each_batch)


def score_function() -> Program:
    pair = user_pair(lambda x: {"size": len(x)})
    return Program(
        pair.model, pair.guide, TraceGraph_ELBO(), each_batch, (pair.encoder, pair.decoder)
    )


PROGRAMS: dict[str, Callable[[], Program]] = {
    "our VAE": vae,
    "data on the device": data_on_the_device,
    "a ragged last batch": ragged,
    "a user's pair, a subsampled plate and a global latent": user,
    "BatchNorm and dropout": normalised,
    "vectorised particles": particles,
    "IWAE": iwae,
    "a beta schedule": scheduled,
    "a PyroModule and an autoguide": autoguide,
    "an enumerated mixture": enumerated,
    "score function": score_function,
}

adam = partial(torch.optim.Adam, lr=1e-2)
