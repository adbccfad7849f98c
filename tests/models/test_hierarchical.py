"""The hierarchical VAE against exact answers: with linear maps its latents and x are Gaussian."""

import copy
from functools import partial
from itertools import accumulate, pairwise
from typing import Any

import pyro
import pytest
import torch
from pyro import poutine
from pyro.distributions import Normal
from pyro.infer import SVI, Trace_ELBO, TraceMeanField_ELBO
from torch import Tensor
from torch.distributions import MultivariateNormal, constraints, kl_divergence
from torch.distributions import Normal as TorchNormal
from torch.fx.experimental.proxy_tensor import make_fx

from pyrovae import VAE, InputError, fit, importance_sample
from pyrovae.infer import ELBO, latent_report
from pyrovae.links import link_to
from pyrovae.models.hierarchical import HierarchicalVAE
from pyrovae.models.ladder import TopDownGuide, precision_weighted
from pyrovae.nn import MLP
from tests.pairs import assert_unbiased

GUIDES = ["bottom_up", "top_down"]
SCALE = 0.7
X = (torch.rand(10, 1, 8, 8, generator=torch.Generator().manual_seed(0)) > 0.5).float()

of_guides = pytest.mark.parametrize("guide", GUIDES)
in_double = pytest.mark.usefixtures("float64")


def unlinked(scale: Tensor) -> Tensor:
    return link_to(constraints.positive).inv(scale)


def linear_map(weight: Tensor, bias: Tensor) -> MLP:
    """Given the rows of one layer's normal after one another, h has the shape (rows,)."""
    body = MLP((weight.shape[1],), (len(weight),), hidden=())
    with torch.no_grad():
        body.layers[0].weight.copy_(weight)
        body.layers[0].bias.copy_(bias)
    return body


def linear_normal(weight: Tensor, bias: Tensor, scale: Tensor) -> MLP:
    """The network of Normal(weight a + bias, scale^2)."""
    body = linear_map(
        torch.cat([weight, torch.zeros_like(weight)]), torch.cat([bias, unlinked(scale)])
    )
    body._out_shape = (2, len(weight))
    return body


def random_normal(num_in: int, num_out: int) -> MLP:
    weight = torch.randn(num_out, num_in) / num_in**0.5
    return linear_normal(weight, torch.randn(num_out), 0.4 + 0.4 * torch.rand(num_out))


def linear_chain(guide: str, dims: tuple[int, ...] = (3, 2, 2), **options: Any) -> HierarchicalVAE:
    """All maps are linear and all scales fixed, but for the upward pass of the ladder."""
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
def joint(vae: HierarchicalVAE) -> tuple[Tensor, Tensor]:
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


def log_evidence(vae: HierarchicalVAE, x: Tensor) -> Tensor:
    mean, covariance = joint(vae)
    return MultivariateNormal(mean[-5:], covariance[-5:, -5:]).log_prob(x)


def posterior(vae: HierarchicalVAE, x: Tensor) -> MultivariateNormal:
    """p(z_1, ..., z_L | x) of each datum."""
    mean, covariance = joint(vae)
    of_z, cross = covariance[:-5, :-5], covariance[:-5, -5:]
    gain = cross @ covariance[-5:, -5:].inverse()
    rest = of_z - gain @ cross.T
    return MultivariateNormal(mean[:-5] + (x - mean[-5:]) @ gain.T, (rest + rest.T) / 2)


@torch.no_grad()
def approximate(vae: HierarchicalVAE, x: Tensor) -> MultivariateNormal:
    """q(z_1, ..., z_L | x) of each datum, an affine map of noise that is read off by columns."""
    at = offsets(vae)
    noise = torch.cat([torch.zeros(1, at[-1]), torch.eye(at[-1])])[:, None]

    def take(layer: int, q: Any) -> Tensor:
        return q.base_dist.loc + q.base_dist.scale * noise[..., at[layer - 1] : at[layer]]

    mean, *moved = torch.cat(vae.guide.chain(x, take), -1)
    columns = torch.stack(moved, -1) - mean[..., None]
    return MultivariateNormal(mean, columns @ columns.mT)


def data_of(vae: HierarchicalVAE, num: int) -> Tensor:
    mean, covariance = joint(vae)
    return MultivariateNormal(mean[-5:], covariance[-5:, -5:]).sample((num,))


def log_weights(vae: HierarchicalVAE, x: Tensor, num: int) -> Tensor:
    """[num, data], by running the programs of the guide and the model as Pyro does."""
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


@in_double
@of_guides
def test_the_bound_is_the_evidence_less_the_divergence(guide: str) -> None:
    vae = linear_chain(guide)
    x = data_of(vae, 10)
    gap = kl_divergence(approximate(vae, x), posterior(vae, x))
    assert (gap > 0.01).all()
    assert_unbiased(log_weights(vae, x, 2000), log_evidence(vae, x) - gap)


def set_to_posterior(vae: HierarchicalVAE) -> list[MLP]:
    """A model of orthogonal maps, and the ladder with the coefficients of its exact posterior.

    What x says of z_1 is Normal(z_1; (W'W)^-1 W'(x - b), S) with S = s^2 (W'W)^-1, which is
    diagonal where the columns of W are orthogonal; in terms of z_2 it is
    Normal(z_2; (A'DA)^-1 A'D (m_1 - a), (A'DA)^-1) with D = (S + T)^-1, and so on. At the top the
    prior is multiplied in. The features passed up are m and -m, of which activations keep one.
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
def wide_guide(guide: str, dims: tuple[int, ...]) -> HierarchicalVAE:
    """A pair whose guide is about the posterior, but wider, so that weights have light tails."""
    vae = linear_chain(guide, dims)
    upward = set_to_posterior(vae)
    if isinstance(vae.guide, TopDownGuide):
        for network, dim in zip(upward, dims, strict=True):
            bias = network.layers[0].bias
            bias[:dim] += 0.1
            bias[dim : 2 * dim] = unlinked(1.3 * link_to(constraints.positive)(bias[dim : 2 * dim]))
        return vae
    mean, covariance = joint(vae)
    at = offsets(vae)
    slices = [slice(-5, None), *(slice(*pair) for pair in pairwise(at))]
    networks = []
    for given, of in pairwise(slices):  # of each given the one below, as the model has them
        gain = covariance[of, given] @ covariance[given, given].inverse()
        rest = covariance[of, of] - gain @ covariance[given, of]
        scale = 1.3 * rest.diagonal().sqrt()
        networks.append(linear_normal(gain, mean[of] - gain @ mean[given], scale))
    vae.guide.encoder, *others = networks
    for conditional, network in zip(vae.guide.conditionals, others, strict=True):
        conditional.network = network
    return vae


@in_double
@of_guides
@pytest.mark.parametrize("dims", [(3, 2), (4, 3, 2)])
def test_importance_sampling_finds_the_evidence(guide: str, dims: tuple[int, ...]) -> None:
    vae = wide_guide(guide, dims)
    x = data_of(vae, 25)
    got = importance_sample(
        vae.model, vae.guide, x, num_samples=3000, compile=False, progress=False
    )
    off = (got.log_likelihood - log_evidence(vae, x)).abs()
    known = got.pareto_k < 0.7
    assert known.double().mean() > 0.5
    assert (off < 4.5 * got.standard_error)[known].all()


@in_double
@pytest.mark.parametrize("dims", [(3,), (3, 2), (4, 3, 2)])
def test_the_ladder_reaches_the_exact_posterior(dims: tuple[int, ...]) -> None:
    vae = linear_chain("top_down", dims)
    set_to_posterior(vae)
    x = data_of(vae, 20)
    weights, exact = log_weights(vae, x, 30), log_evidence(vae, x)
    assert (weights - exact).abs().max() < 1e-9
    of_q, of_p = approximate(vae, x), posterior(vae, x)
    torch.testing.assert_close(of_q.mean, of_p.mean)
    torch.testing.assert_close(of_q.covariance_matrix, of_p.covariance_matrix)
    torch.testing.assert_close(torch.cat(vae.means(x), -1), of_p.mean)
    torch.testing.assert_close(vae.embed(x), of_p.mean[:, -dims[-1] :])
    mean, covariance = joint(vae)
    gain = covariance[-5:, :-5] @ covariance[:-5, :-5].inverse()
    expected = mean[-5:] + (of_p.mean - mean[:-5]) @ gain.T
    torch.testing.assert_close(vae.reconstruct(x), expected)


@in_double
def test_the_product_of_two_normals() -> None:
    p = Normal(torch.randn(4, 1, 3), torch.rand(4, 1, 3) + 0.1).to_event(1)
    q = Normal(torch.randn(5, 3), torch.rand(5, 3) + 0.1).to_event(1)
    product = precision_weighted(p, q)
    z = torch.randn(100, 4, 5, 3)
    excess = p.log_prob(z) + q.log_prob(z) - product.log_prob(z)
    torch.testing.assert_close(excess, excess[:1].expand_as(excess), rtol=1e-9, atol=1e-9)
    (m_p, s_p), (m_q, s_q) = ((each.mean, each.stddev) for each in (p, q))
    evidence = TorchNormal(m_p, (s_p**2 + s_q**2).sqrt()).log_prob(m_q).sum(-1)
    torch.testing.assert_close(excess[0], evidence)


def test_the_product_of_very_narrow_and_wide_normals() -> None:
    for scales in ((1e-7, 1e5), (1e5, 1e-7), (1e-7, 1e-7), (1e30, 1e30)):
        s_p, s_q = (torch.tensor([scale], requires_grad=True) for scale in scales)
        product = precision_weighted(
            Normal(torch.zeros(1), s_p).to_event(1), Normal(torch.ones(1), s_q).to_event(1)
        )
        both = (1 / scales[0] ** 2 + 1 / scales[1] ** 2) ** -0.5
        assert product.base_dist.scale.item() == pytest.approx(both, rel=1e-5)
        share = 1 / (1 + (scales[1] / scales[0]) ** 2)
        assert product.mean.item() == pytest.approx(share, rel=1e-5, abs=1e-30)
        for gradient in torch.autograd.grad(product.mean.sum() + product.stddev.sum(), [s_p, s_q]):
            assert gradient.isfinite().all()


@in_double
@of_guides
def test_gradients_are_finite_differences(guide: str) -> None:
    body = partial(MLP, hidden=(4,))
    vae = HierarchicalVAE((3,), (3, 2, 2), "Normal", guide, body, body, hidden=(4,))
    x = torch.randn(4, 3)

    def loss() -> Any:
        torch.manual_seed(5)
        return Trace_ELBO().differentiable_loss(vae.model, vae.guide, x)

    names, parameters = zip(*vae.named_parameters(), strict=True)
    gradients = torch.autograd.grad(loss(), parameters)
    step = 1e-5
    for name, parameter, gradient in zip(names, parameters, gradients, strict=True):
        direction = torch.randn_like(parameter)
        ends = []
        for sign in (1, -1):
            with torch.no_grad():
                parameter.add_(sign * step * direction)
                ends.append(loss().item())
                parameter.sub_(sign * step * direction)
        slope = (ends[0] - ends[1]) / (2 * step)
        assert slope == pytest.approx((gradient * direction).sum().item(), rel=1e-5, abs=1e-6), name


@in_double
@of_guides
def test_one_layer_is_the_vae(guide: str) -> None:
    deep, vae = HierarchicalVAE((1, 8, 8), (3,), guide=guide), VAE((1, 8, 8), 3)
    assert vae.load_state_dict(deep.state_dict()) is not None
    x = X.double()
    losses = []
    for each in (deep, vae):
        torch.manual_seed(1)
        loss = Trace_ELBO().differentiable_loss(each.model, each.guide, x)
        gradients = torch.autograd.grad(loss, list(each.parameters()))
        losses.append((loss, *gradients))
    for ours, theirs in zip(*losses, strict=True):
        torch.testing.assert_close(ours, theirs)
    torch.testing.assert_close(deep.embed(x), vae.embed(x))
    torch.testing.assert_close(deep.reconstruct(x), vae.reconstruct(x))
    torch.manual_seed(1)
    ours = deep.sample(4)
    torch.manual_seed(1)
    assert torch.equal(ours, vae.sample(4))
    kl = kl_divergence(vae.encode(x), vae.model.prior()).mean()
    torch.testing.assert_close(deep.layer_kl(x), kl.detach()[None])


@in_double
@of_guides
def test_the_divergences_of_layers_are_the_rate(guide: str) -> None:
    vae = linear_chain(guide)
    x = data_of(vae, 8)
    mean, covariance = joint(vae)
    prior = MultivariateNormal(mean[:-5], covariance[:-5, :-5])
    exact = kl_divergence(approximate(vae, x), prior).mean()
    estimates = torch.stack([vae.layer_kl(x) for _ in range(100)])
    assert estimates.shape == (100, 3)
    assert_unbiased(estimates.sum(1), exact)
    q_top = approximate(vae, x)
    at = slice(-2, None)
    if guide == "top_down":
        top = MultivariateNormal(q_top.mean[:, at], q_top.covariance_matrix[:, at, at])
        standard = MultivariateNormal(torch.zeros(2), torch.eye(2))
        torch.testing.assert_close(estimates[0, -1], kl_divergence(top, standard).mean())
        with torch.no_grad():
            for parameter in vae.guide.upward[-1].layers[-1].parameters():
                parameter.zero_()
            vae.guide.upward[-1].layers[-1].bias[2:] = unlinked(torch.ones(2))
    else:
        standard = linear_normal(torch.zeros(2, 2), torch.zeros(2), torch.ones(2))
        vae.guide.conditionals[-1].network = standard
    collapsed = vae.layer_kl(x)
    assert collapsed[-1].abs() < 1e-9
    assert collapsed.sum() > 0.1


@in_double
@of_guides
def test_draws_are_those_of_the_chain(guide: str) -> None:
    vae = linear_chain(guide)
    mean, covariance = joint(vae)
    code, eta = vae.draw(40_000)
    assert code.shape == (40_000, 2)
    assert eta.shape == (40_000, 1, 5)
    got = torch.cat([code, eta[:, 0]], 1).detach()
    at = [5, 6, *range(7, 12)]
    assert_unbiased(got, mean[at])
    exact = covariance[at][:, at] - SCALE**2 * torch.diag(torch.tensor([0.0] * 2 + [1.0] * 5))
    centred = got - mean[at]
    assert_unbiased((centred[:, :, None] * centred[:, None]).flatten(1), exact.flatten())
    x = vae.sample(4)
    assert x.shape == (4, 5)


@in_double
def test_reconstructions_pass_means_down() -> None:
    vae = HierarchicalVAE((1, 8, 8), (4, 3, 2), guide="bottom_up")
    x = X.double()
    z1, z2, z3 = vae.means(x)
    assert [z.shape[-1] for z in (z1, z2, z3)] == [4, 3, 2]
    torch.testing.assert_close(z2, vae.guide.conditionals[0](z1).mean)
    torch.testing.assert_close(z3, vae.guide.conditionals[1](z2).mean)
    torch.testing.assert_close(vae.reconstruct(x), vae.likelihood.mean(vae.model.decoder(z1)))
    assert torch.equal(vae.embed(x), z3)
    assert not vae.reconstruct(x).requires_grad


@of_guides
def test_a_copy_stands_by_itself(guide: str) -> None:
    vae = HierarchicalVAE((1, 8, 8), (4, 3, 2), guide=guide, hidden=(8,))
    twin = copy.deepcopy(vae)

    def loss(each: HierarchicalVAE) -> float:
        torch.manual_seed(2)
        return float(Trace_ELBO().loss(each.model, each.guide, X))

    before = loss(vae)
    assert loss(twin) == before
    with torch.no_grad():
        for parameter in vae.parameters():
            parameter.add_(0.1)
    assert loss(twin) == before
    assert loss(vae) != before
    twin.load_state_dict(vae.state_dict())
    assert loss(twin) == loss(vae)
    fit(twin.model, twin.guide, X, epochs=1, compile=False, progress=False)
    assert loss(twin) != loss(vae)
    if guide == "top_down":
        assert twin.guide._model[0] is twin.model
    tensors = list(vae.state_dict().values())
    assert len({tensor.data_ptr() for tensor in tensors}) == len(tensors)


@of_guides
def test_double_precision_gives_the_same(guide: str) -> None:
    vae = HierarchicalVAE((1, 8, 8), (4, 3), guide=guide, hidden=(8,))
    single = vae.embed(X), vae.reconstruct(X)
    vae.double()
    double = vae.embed(X.double()), vae.reconstruct(X.double())
    for a, b in zip(single, double, strict=True):
        assert b.dtype == torch.float64
        torch.testing.assert_close(a.double(), b, rtol=1e-4, atol=1e-5)


@of_guides
@pytest.mark.parametrize("batch", [(), (4,), (2, 3)])
def test_any_batch_shape(guide: str, batch: tuple[int, ...]) -> None:
    vae = HierarchicalVAE((1, 8, 8), (4, 3), guide=guide, hidden=(8,))
    x = (torch.rand(*batch, 1, 8, 8) > 0.5).float()
    assert vae.embed(x).shape == (*batch, 3)
    assert vae.reconstruct(x).shape == x.shape
    if batch:
        torch.testing.assert_close(vae.embed(x)[0], vae.embed(x[0]), rtol=1e-4, atol=1e-5)


@in_double
@of_guides
def test_what_is_missing_contributes_nothing(guide: str) -> None:
    vae = linear_chain(guide, missing=True)
    x = data_of(vae, 20)
    present = torch.rand(20, 5) > 0.3
    assert not present.all()
    x = torch.where(present, x, torch.nan)
    q: Any = poutine.trace(vae.guide).get_trace(x)
    p: Any = poutine.trace(poutine.replay(vae.model, trace=q)).get_trace(x)
    p.compute_log_prob()
    loc = vae.model.decoder(q.nodes["z1"]["value"])[:, 0]
    of_each = TorchNormal(loc, SCALE).log_prob(torch.where(present, x, 0.0)) * present
    torch.testing.assert_close(p.nodes["x"]["log_prob"], of_each.sum(1))
    loss = Trace_ELBO().differentiable_loss(vae.model, vae.guide, x)
    gradients = torch.autograd.grad(loss, list(vae.parameters()), allow_unused=True)
    assert all(g.isfinite().all() for g in gradients if g is not None)
    got = importance_sample(vae.model, vae.guide, x, num_samples=20, compile=False, progress=False)
    assert got.log_likelihood.isfinite().all()


@of_guides
def test_pyros_own_svi_trains_it(guide: str) -> None:
    vae = HierarchicalVAE((1, 8, 8), (4, 3), guide=guide, hidden=(16,))
    svi = SVI(vae.model, vae.guide, pyro.optim.Adam({"lr": 1e-2}), Trace_ELBO())
    losses = [svi.step(X[:2].repeat(10, 1, 1, 1)) for _ in range(40)]
    assert losses[-1] < 0.7 * losses[0]


@pytest.mark.filterwarnings("error")
def test_divergences_in_closed_form_are_those_of_samples() -> None:
    """Which the order of the ladder allows: that of the model."""
    vae = HierarchicalVAE((1, 8, 8), (4, 3), guide="top_down", hidden=(16,))
    both = [
        torch.tensor([objective.loss(vae.model, vae.guide, X) for _ in range(60)])
        for objective in (TraceMeanField_ELBO(), Trace_ELBO())
    ]
    error = sum(losses.var() / 60 for losses in both) ** 0.5
    assert abs(both[0].mean() - both[1].mean()) < 4.5 * error


@of_guides
@pytest.mark.parametrize("objective", ["elbo", {"name": "beta", "beta": 0.5}, "iwae"], ids=str)
def test_objectives_train_it(guide: str, objective: Any) -> None:
    vae = HierarchicalVAE((1, 8, 8), (4, 3), guide=guide, hidden=(16,))
    options = {"epochs": 20, "batch_size": 10, "lr": 1e-2, "compile": False, "progress": False}
    two = X[:2].repeat(10, 1, 1, 1)
    losses = fit(vae.model, vae.guide, two, objective=objective, **options)["loss"]
    assert losses[-1] < 0.7 * losses[0]


@in_double
@of_guides
def test_a_recording_gives_what_the_program_gives(guide: str) -> None:
    """No value of a tensor steers the programs, so that a graph may stand for them."""
    vae = HierarchicalVAE((1, 8, 8), (4, 3, 2), guide=guide, hidden=(8,))

    def loss(x: Tensor) -> Tensor:
        return ELBO().differentiable_loss(vae.model, vae.guide, x)

    with pyro.validation_enabled(False):
        recorded = make_fx(loss, tracing_mode="fake", _allow_non_fake_inputs=True)(X.double())
        for x in (X.double(), 1 - X.double()):
            torch.manual_seed(3)
            expected = loss(x)
            torch.manual_seed(3)
            torch.testing.assert_close(recorded(x), expected, rtol=1e-9, atol=1e-9)


def test_two_share_nothing() -> None:
    first, second = (HierarchicalVAE((1, 8, 8), (4, 3), hidden=(8,)) for _ in range(2))
    before = copy.deepcopy(second.state_dict())
    svi = SVI(first.model, first.guide, pyro.optim.Adam({"lr": 1e-1}), Trace_ELBO())
    svi.step(X)
    assert all(torch.equal(value, before[name]) for name, value in second.state_dict().items())
    names = [
        {n for n, s in poutine.trace(each.model).get_trace(X).nodes.items() if s["type"] == "param"}
        for each in (first, second)
    ]
    assert names[0]
    assert not names[0] & names[1]


@of_guides
def test_what_needs_independent_latents_refuses(guide: str) -> None:
    vae = HierarchicalVAE((1, 8, 8), (4, 3), guide=guide, hidden=(8,))
    with pytest.raises(InputError, match="depends on the draw of another latent"):
        latent_report(vae.model, vae.guide, X)
    with pytest.raises(InputError, match="latents that the guide draws independently"):
        fit(vae.model, vae.guide, X, epochs=1, objective="stl", compile=False, progress=False)


def test_mistakes() -> None:
    with pytest.raises(InputError, match=r"latent_dims is \(\)"):
        HierarchicalVAE((3,), ())
    with pytest.raises(InputError, match=r"latent_dims is \(3, 0\)"):
        HierarchicalVAE((3,), (3, 0))
    with pytest.raises(InputError, match=r"hidden is \(\)"):
        HierarchicalVAE((3,), (3, 2), hidden=())
    with pytest.raises(InputError, match="unknown guide 'topdown': did you mean 'top_down'"):
        HierarchicalVAE((3,), (3, 2), guide="topdown")
    with pytest.raises(InputError, match="num_samples is 0"):
        HierarchicalVAE((3,), (3, 2), "Normal").layer_kl(torch.zeros(4, 3), num_samples=0)
