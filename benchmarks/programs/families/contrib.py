"""Models and layers that pyro.contrib and pyro.nn provide ready-made."""

from typing import Any

import pyro
import pyro.distributions as dist
import torch
from pyro.contrib.autoname import name_count, scope
from pyro.contrib.cevae import CEVAE, PreWhitener
from pyro.contrib.mue.models import ProfileHMM
from pyro.infer import TraceEnum_ELBO, TraceMeanField_ELBO, config_enumerate
from pyro.infer.autoguide import AutoNormal
from pyro.nn import ConditionalAutoRegressiveNN, DenseNN, PyroModule, PyroSample
from pyro.nn.module import to_pyro_module_
from torch import Tensor, nn

from ..program import Run, adam, always, cycle, program


def table(num: int = 40) -> tuple[Tensor, Tensor, Tensor]:
    """Confounders, a treatment and an outcome."""
    generator = torch.Generator().manual_seed(80)
    x = torch.randn(num, 3, generator=generator)
    t = torch.bernoulli(torch.sigmoid(x[:, 0]), generator=generator)
    return x, t, x[:, 1] + t + 0.1 * torch.randn(num, generator=generator)


@program("CEVAE of pyro.contrib.cevae")
def contrib_cevae() -> Run:
    x, t, y = table()
    cevae = CEVAE(3, outcome_dist="normal", latent_dim=2, hidden_dim=8, num_layers=2, num_samples=5)
    cevae.whiten = PreWhitener(x)
    data = cycle(10, x, t, y)
    return Run(
        cevae.model, cevae.guide, lambda step: (data(step)[0], {"size": 40}), TraceMeanField_ELBO()
    )


@program("ProfileHMM of pyro.contrib.mue")
def profile_hmm() -> Run:
    generator = torch.Generator().manual_seed(81)
    letters = torch.randint(4, (8, 6), generator=generator)
    sequences = torch.eye(4)[letters]
    process = ProfileHMM(6, 4, prior_scale=1.0, indel_prior_bias=10.0)
    return Run(process.model, process.guide, always(sequences, 1.0))


@program("mixture with names of pyro.contrib.autoname")
def scoped() -> Run:
    @scope(prefix="component")
    def component(k: int) -> Tensor:
        return pyro.sample("loc", dist.Normal(float(k), 2.0))

    @config_enumerate
    @name_count
    def model(x: Tensor) -> None:
        locs = torch.stack([component(k) for k in range(2)])
        share = pyro.sample("share", dist.Dirichlet(torch.ones(2)))
        with pyro.plate("data", len(x)):
            z = pyro.sample("z", dist.Categorical(share))
            pyro.sample("x", dist.Normal(locs[..., z], 1.0), obs=x)

    guide = AutoNormal(pyro.poutine.block(model, hide=["z"]))
    return Run(model, guide, always(table()[2]), TraceEnum_ELBO(max_plate_nesting=1))


@program("network made Bayesian by to_pyro_module_")
def to_bayesian() -> Run:
    x, _, y = table()
    net: Any = nn.Sequential(nn.Linear(3, 5), nn.Tanh(), nn.Linear(5, 1))
    to_pyro_module_(net)
    for module in net.modules():
        for name, value in [*module.named_parameters(recurse=False)]:
            prior = dist.Normal(torch.zeros_like(value), 1.0).to_event()
            setattr(module, name, PyroSample(prior=prior))

    class Model(PyroModule):
        def __init__(self) -> None:
            super().__init__()
            self.net = net

        def forward(self, x: Tensor, y: Tensor) -> None:
            mean = self.net(x).squeeze(-1)
            with pyro.plate("data", 40, subsample=x):
                pyro.sample("y", dist.Normal(mean, 0.3), obs=y)

    model = Model()
    return Run(model, AutoNormal(model, init_scale=0.05), cycle(10, x, y))


@program("DenseNN and ConditionalAutoRegressiveNN of pyro.nn")
def ready_made_networks() -> Run:
    x, t, _ = table()
    encoder = DenseNN(3, [6], param_dims=[2, 2])
    decoder = ConditionalAutoRegressiveNN(3, 3, [8], param_dims=[1])

    def model(x: Tensor, t: Tensor) -> None:
        pyro.module("decoder", decoder)
        with pyro.plate("data", len(x)):
            z = pyro.sample("z", dist.Normal(x.new_zeros(2), 1.0).to_event(1))
            loc = decoder(x, torch.cat([z, t.unsqueeze(-1)], -1))
            pyro.sample("x", dist.Normal(loc, 1.0).to_event(1), obs=x)

    def guide(x: Tensor, t: Tensor) -> None:
        pyro.module("encoder", encoder)
        loc, log_scale = encoder(x)
        with pyro.plate("data", len(x)):
            pyro.sample("z", dist.Normal(loc, log_scale.exp()).to_event(1))

    return Run(model, guide, cycle(10, x, t), optim=adam(0.005))
