"""Every autoguide of Pyro, on regressions with a hierarchy and with discrete latents."""

from collections.abc import Callable
from typing import Any

import pyro
import pyro.distributions as dist
import torch
from pyro import poutine
from pyro.distributions.transforms import affine_autoregressive
from pyro.infer import Trace_ELBO, TraceEnum_ELBO, TraceMeanField_ELBO, config_enumerate
from pyro.infer.autoguide import (
    AutoDelta,
    AutoDiagonalNormal,
    AutoDiscreteParallel,
    AutoGaussian,
    AutoGuideList,
    AutoHierarchicalNormalMessenger,
    AutoIAFNormal,
    AutoLaplaceApproximation,
    AutoLowRankMultivariateNormal,
    AutoMultivariateNormal,
    AutoNormal,
    AutoNormalizingFlow,
    AutoNormalMessenger,
    AutoRegressiveMessenger,
    AutoStructured,
    init_to_feasible,
    init_to_generated,
    init_to_mean,
    init_to_median,
    init_to_sample,
    init_to_uniform,
    init_to_value,
)
from torch import Tensor

from ..program import Run, adam, always, program


def groups(num: int = 30) -> tuple[Tensor, Tensor, Tensor]:
    """The group of each datum, a predictor and a response."""
    generator = torch.Generator().manual_seed(20)
    x = torch.randn(num, generator=generator)
    y = 2 * x + torch.randn(num, generator=generator)
    return torch.arange(num) % 4, x, y


def model(group: Tensor, x: Tensor, y: Tensor | None = None) -> None:
    """A slope for all, and an intercept for each group."""
    mean = pyro.sample("mean", dist.Normal(0.0, 3.0))
    spread = pyro.sample("spread", dist.LogNormal(0.0, 0.5))
    slope = pyro.sample("slope", dist.Normal(0.0, 2.0))
    with pyro.plate("groups", 4):
        intercept = pyro.sample("intercept", dist.Normal(mean, spread))
    noise = pyro.sample("noise", dist.Gamma(2.0, 2.0))
    with pyro.plate("data", len(x)):
        pyro.sample("y", dist.Normal(intercept[group] + slope * x, noise), obs=y)


def _run(guide: Any, loss: Any = None, lr: float = 0.02, of: Any = model) -> Run:
    return Run(of, guide, always(*groups()), loss or Trace_ELBO(), adam(lr))


GUIDES: dict[str, Callable[[Any], Any]] = {
    "AutoDelta": AutoDelta,
    "AutoDelta, init_to_median": lambda pair: AutoDelta(pair, init_loc_fn=init_to_median),
    "AutoNormal": AutoNormal,
    "AutoNormal, init_to_sample": lambda pair: AutoNormal(pair, init_loc_fn=init_to_sample),
    "AutoNormal, init_to_mean": lambda pair: AutoNormal(pair, init_loc_fn=init_to_mean),
    "AutoNormal, init_to_uniform": lambda pair: AutoNormal(pair, init_loc_fn=init_to_uniform),
    "AutoNormal, init_to_value": lambda pair: AutoNormal(
        pair,
        init_loc_fn=init_to_value(values={"slope": torch.tensor(1.0)}, fallback=init_to_feasible),
    ),
    "AutoNormal, init_to_generated": lambda pair: AutoNormal(
        pair, init_loc_fn=init_to_generated(generate=lambda: init_to_mean)
    ),
    "AutoDiagonalNormal": AutoDiagonalNormal,
    "AutoMultivariateNormal": AutoMultivariateNormal,
    "AutoLowRankMultivariateNormal": lambda pair: AutoLowRankMultivariateNormal(pair, rank=2),
    "AutoLaplaceApproximation": AutoLaplaceApproximation,
    "AutoIAFNormal": lambda pair: AutoIAFNormal(pair, hidden_dim=[10]),
    "AutoNormalizingFlow": lambda pair: AutoNormalizingFlow(
        pair, lambda dim: affine_autoregressive(dim, hidden_dims=[10])
    ),
    "AutoGaussian, dense": lambda pair: AutoGaussian(pair, backend="dense"),
    "AutoNormalMessenger": AutoNormalMessenger,
    "AutoHierarchicalNormalMessenger": AutoHierarchicalNormalMessenger,
    "AutoRegressiveMessenger": AutoRegressiveMessenger,
}
"""An autoguide by its name."""


def _register(name: str, make: Callable[[Any], Any]) -> None:
    @program(name)
    def build() -> Run:
        return _run(make(model))


for _name, _make in GUIDES.items():
    _register(_name, _make)


@program("AutoNormal, mean-field KL")
def mean_field() -> Run:
    return _run(AutoNormal(model), TraceMeanField_ELBO())


@program("AutoGuideList of three parts, one by hand")
def guide_list() -> Run:
    guide = AutoGuideList(model)
    guide.append(AutoDiagonalNormal(poutine.block(model, expose=["mean", "slope", "noise"])))
    guide.append(AutoDelta(poutine.block(model, expose=["spread"])))

    def intercepts(group: Tensor, x: Tensor, y: Tensor | None = None) -> dict[str, Tensor]:
        loc = pyro.param("intercept_loc", torch.zeros(4))
        with guide.plates["groups"]:
            return {"intercept": pyro.sample("intercept", dist.Normal(loc, 0.3))}

    guide.append(intercepts)
    return _run(guide)


@program("AutoStructured, with a dependency")
def structured() -> Run:
    def linear(delta: Tensor) -> Tensor:
        return delta

    guide = AutoStructured(
        model,
        conditionals={
            "mean": "normal",
            "spread": "delta",
            "slope": "normal",
            "intercept": "mvn",
            "noise": "normal",
        },
        dependencies={"intercept": {"mean": "linear"}, "slope": {"mean": linear}},
    )
    return _run(guide)


@program("AutoNormal, sites that share a subsampled plate")
def subsampled_sites() -> Run:
    x = torch.randn(60, generator=torch.Generator().manual_seed(21))

    def local(x: Tensor) -> None:
        scale = pyro.sample("scale", dist.LogNormal(0.0, 1.0))
        with pyro.plate("data", len(x), subsample_size=10) as index:
            z = pyro.sample("z", dist.Normal(0.0, scale))
            pyro.sample("x", dist.Normal(z, 0.5), obs=x[index])

    def create_plates(x: Tensor) -> Any:
        return pyro.plate("data", len(x), subsample_size=10)

    guide = AutoNormal(local, create_plates=create_plates)
    return Run(local, guide, always(x), optim=adam(0.05))


@program("AutoDiscreteParallel beside AutoDiagonalNormal")
def discrete_parallel() -> Run:
    def mixture(data: Tensor) -> None:
        share = pyro.sample("share", dist.Dirichlet(torch.ones(2)))
        with pyro.plate("components", 2):
            loc = pyro.sample("loc", dist.Normal(0.0, 3.0))
        with pyro.plate("data", len(data)):
            z = pyro.sample("z", dist.Categorical(share))
            pyro.sample("x", dist.Normal(loc[z], 1.0), obs=data)

    guide = AutoGuideList(mixture)
    guide.append(AutoDiagonalNormal(poutine.block(mixture, expose=["share", "loc"])))
    guide.append(AutoDiscreteParallel(poutine.block(mixture, expose=["z"])))
    loss = TraceEnum_ELBO(max_plate_nesting=1)
    return Run(mixture, guide, always(groups()[2]), loss, adam(0.03))


@program("AutoNormal of a model that is enumerated and blocked")
def blocked() -> Run:
    @config_enumerate
    def switching(x: Tensor, y: Tensor) -> None:
        steep = pyro.sample("steep", dist.Normal(2.0, 1.0))
        flat = pyro.sample("flat", dist.Normal(0.0, 1.0))
        noise = pyro.sample("noise", dist.LogNormal(0.0, 1.0))
        with pyro.plate("data", len(x)):
            which = pyro.sample("which", dist.Bernoulli(0.4))
            slope = torch.where(which == 1, steep, flat)
            pyro.sample("y", dist.Normal(slope * x, noise), obs=y)

    guide = AutoNormal(poutine.block(switching, hide=["which"]))
    loss = TraceEnum_ELBO(max_plate_nesting=1, num_particles=2, vectorize_particles=True)
    return Run(switching, guide, always(*groups()[1:]), loss, adam(0.03))
