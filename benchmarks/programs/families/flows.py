"""Guides and likelihoods whose distributions are flows, with every kind of transform of Pyro."""

from collections.abc import Callable
from typing import Any

import pyro
import pyro.distributions as dist
import pyro.distributions.transforms as transforms
import torch
from pyro.distributions import TransformedDistribution
from pyro.infer import Trace_ELBO
from pyro.nn import DenseNN
from torch import Tensor

from ..program import Run, adam, always, cycle, program

DIM, CONTEXT = 4, 2


def ring(num: int = 40) -> Tensor:
    """Points whose squares depend on each other."""
    generator = torch.Generator().manual_seed(22)
    x = torch.randn(num, DIM, generator=generator)
    return x / x.norm(dim=-1, keepdim=True) + 0.1 * torch.randn(num, DIM, generator=generator)


def target(x: Tensor) -> None:
    """A latent whose posterior is bent."""
    z = pyro.sample("z", dist.Normal(torch.zeros(DIM), 1.0).to_event(1))
    bent = torch.stack([z[..., 0], z[..., 1] + z[..., 0] ** 2, z[..., 2], z[..., 3]], -1)
    with pyro.plate("data", len(x)):
        pyro.sample("x", dist.Normal(bent, 2.0).to_event(1), obs=x)


INVERTIBLE: dict[str, Callable[[], Any]] = {
    "affine_autoregressive": lambda: transforms.affine_autoregressive(DIM, hidden_dims=[8]),
    "affine_autoregressive, stable": lambda: transforms.affine_autoregressive(
        DIM, hidden_dims=[8], stable=True
    ),
    "neural_autoregressive": lambda: transforms.neural_autoregressive(
        DIM, hidden_dims=[8], width=4
    ),
    "block_autoregressive": lambda: transforms.block_autoregressive(DIM, hidden_factors=[4]),
    "affine_coupling": lambda: transforms.affine_coupling(DIM, hidden_dims=[8]),
    "spline": lambda: transforms.spline(DIM, count_bins=4),
    "spline, quadratic": lambda: transforms.spline(DIM, count_bins=4, order="quadratic"),
    "spline_coupling": lambda: transforms.spline_coupling(DIM, hidden_dims=[8], count_bins=4),
    "spline_autoregressive": lambda: transforms.spline_autoregressive(
        DIM, hidden_dims=[8], count_bins=4
    ),
    "planar": lambda: transforms.planar(DIM),
    "radial": lambda: transforms.radial(DIM),
    "sylvester": lambda: transforms.sylvester(DIM, count_transforms=2),
    "householder": lambda: transforms.householder(DIM, count_transforms=2),
    "polynomial": lambda: transforms.polynomial(DIM, hidden_dims=[8]),
    "batchnorm": lambda: transforms.batchnorm(DIM),
    "matrix_exponential": lambda: transforms.matrix_exponential(DIM, iterations=4),
    "generalized_channel_permute": lambda: transforms.generalized_channel_permute(DIM),
    "elu": transforms.elu,
    "leaky_relu": transforms.leaky_relu,
}
"""A transform of a vector by the name of its helper."""

_IN_GUIDES = frozenset(INVERTIBLE) - {"batchnorm", "generalized_channel_permute"}
"""Those that a guide can draw from: batch normalisation wants several data, and images."""


def _register(name: str, make: Callable[[], Any]) -> None:
    @program(f"guide with the flow {name}")
    def build() -> Run:
        flow, permutation = make(), transforms.permute(DIM, permutation=torch.tensor([2, 0, 3, 1]))
        loc = torch.nn.Parameter(torch.zeros(DIM))

        def guide(x: Tensor) -> None:
            if isinstance(flow, torch.nn.Module):
                pyro.module("flow", flow)
            centre = pyro.param("centre", loc)
            base = dist.Normal(centre, torch.ones(DIM)).to_event(1)
            pyro.sample("z", TransformedDistribution(base, [flow, permutation]))

        return Run(target, guide, always(ring()), Trace_ELBO(num_particles=2), adam(0.01))


for _name in sorted(_IN_GUIDES):
    _register(_name, INVERTIBLE[_name])


CONDITIONAL: dict[str, Callable[[], Any]] = {
    "conditional_affine_autoregressive": lambda: transforms.conditional_affine_autoregressive(
        DIM, CONTEXT, hidden_dims=[8]
    ),
    "conditional_affine_coupling": lambda: transforms.conditional_affine_coupling(
        DIM, CONTEXT, hidden_dims=[8]
    ),
    "conditional_spline": lambda: transforms.conditional_spline(
        DIM, CONTEXT, hidden_dims=[8], count_bins=4
    ),
    "conditional_spline_autoregressive": lambda: transforms.conditional_spline_autoregressive(
        DIM, CONTEXT, hidden_dims=[8], count_bins=4
    ),
    "conditional_planar": lambda: transforms.conditional_planar(DIM, CONTEXT, hidden_dims=[8]),
    "conditional_radial": lambda: transforms.conditional_radial(DIM, CONTEXT, hidden_dims=[8]),
    "conditional_householder": lambda: transforms.conditional_householder(
        DIM, CONTEXT, hidden_dims=[8]
    ),
    "conditional_matrix_exponential": lambda: transforms.conditional_matrix_exponential(
        DIM, CONTEXT, hidden_dims=[8], iterations=4
    ),
    "conditional_neural_autoregressive": lambda: transforms.conditional_neural_autoregressive(
        DIM, CONTEXT, hidden_dims=[8], width=4
    ),
}
"""A transform that depends on data, by the name of its helper."""


def _register_conditional(name: str, make: Callable[[], Any]) -> None:
    @program(f"amortised guide with the flow {name}")
    def build() -> Run:
        flow = make()
        encoder, decoder = torch.nn.Linear(DIM, CONTEXT), torch.nn.Linear(DIM, DIM)

        def model(x: Tensor) -> None:
            pyro.module("decoder", decoder)
            with pyro.plate("data", len(x)):
                z = pyro.sample("z", dist.Normal(torch.zeros(DIM), 1.0).to_event(1))
                pyro.sample("x", dist.Normal(decoder(z), 0.5).to_event(1), obs=x)

        def guide(x: Tensor) -> None:
            pyro.module("encoder", encoder)
            pyro.module("flow", flow)
            base = dist.Normal(x.new_zeros(DIM), x.new_ones(DIM)).to_event(1)
            with pyro.plate("data", len(x)):
                conditional = dist.ConditionalTransformedDistribution(base, [flow])
                pyro.sample("z", conditional.condition(encoder(x)))

        return Run(model, guide, cycle(10, ring()), optim=adam(0.01))


for _name, _make in CONDITIONAL.items():
    _register_conditional(_name, _make)


def nothing(x: Tensor) -> None:
    """The guide where all is observed."""


@program("density by maximum likelihood, coupling, batchnorm and permute")
def density() -> Run:
    net = torch.nn.ModuleList()
    for _ in range(2):
        coupling = transforms.AffineCoupling(2, DenseNN(2, [8], [2, 2]))
        net.extend([coupling, transforms.BatchNorm(DIM)])
    permutation = transforms.permute(DIM, permutation=torch.tensor([2, 3, 0, 1]))

    def model(x: Tensor) -> None:
        pyro.module("net", net)
        parts = [net[0], net[1], permutation, net[2], net[3]]
        base = dist.Normal(torch.zeros(DIM), 1.0).to_event(1)
        with pyro.plate("data", len(x)):
            pyro.sample("x", TransformedDistribution(base, parts), obs=x)

    return Run(model, nothing, cycle(20, ring()), modules=(net,))


@program("density by maximum likelihood, splines and a matrix exponential")
def density_of_splines() -> Run:
    spline = transforms.spline(DIM, count_bins=4)
    matrix = transforms.matrix_exponential(DIM, iterations=4)
    net = torch.nn.ModuleList([spline, matrix])

    def model(x: Tensor) -> None:
        pyro.module("net", net)
        base = dist.Normal(torch.zeros(DIM), 1.0).to_event(1)
        with pyro.plate("data", len(x)):
            pyro.sample("x", TransformedDistribution(base, [matrix, spline]), obs=x)

    return Run(model, nothing, cycle(20, ring()))


@program("density of images, permuted channels")
def channels() -> Run:
    permutation = transforms.generalized_channel_permute(channels=3)
    # Pyro's store copies a parameter that is not contiguous, and would train the copy alone.
    permutation.LU.data = permutation.LU.data.contiguous()
    images = ring(36).reshape(12, 3, 2, 2)

    def model(x: Tensor) -> None:
        pyro.module("permutation", permutation)
        base = dist.Normal(torch.zeros(3, 2, 2), 1.0).to_event(3)
        with pyro.plate("data", len(x)):
            pyro.sample("x", TransformedDistribution(base, [permutation]), obs=x)

    return Run(model, nothing, cycle(6, images))


@program("log-normal and logit-normal latents by ComposeTransform")
def composed() -> Run:
    def model(x: Tensor) -> None:
        chain = dist.transforms.ComposeTransform(
            [dist.transforms.AffineTransform(0.0, 2.0), dist.transforms.SigmoidTransform()]
        )
        share = pyro.sample("share", TransformedDistribution(dist.Normal(0.0, 1.0), [chain]))
        rate = pyro.sample("rate", dist.LogNormal(0.0, 1.0))
        with pyro.plate("data", len(x)):
            pyro.sample("x", dist.Normal(share * rate, 1.0), obs=x[:, 0])

    def guide(x: Tensor) -> None:
        a, b = pyro.param("a", torch.zeros(2)), pyro.param("b", torch.zeros(2))
        base = dist.Normal(a[0], b[0].exp())
        pyro.sample("share", TransformedDistribution(base, dist.transforms.SigmoidTransform()))
        pyro.sample("rate", dist.LogNormal(a[1], b[1].exp()))

    return Run(model, guide, always(ring()))
