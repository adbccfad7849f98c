"""Every loss of Pyro, and functions as losses, on a small autoencoder and on a regression."""

from collections.abc import Callable
from typing import Any

import pyro
import pyro.distributions as dist
import torch
from pyro import poutine
from pyro.contrib.gp.kernels import RBF
from pyro.infer import (
    EnergyDistance,
    RenyiELBO,
    ReweightedWakeSleep,
    Trace_ELBO,
    Trace_MMD,
    TraceEnum_ELBO,
    TraceGraph_ELBO,
    TraceMeanField_ELBO,
    TraceTailAdaptive_ELBO,
    TraceTMC_ELBO,
)
from pyro.infer.autoguide import AutoDiagonalNormal, AutoNormal
from torch import Tensor, nn

from ..program import Run, always, cycle, program


def table(num: int = 40) -> tuple[Tensor, Tensor]:
    """Predictors and a response."""
    generator = torch.Generator().manual_seed(30)
    x = torch.randn(num, 2, generator=generator)
    return x, x[:, 0] - 2 * x[:, 1] + 0.5 * torch.randn(num, generator=generator)


def regression(x: Tensor, y: Tensor | None = None) -> None:
    """A linear regression that may also simulate its response."""
    weight = pyro.sample("weight", dist.Normal(torch.zeros(2), 2.0).to_event(1))
    scale = pyro.sample("scale", dist.LogNormal(0.0, 0.5))
    mean = (x * weight).sum(-1)
    with pyro.plate("data", x.size(-2), dim=-1):
        pyro.sample("y", dist.Normal(mean, scale), obs=y)


class Autoencoder(nn.Module):
    """A VAE whose guide may be discrete."""

    def __init__(self, discrete: bool = False) -> None:
        super().__init__()
        self.discrete = discrete
        self.encoder, self.decoder = nn.Linear(2, 4), nn.Linear(2, 2)

    def prior(self, shape: list[int]) -> Any:
        if self.discrete:
            return dist.Bernoulli(torch.full((2,), 0.5)).expand([*shape, 2]).to_event(1)
        return dist.Normal(torch.zeros(2), 1.0).expand([*shape, 2]).to_event(1)

    def model(self, x: Tensor) -> None:
        pyro.module("autoencoder", self)
        with pyro.plate("data", x.size(-2), dim=-1):
            z = pyro.sample("z", self.prior([x.size(-2)]))
            pyro.sample("x", dist.Normal(self.decoder(z), 0.7).to_event(1), obs=x)

    def guide(self, x: Tensor) -> None:
        pyro.module("autoencoder", self)
        loc, log_scale = self.encoder(x).chunk(2, -1)
        with pyro.plate("data", x.size(-2), dim=-1):
            if self.discrete:
                pyro.sample("z", dist.Bernoulli(logits=loc).to_event(1))
            else:
                pyro.sample("z", dist.Normal(loc, log_scale.exp()).to_event(1))


CONTINUOUS: dict[str, Callable[[], Any]] = {
    "Trace_ELBO, 5 particles": lambda: Trace_ELBO(num_particles=5),
    "Trace_ELBO, 5 vectorised particles": lambda: Trace_ELBO(
        num_particles=5, vectorize_particles=True
    ),
    "Trace_ELBO, vectorised, max_plate_nesting": lambda: Trace_ELBO(
        num_particles=4, vectorize_particles=True, max_plate_nesting=1
    ),
    "TraceMeanField_ELBO, 3 particles": lambda: TraceMeanField_ELBO(num_particles=3),
    "TraceGraph_ELBO": TraceGraph_ELBO,
    "TraceEnum_ELBO without discrete latents": lambda: TraceEnum_ELBO(max_plate_nesting=1),
    "RenyiELBO, alpha 0": lambda: RenyiELBO(alpha=0.0, num_particles=3),
    "RenyiELBO, vectorised": lambda: RenyiELBO(
        alpha=0.5, num_particles=4, vectorize_particles=True
    ),
    "TraceTailAdaptive_ELBO": lambda: TraceTailAdaptive_ELBO(
        num_particles=4, vectorize_particles=True
    ),
    "TraceTMC_ELBO": lambda: TraceTMC_ELBO(max_plate_nesting=1),
    "ReweightedWakeSleep, wake phi": lambda: ReweightedWakeSleep(num_particles=3, insomnia=1.0),
    "ReweightedWakeSleep, vectorised": lambda: ReweightedWakeSleep(
        num_particles=3, vectorize_particles=True, insomnia=1.0
    ),
}
"""Losses of a VAE with a reparametrised guide."""


def _register(name: str, make: Callable[[], Any], discrete: bool) -> None:
    @program(f"{'discrete' if discrete else 'continuous'} VAE, {name}")
    def build() -> Run:
        net = Autoencoder(discrete)
        return Run(net.model, net.guide, cycle(10, table()[0]), make())


for _name, _make in CONTINUOUS.items():
    _register(_name, _make, discrete=False)

DISCRETE: dict[str, Callable[[], Any]] = {
    "Trace_ELBO": Trace_ELBO,
    "TraceGraph_ELBO, 2 particles": lambda: TraceGraph_ELBO(num_particles=2),
    "RenyiELBO": lambda: RenyiELBO(alpha=0.5, num_particles=3, vectorize_particles=True),
    "ReweightedWakeSleep": lambda: ReweightedWakeSleep(num_particles=3, insomnia=1.0),
}
"""Losses of a VAE whose guide needs a score function."""

for _name, _make in DISCRETE.items():
    _register(_name, _make, discrete=True)


@program("ReweightedWakeSleep with sleep, conditioned model")
def wake_sleep() -> Run:
    decoder, encoder = nn.Linear(2, 2), nn.Linear(2, 4)

    def model(observations: dict[str, Tensor]) -> None:
        pyro.module("decoder", decoder)
        with pyro.plate("data", 10, dim=-1):
            z = pyro.sample("z", dist.Normal(torch.zeros(2), 1.0).to_event(1))
            x = dist.Normal(decoder(z), 0.7).to_event(1)
            pyro.sample("x", x, obs=observations["x"])

    def guide(observations: dict[str, Tensor]) -> None:
        pyro.module("encoder", encoder)
        loc, log_scale = encoder(observations["x"]).chunk(2, -1)
        with pyro.plate("data", 10, dim=-1):
            pyro.sample("z", dist.Normal(loc, log_scale.exp()).to_event(1))

    data = cycle(10, table()[0])
    loss = ReweightedWakeSleep(num_particles=2, num_sleep_particles=2, insomnia=0.5)
    return Run(model, guide, lambda step: ((), {"observations": {"x": data(step)[0][0]}}), loss)


@program("regression, Trace_MMD")
def maximum_mean_discrepancy() -> Run:
    kernel = RBF(input_dim=1, lengthscale=torch.tensor(1.0))
    x, y = table()
    conditioned = pyro.condition(_simulator, data={"y": y})
    loss = Trace_MMD(kernel=kernel, vectorize_particles=False, num_particles=2)
    return Run(conditioned, AutoNormal(conditioned), always(x), loss)


def _simulator(x: Tensor) -> None:
    weight = pyro.sample("weight", dist.Normal(torch.zeros(2), 2.0).to_event(1))
    with pyro.plate("data", x.size(0)):
        pyro.sample("y", dist.Normal(x @ weight, 0.5))


@program("regression, EnergyDistance")
def energy_distance() -> Run:
    x, y = table()
    loss = EnergyDistance(num_particles=3)
    return Run(regression, AutoDiagonalNormal(regression), always(x, y), loss)


@program("stable distribution, EnergyDistance with a prior scale")
def stable() -> Run:
    data = torch.randn(20, generator=torch.Generator().manual_seed(31)) * 2

    def model(data: Tensor) -> None:
        stability = pyro.sample("stability", dist.Uniform(0.5, 2.0))
        scale = pyro.sample("scale", dist.LogNormal(0.0, 1.0))
        with pyro.plate("data", len(data), dim=-1):
            pyro.sample("x", dist.Stable(stability, 0.0, scale), obs=data)

    loss = EnergyDistance(num_particles=4, prior_scale=0.1, max_plate_nesting=2)
    return Run(model, AutoDiagonalNormal(model, init_scale=0.1), always(data), loss)


def simple_elbo(model: Any, guide: Any, *args: Any, **kwargs: Any) -> Tensor:
    """The negative ELBO of two traces."""
    guide_trace = poutine.trace(guide).get_trace(*args, **kwargs)
    replayed = poutine.replay(model, trace=guide_trace)
    model_trace = poutine.trace(replayed).get_trace(*args, **kwargs)
    return guide_trace.log_prob_sum() - model_trace.log_prob_sum()


@program("a function as loss")
def function_as_loss() -> Run:
    return Run(regression, AutoNormal(regression), always(*table()), simple_elbo)


@program("a function as loss, which adds a penalty to differentiable_loss")
def penalised() -> Run:
    net = Autoencoder()

    def loss(model: Any, guide: Any, x: Tensor) -> Tensor:
        bound = TraceMeanField_ELBO().differentiable_loss(model, guide, x)
        return bound + 0.1 * sum(p.pow(2).sum() for p in net.decoder.parameters())

    return Run(net.model, net.guide, cycle(10, table()[0]), loss)


@program("loss and loss_and_grads of an ELBO")
def loss_and_grads() -> Run:
    elbo, net = Trace_ELBO(), Autoencoder()
    batches = cycle(10, table()[0])
    return Run(net.model, net.guide, batches, elbo.loss, loss_and_grads=elbo.loss_and_grads)


class ScaledELBO(Trace_ELBO):
    """An ELBO of a user's own, per datum."""

    def loss_and_grads(self, model: Any, guide: Any, *args: Any, **kwargs: Any) -> float:
        with poutine.scale(scale=1.0 / len(args[0])):
            return super().loss_and_grads(model, guide, *args, **kwargs)


@program("a subclass of Trace_ELBO")
def subclass() -> Run:
    net = Autoencoder()
    return Run(net.model, net.guide, cycle(10, table()[0]), ScaledELBO())


@program("regression, RenyiELBO of an autoguide")
def renyi_regression() -> Run:
    loss = RenyiELBO(alpha=2.0, num_particles=3, vectorize_particles=True)
    return Run(regression, AutoNormal(regression, init_scale=0.05), always(*table()), loss)
