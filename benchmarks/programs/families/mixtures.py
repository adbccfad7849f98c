"""Mixtures and other programs with discrete latents, enumerated or sampled."""

from typing import Any

import pyro
import pyro.distributions as dist
import torch
from pyro import poutine
from pyro.infer import TraceEnum_ELBO, TraceGraph_ELBO, config_enumerate
from pyro.infer.autoguide import AutoDelta, AutoNormal
from pyro.ops.indexing import Vindex
from torch import Tensor
from torch.distributions import constraints

from ..program import Run, adam, always, program


def clusters(num: int = 30) -> Tensor:
    """Numbers in three clusters."""
    generator = torch.Generator().manual_seed(15)
    centre = torch.tensor([-3.0, 0.0, 4.0])[torch.arange(num) % 3]
    return centre + 0.5 * torch.randn(num, generator=generator)


@program("Gaussian mixture, Dirichlet weights and AutoDelta")
def gaussian_mixture() -> Run:
    @config_enumerate
    def model(data: Tensor) -> None:
        weights = pyro.sample("weights", dist.Dirichlet(0.5 * torch.ones(3)))
        scale = pyro.sample("scale", dist.LogNormal(0.0, 2.0))
        with pyro.plate("components", 3):
            locs = pyro.sample("locs", dist.Normal(0.0, 10.0))
        with pyro.plate("data", len(data)):
            assignment = pyro.sample("assignment", dist.Categorical(weights))
            pyro.sample("obs", dist.Normal(locs[assignment], scale), obs=data)

    def init(site: dict[str, Any]) -> Tensor:
        if site["name"] == "weights":
            return torch.ones(3) / 3
        if site["name"] == "scale":
            return torch.tensor(2.0)
        return torch.tensor([-1.0, 0.0, 1.0])

    exposed = poutine.block(model, expose=["weights", "locs", "scale"])
    guide = AutoDelta(exposed, init_loc_fn=init)
    loss = TraceEnum_ELBO(max_plate_nesting=1)
    return Run(model, guide, always(clusters()), loss, adam(0.1))


@program("Gaussian mixture, assignments enumerated in the guide")
def guide_side() -> Run:
    def model(data: Tensor) -> None:
        with pyro.plate("components", 3):
            locs = pyro.sample("locs", dist.Normal(0.0, 10.0))
        with pyro.plate("data", len(data)):
            z = pyro.sample("z", dist.Categorical(torch.ones(3) / 3))
            pyro.sample("obs", dist.Normal(locs[z], 1.0), obs=data)

    @config_enumerate(default="sequential")
    def guide(data: Tensor) -> None:
        loc = pyro.param("loc", torch.tensor([-1.0, 0.0, 1.0]))
        with pyro.plate("components", 3):
            pyro.sample("locs", dist.Normal(loc, 0.1))
        probs = pyro.param(
            "probs", lambda: torch.ones(len(data), 3) / 3, constraint=constraints.simplex
        )
        with pyro.plate("data", len(data)):
            pyro.sample("z", dist.Categorical(probs), infer={"enumerate": "parallel"})

    loss = TraceEnum_ELBO(max_plate_nesting=1)
    return Run(model, guide, always(clusters()), loss, adam(0.05))


def stick_breaking(beta: Tensor) -> Tensor:
    """The weights of a Dirichlet process from the parts that are broken off."""
    left = (1 - beta).cumprod(-1)
    pad = torch.nn.functional.pad
    return pad(beta, (0, 1), value=1) * pad(left, (1, 0), value=1)


@program("Dirichlet process mixture, stick breaking")
def dirichlet_process() -> Run:
    data, num = clusters(), 4

    def model(data: Tensor) -> None:
        with pyro.plate("sticks", num - 1):
            beta = pyro.sample("beta", dist.Beta(1, 0.7))
        with pyro.plate("components", num):
            mu = pyro.sample("mu", dist.Normal(torch.zeros(1), 5 * torch.ones(1)).to_event(1))
        with pyro.plate("data", len(data)):
            z = pyro.sample("z", dist.Categorical(stick_breaking(beta)))
            pyro.sample("obs", dist.Normal(mu[z].squeeze(-1), 1.0), obs=data)

    def guide(data: Tensor) -> None:
        positive = constraints.positive
        kappa = pyro.param("kappa", lambda: dist.Uniform(0, 2).sample([num - 1]), positive)
        tau = pyro.param("tau", lambda: dist.Normal(0.0, 3.0).sample([num, 1]))
        prior = dist.Dirichlet(torch.ones(num) / num)
        phi = pyro.param("phi", lambda: prior.sample([len(data)]), constraints.simplex)
        with pyro.plate("sticks", num - 1):
            pyro.sample("beta", dist.Beta(torch.ones(num - 1), kappa))
        with pyro.plate("components", num):
            pyro.sample("mu", dist.Normal(tau, 0.3).to_event(1))
        with pyro.plate("data", len(data)):
            pyro.sample("z", dist.Categorical(phi), infer={"enumerate": "sequential"})

    return Run(model, guide, always(data), TraceGraph_ELBO(), adam(0.05))


@program("mixture of Poissons, MixtureSameFamily")
def same_family() -> Run:
    generator = torch.Generator().manual_seed(16)
    data = torch.poisson(torch.tensor([1.0, 6.0]).repeat(20), generator=generator)

    def model(data: Tensor) -> None:
        weights = pyro.param("weights", torch.tensor([0.5, 0.5]), constraint=constraints.simplex)
        with pyro.plate("components", 2):
            rate = pyro.sample("rate", dist.Gamma(2.0, 0.5))
        mixture = dist.MixtureSameFamily(dist.Categorical(weights), dist.Poisson(rate))
        with pyro.plate("data", len(data)):
            pyro.sample("obs", mixture, obs=data)

    return Run(model, AutoNormal(model), always(data))


@program("mixture of a Delta and a gamma, MaskedMixture")
def masked_mixture() -> Run:
    data = clusters().abs()

    def model(data: Tensor) -> None:
        scale = pyro.sample("scale", dist.LogNormal(0.0, 1.0))
        wide = data > 2
        mixed = dist.MaskedMixture(wide, dist.Exponential(scale), dist.Gamma(2.0, scale))
        with pyro.plate("data", len(data)):
            pyro.sample("obs", mixed, obs=data)

    return Run(model, AutoNormal(model), always(data))


@program("toy mixture, sequential data and a neural baseline")
def toy_mixture() -> Run:
    data = clusters(6)
    net = torch.nn.Sequential(torch.nn.Linear(1, 4), torch.nn.ReLU(), torch.nn.Linear(4, 1))
    baseline = torch.nn.Linear(1, 1)

    def value_of(x: Tensor) -> Tensor:
        return baseline(x).squeeze()

    def model(data: Tensor) -> None:
        loc = pyro.param("loc", torch.tensor([-1.0, 2.0]))
        for i in pyro.plate("data", len(data)):
            z = pyro.sample(f"z_{i}", dist.Bernoulli(0.5))
            pyro.sample(f"x_{i}", dist.Normal(loc[z.long()], 1.0), obs=data[i])

    def guide(data: Tensor) -> None:
        pyro.module("net", net)
        pyro.module("baseline", baseline)
        for i in pyro.plate("data", len(data)):
            x = data[i].reshape(1)
            options = {"baseline": {"nn_baseline": value_of, "nn_baseline_input": x}}
            p = torch.sigmoid(net(x)).squeeze()
            pyro.sample(f"z_{i}", dist.Bernoulli(p), infer=options)

    return Run(model, guide, always(data), TraceGraph_ELBO(), adam(0.01))


@program("Bayesian network of three binary variables, enumerated")
def sprinkler() -> Run:
    wet = torch.tensor([1.0, 0.0, 1.0, 1.0])

    @config_enumerate
    def model(wet: Tensor) -> None:
        p = pyro.param("p_rain", torch.tensor(0.3), constraint=constraints.unit_interval)
        table = pyro.param(
            "p_wet", torch.tensor([[0.1, 0.8], [0.7, 0.9]]), constraint=constraints.unit_interval
        )
        with pyro.plate("days", len(wet)):
            rain = pyro.sample("rain", dist.Bernoulli(p))
            sprinkler = pyro.sample("sprinkler", dist.Bernoulli(0.5 - 0.4 * rain))
            both = table[rain.long(), sprinkler.long()]
            pyro.sample("wet", dist.Bernoulli(both), obs=wet)

    def guide(wet: Tensor) -> None:
        """All is enumerated."""

    return Run(model, guide, always(wet), TraceEnum_ELBO(max_plate_nesting=1), adam(0.02))


@program("rational speech acts, nested enumeration by hand")
def speech_acts() -> Run:
    meanings = torch.tensor([[1.0, 1.0, 0.0], [0.0, 1.0, 1.0], [1.0, 1.0, 1.0]])
    heard = torch.tensor([0, 0, 1, 2, 1, 0])

    def literal(utterance: int, prior: Tensor) -> Tensor:
        weights = meanings[utterance] * prior
        return weights / weights.sum()

    def speaker(prior: Tensor, alpha: Tensor) -> Tensor:
        utilities = torch.stack([literal(u, prior) for u in range(3)])
        return torch.softmax(alpha * (utilities + 1e-6).log(), dim=0)

    @config_enumerate
    def model(heard: Tensor) -> None:
        alpha = pyro.param("alpha", torch.tensor(1.0), constraint=constraints.positive)
        prior = pyro.sample("prior", dist.Dirichlet(torch.ones(3)))
        says = speaker(prior, alpha)
        with pyro.plate("listeners", len(heard)):
            world = pyro.sample("world", dist.Categorical(prior))
            pyro.sample("utterance", dist.Categorical(says.t()[world]), obs=heard)

    guide = AutoDelta(poutine.block(model, hide=["world"]))
    return Run(model, guide, always(heard), TraceEnum_ELBO(max_plate_nesting=1), adam(0.02))


@program("categories of several columns, independent plates with Vindex")
def several_columns() -> Run:
    generator = torch.Generator().manual_seed(17)
    data = torch.randint(4, (10, 5), generator=generator)

    @config_enumerate
    def model(data: Tensor) -> None:
        rows, columns = data.shape
        column = pyro.plate("columns", columns, dim=-1)
        row = pyro.plate("rows", rows, dim=-2)
        with pyro.plate("classes", 2, dim=-3), column:
            p = pyro.sample("p", dist.Dirichlet(torch.ones(4)))
        share = pyro.sample("share", dist.Dirichlet(torch.ones(2)))
        with row:
            z = pyro.sample("z", dist.Categorical(share))
        with row, column:
            probs = Vindex(p)[..., z, 0, torch.arange(columns), :]
            pyro.sample("x", dist.Categorical(probs), obs=data)

    guide = AutoNormal(poutine.block(model, hide=["z"]))
    return Run(model, guide, always(data), TraceEnum_ELBO(max_plate_nesting=3), adam(0.02))


@program("chain of factors, summed out by TraceEnum")
def chain_of_factors() -> Run:
    tables = torch.randn(5, 3, 3, generator=torch.Generator().manual_seed(18))

    @config_enumerate
    def model(tables: Tensor) -> None:
        bias = pyro.param("bias", torch.zeros(3))
        before = pyro.sample("x_0", dist.Categorical(logits=bias))
        for i in pyro.markov(range(len(tables))):
            now = pyro.sample(f"x_{i + 1}", dist.Categorical(logits=tables[i] @ bias + bias))
            pyro.factor(f"factor_{i}", tables[i][before, now])
            before = now

    def guide(tables: Tensor) -> None:
        """All is enumerated."""

    return Run(model, guide, always(tables), TraceEnum_ELBO(max_plate_nesting=0), adam(0.02))
