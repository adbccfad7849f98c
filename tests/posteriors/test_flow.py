"""Flow posteriors: densities by change of variables, one pass for samples, and tighter bounds."""

import sys
from collections.abc import Callable
from functools import partial
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.autograd.functional import jacobian
from torch.distributions import Distribution, Normal
from torch.nn.functional import softplus

from pyrovae import VAE, InputError, fit
from pyrovae.distributions.flows import import_zuko
from pyrovae.infer import inference_gap
from pyrovae.nn import MLP
from pyrovae.posteriors import DiagonalNormal, InverseAutoregressive, SplineFlow
from tests.posteriors.kinds import inputs, perturb

pytestmark = pytest.mark.usefixtures("float64")

FLOWS: dict[str, Callable[..., Any]] = {
    "inverse autoregressive": partial(InverseAutoregressive, hidden=(8,), context=4),
    "spline": partial(SplineFlow, num_bins=4, hidden=(8,), context=4),
}
each = pytest.mark.parametrize("kind", FLOWS)


def draw(posterior: Any, h: Tensor, eps: Tensor) -> Tensor:
    """Compute z from standard normal noise by the formula."""
    num = eps.shape[-1]
    loc, scale, context = h[:num], softplus(h[num : 2 * num]) + 1e-7, h[2 * num :]
    flow = posterior.transform(context)
    z: Tensor
    if isinstance(posterior, InverseAutoregressive):
        z = flow(loc + scale * eps)
    else:
        z = loc + scale * flow(eps)
    return z


@each
@pytest.mark.parametrize("latent_dim", [1, 3])
def test_density_matches_the_change_of_variables_formula(kind: str, latent_dim: int) -> None:
    posterior = perturb(FLOWS[kind](latent_dim))
    h = inputs(posterior).double()
    q = posterior(h)
    torch.manual_seed(1)
    z = q.rsample()
    torch.manual_seed(1)
    eps = torch.randn(latent_dim)
    torch.testing.assert_close(z, draw(posterior, h, eps))
    log_det = torch.linalg.slogdet(jacobian(lambda e: draw(posterior, h, e), eps)).logabsdet
    expected = Normal(0.0, 1.0).log_prob(eps).sum() - log_det
    torch.testing.assert_close(q.log_prob(z), expected)  # as it was drawn
    torch.testing.assert_close(q.log_prob(z.clone()), expected)  # by the inverse
    centre = posterior.centre(h)
    start = torch.zeros(latent_dim)
    torch.testing.assert_close(centre, draw(posterior, h, start))


@pytest.mark.slow
@each
def test_density_integrates_to_one(kind: str) -> None:
    """By the trapezoidal rule over a plane."""
    posterior = perturb(FLOWS[kind](2))
    h = inputs(posterior).double()
    with torch.no_grad():
        z = posterior(h).sample((2000,))
        low, high = z.min(0).values - 2, z.max(0).values + 2
        axes = [torch.linspace(low[d], high[d], 360) for d in range(2)]
        density = posterior(h).log_prob(torch.cartesian_prod(*axes)).exp().reshape(360, 360)
        total = torch.trapezoid(torch.trapezoid(density, axes[1]), axes[0])
    assert total.item() == pytest.approx(1, abs=2e-3)


@each
def test_the_density_shortcut_has_the_right_gradients(kind: str) -> None:
    """The shortcut for samples has the gradient of the inverse, or is not used."""
    posterior = perturb(FLOWS[kind](3))
    h = inputs(posterior, 5).double().requires_grad_()
    parameters = [h, *posterior.parameters()]
    q = posterior(h)
    z = q.rsample()
    short = torch.autograd.grad(q.log_prob(z).sum(), parameters, retain_graph=True)
    long = torch.autograd.grad(q.log_prob(z.clone()).sum(), parameters)
    torch.testing.assert_close(short, long)
    q = posterior(h)
    z = q.sample()
    at_sample = torch.autograd.grad(q.log_prob(z).sum(), parameters)
    at_copy = torch.autograd.grad(posterior(h).log_prob(z.clone()).sum(), parameters)
    torch.testing.assert_close(at_sample, at_copy)
    assert not torch.allclose(at_sample[0], short[0])


@each
def test_the_density_is_a_function_of_a_sample_that_asks_for_a_gradient(kind: str) -> None:
    """The shortcut for a sample of its own would have no gradient in the sample."""
    posterior = perturb(FLOWS[kind](3)).requires_grad_(False)
    h = inputs(posterior).double()
    q = posterior(h)
    z = q.rsample().requires_grad_()
    assert z.is_leaf
    copy = z.detach().clone().requires_grad_()
    (expected,) = torch.autograd.grad(posterior(h).log_prob(copy), copy)
    (found,) = torch.autograd.grad(q.log_prob(z), z)
    torch.testing.assert_close(found, expected)
    assert expected.abs().min() > 1e-3


@each
def test_the_shortcut_is_for_the_sample_as_it_was_drawn(kind: str) -> None:
    posterior = perturb(FLOWS[kind](3))
    h = inputs(posterior).double()
    q = posterior(h)
    z = q.sample()
    parameters = list(posterior.parameters())
    # Drawn without gradients, it gets those of its parameters when it is evaluated with them.
    found = torch.autograd.grad(q.log_prob(z), parameters)
    expected = torch.autograd.grad(posterior(h).log_prob(z.clone()), parameters)
    torch.testing.assert_close(found, expected)
    with torch.no_grad():  # where the shortcut is taken, until z changes
        torch.testing.assert_close(q.log_prob(z), posterior(h).log_prob(z.clone()))
        z.add_(0.5)
        torch.testing.assert_close(q.log_prob(z), posterior(h).log_prob(z.clone()))


@each
def test_a_sample_and_its_density_take_one_pass(kind: str) -> None:
    posterior = perturb(FLOWS[kind](3))
    passes: list[int] = []
    for transform in posterior.transform.transforms:
        transform.hyper.register_forward_hook(lambda *_: passes.append(1))
    q = posterior(inputs(posterior, 5).double())
    z = q.rsample()
    q.log_prob(z)
    assert len(passes) == 2  # transforms
    q.log_prob(z.clone())
    assert len(passes) >= 2 + 2 * 3


@each
def test_flows_start_as_the_diagonal_normal(kind: str) -> None:
    posterior, diagonal = FLOWS[kind](3), DiagonalNormal(3)
    h = inputs(posterior, 5).double()
    h_diagonal = h[:, :6].unflatten(-1, (2, 3))
    z = posterior(h).sample((4,))
    expected = diagonal(h_diagonal).log_prob(z)
    torch.testing.assert_close(posterior(h).log_prob(z), expected)
    torch.testing.assert_close(posterior.centre(h), diagonal.centre(h_diagonal))


def test_splines_are_the_identity_outside_five_standard_deviations() -> None:
    posterior = perturb(FLOWS["spline"](2))
    h = inputs(posterior).double()
    eps = torch.tensor([5.5, -6.0])
    expected = h[:2] + (softplus(h[2:4]) + 1e-7) * eps
    torch.testing.assert_close(draw(posterior, h, eps), expected)
    inside = draw(posterior, h, eps / 10)
    assert not torch.allclose(inside, h[:2] + (softplus(h[2:4]) + 1e-7) * eps / 10)
    expected = Normal(0.0, 1.0).log_prob(eps).sum() - (softplus(h[2:4]) + 1e-7).log().sum()
    torch.testing.assert_close(posterior(h).log_prob(draw(posterior, h, eps)), expected)


def correlated(posterior: Any, weight: Tensor) -> VAE:
    """x = W z + noise of scale 0.5, with fixed W and a linear encoder."""
    body = partial(MLP, hidden=())
    likelihood = {"family": "Normal", "scale": 0.5}
    vae = VAE((2,), 2, likelihood, posterior=posterior, encoder=body, decoder=body)
    linear = vae.model.decoder.layers[0]
    with torch.no_grad():
        linear.weight.copy_(weight)
        linear.bias.zero_()
    vae.model.requires_grad_(False)
    return vae


@each
def test_sticking_the_landing_at_the_exact_posterior_has_no_gradient(kind: str) -> None:
    """The path derivative of log p(x, z) - log q(z | x) is 0 at every z where q = p(z | x)
    (Roeder et al. 2017), in the parameters of the flow as in those of the encoder.
    """
    weight = torch.tensor([[1.0, 0.0], [0.0, 0.5]])
    posterior = FLOWS[kind](2)
    vae = correlated(posterior, weight)
    precision = 1 + weight.diagonal().square() / 0.25
    encoder = vae.guide.encoder.layers[0]
    with torch.no_grad():
        encoder.weight.zero_()
        encoder.weight[:2] = torch.diag(weight.diagonal() / 0.25 / precision)
        encoder.bias.copy_(torch.randn(8))
        encoder.bias[:2] = 0.0
        encoder.bias[2:4] = (precision.rsqrt() - 1e-7).expm1().log()
    x = torch.randn(6, 2)
    from pyrovae.infer.objectives import objective_of

    sizes = {}
    for name in ("elbo", "stl"):
        vae.zero_grad()
        objective_of(name).loss_and_grads(vae.model, vae.guide, x)
        gradients = [p.grad for p in vae.guide.parameters() if p.grad is not None]
        assert len(gradients) >= 2 + 4
        sizes[name] = max(gradient.abs().max().item() for gradient in gradients)
    assert sizes["stl"] < 1e-12
    assert sizes["elbo"] > 1e-2


@pytest.mark.slow
def test_a_flow_beats_the_best_diagonal_normal() -> None:
    """The gap of the best diagonal normal is 1/2 [sum_j log P_jj - log det P] with
    P = I + W'W / s^2; the flow more than halves it.
    """
    weight = torch.tensor([[1.0, 0.9], [0.1, 0.4]])
    precision = torch.eye(2) + weight.T @ weight / 0.25
    known = ((precision.diagonal().log().sum() - precision.logdet()) / 2).item()
    vae = correlated(FLOWS["inverse autoregressive"](2), weight)
    x = torch.randn(200, 2) @ torch.linalg.cholesky(weight @ weight.T + 0.25 * torch.eye(2)).T
    fit(vae.model, vae.guide, x, epochs=150, batch_size=200, lr=0.03, progress=False, compile=False)
    evidence = torch.distributions.MultivariateNormal(
        torch.zeros(2), weight @ weight.T + 0.25 * torch.eye(2)
    ).log_prob(x)
    with torch.no_grad():
        q = vae.q(x)
        z = q.rsample((200,))
        elbo = vae.decode(z).log_prob(x) + vae.model.prior().log_prob(z) - q.log_prob(z)
    gaps = evidence - elbo
    error = gaps.mean(1).std().item() / 200**0.5
    assert known > 0.2
    assert -4.5 * error < gaps.mean().item() < known / 2


def test_inference_gap_refuses_flows() -> None:
    vae = correlated(FLOWS["spline"](2), torch.eye(2))
    with pytest.raises(InputError, match="FlowDistribution, cannot be rebuilt"):
        inference_gap(vae.model, vae.guide, torch.randn(4, 2), progress=False)


def test_importing_zuko_keeps_argument_validation_on(monkeypatch: pytest.MonkeyPatch) -> None:
    import_zuko()
    for name in [name for name in sys.modules if name.split(".")[0] == "zuko"]:
        monkeypatch.delitem(sys.modules, name)
    declared = Distribution.arg_constraints
    assert Distribution._validate_args
    import_zuko()
    assert Distribution._validate_args
    assert Distribution.arg_constraints is declared


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: InverseAutoregressive(2, num_transforms=0), "num_transforms is 0"),
        (lambda: SplineFlow(2, num_transforms=0), "num_transforms is 0"),
        (lambda: SplineFlow(2, num_bins=1), "num_bins is 1"),
        (lambda: SplineFlow(2, context=0), "context is 0"),
    ],
)
def test_invalid_arguments_are_refused(make: Callable[[], Any], message: str) -> None:
    with pytest.raises(InputError, match=message):
        make()
