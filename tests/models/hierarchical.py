"""Hierarchical VAEs with linear maps, and their exact distributions, which are Gaussian."""

from functools import partial
from itertools import accumulate, pairwise
from typing import Any

import pytest
import torch
from pyro import poutine
from torch import Tensor
from torch.distributions import MultivariateNormal, constraints

from pyrovae.links import link_to
from pyrovae.models.hierarchical import HierarchicalVAE
from pyrovae.models.ladder import TopDownGuide
from pyrovae.nn import MLP

GUIDES = ["bottom_up", "top_down"]
SCALE = 0.7
X = (torch.rand(10, 1, 8, 8, generator=torch.Generator().manual_seed(0)) > 0.5).float()

each_guide = pytest.mark.parametrize("guide", GUIDES)
in_double = pytest.mark.usefixtures("float64")


def unlinked(scale: Tensor) -> Tensor:
    return link_to(constraints.positive).inv(scale)


def linear_map(weight: Tensor, bias: Tensor) -> MLP:
    """A network with one linear map, h = weight a + bias."""
    body = MLP((weight.shape[1],), (len(weight),), hidden=())
    with torch.no_grad():
        body.layers[0].weight.copy_(weight)
        body.layers[0].bias.copy_(bias)
    return body


def linear_normal(weight: Tensor, bias: Tensor, scale: Tensor) -> MLP:
    """A linear network for the parameters of Normal(weight a + bias, scale^2)."""
    body = linear_map(
        torch.cat([weight, torch.zeros_like(weight)]), torch.cat([bias, unlinked(scale)])
    )
    body._out_shape = (2, len(weight))
    return body


def random_normal(num_in: int, num_out: int) -> MLP:
    weight = torch.randn(num_out, num_in) / num_in**0.5
    return linear_normal(weight, torch.randn(num_out), 0.4 + 0.4 * torch.rand(num_out))


def make_linear_vae(
    guide: str, dims: tuple[int, ...] = (3, 2, 2), **options: Any
) -> HierarchicalVAE:
    """A VAE with linear maps and fixed scales, except for the upward pass of the ladder."""
    body = partial(MLP, hidden=())
    likelihood = {"family": "Normal", "scale": SCALE}
    vae = HierarchicalVAE((5,), dims, likelihood, guide, body, body, hidden=(4,), **options)
    for layer, conditional in enumerate(vae.model.conditionals):
        conditional.network = random_normal(dims[layer + 1], dims[layer])
    if guide == "bottom_up":
        for layer, conditional in enumerate(vae.guide.conditionals):
            conditional.network = random_normal(dims[layer], dims[layer + 1])
    return vae


def offsets(vae: HierarchicalVAE) -> list[int]:
    return [0, *accumulate(vae.latent_dims)]


@torch.no_grad()
def joint_moments(vae: HierarchicalVAE) -> tuple[Tensor, Tensor]:
    """Mean and covariance of v = (z_1, ..., z_L, x), from v = B v + b + noise."""
    at = [*offsets(vae), offsets(vae)[-1] + 5]
    slices = [slice(*pair) for pair in pairwise(at)]
    matrix, constant, noise = torch.zeros(at[-1], at[-1]), torch.zeros(at[-1]), torch.ones(at[-1])
    for layer, conditional in enumerate(vae.model.conditionals):
        linear, dim = conditional.network.layers[0], vae.latent_dims[layer]
        matrix[slices[layer], slices[layer + 1]] = linear.weight[:dim]
        constant[slices[layer]] = linear.bias[:dim]
        noise[slices[layer]] = link_to(constraints.positive)(linear.bias[dim:])
    linear = vae.model.decoder.layers[0]
    matrix[slices[-1], slices[0]], constant[slices[-1]] = linear.weight, linear.bias
    noise[slices[-1]] = SCALE
    solve = (torch.eye(at[-1]) - matrix).inverse()
    return solve @ constant, solve @ noise.square().diag() @ solve.T


def exact_log_p(vae: HierarchicalVAE, x: Tensor) -> Tensor:
    mean, covariance = joint_moments(vae)
    return MultivariateNormal(mean[-5:], covariance[-5:, -5:]).log_prob(x)


def exact_posterior(vae: HierarchicalVAE, x: Tensor) -> MultivariateNormal:
    """p(z_1, ..., z_L | x) of each datum."""
    mean, covariance = joint_moments(vae)
    of_z, cross = covariance[:-5, :-5], covariance[:-5, -5:]
    gain = cross @ covariance[-5:, -5:].inverse()
    rest = of_z - gain @ cross.T
    return MultivariateNormal(mean[:-5] + (x - mean[-5:]) @ gain.T, (rest + rest.T) / 2)


@torch.no_grad()
def guide_distribution(vae: HierarchicalVAE, x: Tensor) -> MultivariateNormal:
    """q(z_1, ..., z_L | x) of each datum: an affine map of noise, evaluated column by column."""
    at = offsets(vae)
    noise = torch.cat([torch.zeros(1, at[-1]), torch.eye(at[-1])])[:, None]

    def pick(layer: int, q: Any) -> Tensor:
        return q.base_dist.loc + q.base_dist.scale * noise[..., at[layer - 1] : at[layer]]

    mean, *moved = torch.cat(vae.guide.chain(x, pick), -1)
    columns = torch.stack(moved, -1) - mean[..., None]
    return MultivariateNormal(mean, columns @ columns.mT)


def sample_data(vae: HierarchicalVAE, num: int) -> Tensor:
    mean, covariance = joint_moments(vae)
    return MultivariateNormal(mean[-5:], covariance[-5:, -5:]).sample((num,))


def log_weights(vae: HierarchicalVAE, x: Tensor, num: int) -> Tensor:
    """log p(x, z) - log q(z | x) of shape [num, data], from traces of the guide and the model."""
    rows = x.repeat(num, 1)
    guide: Any = poutine.trace(vae.guide).get_trace(rows)
    model: Any = poutine.trace(poutine.replay(vae.model, trace=guide)).get_trace(rows)
    for trace in (guide, model):
        trace.compute_log_prob()
    p, q = (
        sum(s["log_prob"] for s in trace.nodes.values() if s["type"] == "sample")
        for trace in (model, guide)
    )
    return (p - q).detach().unflatten(0, (num, len(x)))


def set_to_exact_posterior(vae: HierarchicalVAE) -> list[MLP]:
    """Set a model of orthogonal maps, and a ladder with the coefficients of its exact posterior.

    As a function of z_1, p(x | z_1) is Normal(z_1; (W'W)^-1 W'(x - b), S) up to a factor, with
    S = s^2 (W'W)^-1, which is diagonal if the columns of W are orthogonal. As a function of z_2 it
    is Normal(z_2; (A'DA)^-1 A'D (m_1 - a), (A'DA)^-1) with D = (S + T)^-1, and so on. The top layer
    also multiplies by the prior. The features passed up are m and -m; the ReLU keeps one of them.
    """
    dims = vae.latent_dims
    orthogonal = torch.linalg.qr(torch.randn(5, dims[0])).Q * (0.5 + torch.rand(dims[0]))
    weight, bias = orthogonal, torch.randn(5)
    vae.model.decoder = linear_map(weight, bias)
    vae.model.decoder._out_shape = (1, 5)
    variance, upward = torch.full((5,), SCALE**2), []
    for layer, dim in enumerate(dims):
        precision = (weight.T / variance @ weight).diagonal() + (layer == len(dims) - 1)
        to_loc = weight.T / variance / precision[:, None]
        constant = -to_loc @ bias
        spread = unlinked(precision.rsqrt())
        rows = [to_loc, torch.zeros_like(to_loc), to_loc, -to_loc]
        bias_rows = [constant, spread, constant, -constant]
        if layer == len(dims) - 1:
            rows, bias_rows = rows[:2], bias_rows[:2]
        network = torch.cat(rows)
        network = network if layer == 0 else torch.cat([network, -network], 1)
        upward.append(linear_map(network, torch.cat(bias_rows)))
        if layer < len(dims) - 1:
            scale = 0.5 + 0.5 * torch.rand(dim)
            variance = 1 / precision + scale**2
            turned = torch.linalg.qr(torch.randn(dim, dims[layer + 1])).Q
            weight = variance.sqrt()[:, None] * turned * (0.5 + torch.rand(dims[layer + 1]))
            bias = torch.randn(dim)
            vae.model.conditionals[layer].network = linear_normal(weight, bias, scale)
    if isinstance(vae.guide, TopDownGuide):
        vae.guide.encoder, vae.guide.upward = upward[0], torch.nn.ModuleList(upward[1:])
    return upward


@torch.no_grad()
def make_wide_guide_vae(guide: str, dims: tuple[int, ...]) -> HierarchicalVAE:
    """A VAE with a guide close to the posterior, but wider, so that weights have light tails."""
    vae = make_linear_vae(guide, dims)
    upward = set_to_exact_posterior(vae)
    if isinstance(vae.guide, TopDownGuide):
        for network, dim in zip(upward, dims, strict=True):
            bias = network.layers[0].bias
            bias[:dim] += 0.1
            bias[dim : 2 * dim] = unlinked(1.3 * link_to(constraints.positive)(bias[dim : 2 * dim]))
        return vae
    mean, covariance = joint_moments(vae)
    at = offsets(vae)
    slices = [slice(-5, None), *(slice(*pair) for pair in pairwise(at))]
    networks = []
    for lower, upper in pairwise(slices):  # the conditional of each layer given the one below
        gain = covariance[upper, lower] @ covariance[lower, lower].inverse()
        rest = covariance[upper, upper] - gain @ covariance[lower, upper]
        scale = 1.3 * rest.diagonal().sqrt()
        networks.append(linear_normal(gain, mean[upper] - gain @ mean[lower], scale))
    vae.guide.encoder, *others = networks
    for conditional, network in zip(vae.guide.conditionals, others, strict=True):
        conditional.network = network
    return vae
