"""Posteriors of discrete latents: relaxed ones are densities, straight-through ones categorical."""

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.distributions import OneHotCategorical, RelaxedOneHotCategorical, kl_divergence

from pyrovae import VAE, InputError, evaluate, importance_sample
from pyrovae.distributions.relaxed import RelaxedOneHot, StraightThroughOneHot
from pyrovae.posteriors import Concrete, StraightThrough
from tests.pairs import assert_unbiased

FLOOR = torch.finfo(torch.float32).tiny * 2**24


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_straight_through_samples_are_one_hot_and_categorical(dtype: torch.dtype) -> None:
    h = torch.tensor([[0.0, 1.0, -1.0], [2.0, 0.0, 0.0]], dtype=dtype)
    q = StraightThrough(2, 3)(h)
    z = q.rsample((20_000,))
    assert set(z.unique().tolist()) == {0.0, 1.0}
    assert (z.sum(-1) == 1).all()
    assert_unbiased(z.double(), h.softmax(-1).double())
    expected = OneHotCategorical(logits=h, validate_args=True).log_prob(z).sum(-1)
    torch.testing.assert_close(q.log_prob(z), expected)
    with pytest.raises(ValueError, match="within the support"):
        q.log_prob(z / 2)


@pytest.mark.usefixtures("float64")
def test_straight_through_gradients_equal_the_relaxed_gradients() -> None:
    h = torch.randn(5, 2, 3, requires_grad=True)
    weight = torch.randn(5, 2, 3)
    t = torch.tensor(2 / 3)
    gradients = []
    for q in (StraightThrough(2, 3)(h), RelaxedOneHotCategorical(t.double(), logits=h)):
        torch.manual_seed(1)
        gradients.append(torch.autograd.grad((weight * q.rsample()).sum(), h)[0])
    torch.testing.assert_close(*gradients, rtol=1e-6, atol=1e-6)  # 2 / 3 in single precision
    assert gradients[0].abs().max() > 0.01


@pytest.mark.usefixtures("float64")
def test_relaxed_density_equals_torchs_where_that_is_finite() -> None:
    logits = torch.randn(4, 3)
    t = torch.tensor(0.5)
    pyrovae_result, torch_result = (
        RelaxedOneHot(t, logits=logits),
        RelaxedOneHotCategorical(t, logits=logits),
    )
    z = torch_result.sample((50,))
    torch.testing.assert_close(pyrovae_result.log_prob(z), torch_result.log_prob(z))
    torch.manual_seed(1)
    drawn = pyrovae_result.rsample((50,))
    torch.manual_seed(1)
    torch.testing.assert_close(drawn, torch_result.rsample((50,)))


@pytest.mark.usefixtures("float64")
def test_relaxed_density_of_two_classes_integrates_to_one() -> None:
    """Over the log-odds a of z, with dz = z (1 - z) da."""
    a = torch.linspace(-60, 60, 20_001)
    z = torch.stack([a.sigmoid(), (-a).sigmoid()], -1)
    for logits in ([0.0, 0.0], [2.0, -1.0]):
        q = Concrete(1, 2)(torch.tensor([logits]))
        density = (q.log_prob(z[:, None]) + z.log().sum(-1)).exp()
        assert torch.trapezoid(density, a).item() == pytest.approx(1, abs=1e-7)


@pytest.mark.usefixtures("float64")
def test_relaxed_gradients_are_unbiased() -> None:
    """E[f(z)] by quadrature over uniform noise, differentiated by central differences."""
    t = 2 / 3

    def f(z: Tensor) -> Tensor:
        return z[..., 0].square() + torch.sin(3 * z[..., 1])

    def expectation(logit: float) -> float:
        """Log-odds of two classes are (logit + a logistic variable) / t."""
        u = (torch.arange(200_000) + 0.5) / 200_000
        z = ((logit + u.logit()) / t).sigmoid()
        return f(torch.stack([z, 1 - z], -1)).mean().item()

    exact = (expectation(0.7 + 1e-4) - expectation(0.7 - 1e-4)) / 2e-4
    h = torch.tensor([[0.7, 0.0]]).expand(20_000, 1, 2).clone().requires_grad_()
    z = Concrete(1, 2, t)(h).rsample()
    (gradient,) = torch.autograd.grad(f(z).sum(), h)
    assert_unbiased(f(z).detach()[:, 0], torch.tensor(expectation(0.7)))
    assert_unbiased(gradient[:, 0, 0], torch.tensor(exact))


def test_extreme_logits_give_finite_densities_in_single_precision() -> None:
    """Ours are finite, with their gradients, where torch's density is not."""
    logits = torch.tensor([[30.0, -30.0, 0.0], [-30.0, 30.0, 29.0]]).repeat(500, 1)
    t = torch.tensor(0.3)
    torch_result = RelaxedOneHotCategorical(t, logits=logits)
    assert not torch_result.log_prob(torch_result.rsample()).isfinite().all()
    for make in (Concrete, StraightThrough):
        posterior = make(2, 3, 0.3)
        h = logits.reshape(500, 2, 3).clone().requires_grad_()
        q, p = posterior(h), posterior.prior()()
        z = q.rsample()
        log_ratio = q.log_prob(z) - p.log_prob(z)
        (gradient,) = torch.autograd.grad(1e4 * (log_ratio.sum() + z.square().sum()), h)
        assert log_ratio.isfinite().all()
        assert gradient.isfinite().all()


def test_samples_rounded_to_a_corner_have_the_right_probability() -> None:
    """z_2 < m where l_2 - l_1 + a logistic variable < t log m."""
    t, logits = 0.03, torch.tensor([0.5, -0.5])
    q = RelaxedOneHot(torch.tensor(t), logits=logits)
    corners = torch.eye(2)
    z = q.sample((20_000,))
    at_corner = (z == corners[:, None]).all(-1).double()
    log_floor = torch.tensor(FLOOR, dtype=torch.double).log()
    exact = (t * log_floor + torch.tensor([1.0, -1.0]).double()).sigmoid()
    torch.testing.assert_close(q.log_prob(corners).exp().double(), exact, rtol=1e-4, atol=1e-6)
    assert_unbiased(at_corner.T, exact)
    # The remaining probability is inside, by quadrature over log-odds between the floors.
    a = torch.linspace(float(log_floor), -float(log_floor), 40_001, dtype=torch.double)
    inside = torch.stack([a.sigmoid(), (-a).sigmoid()], -1).float()
    density = (q.log_prob(inside).double() + inside.double().log().sum(-1)).exp()
    total = torch.trapezoid(density, a) + exact.sum()
    assert total.item() == pytest.approx(1, abs=1e-3)


def test_densities_inside_on_edges_and_at_corners_use_one_measure() -> None:
    """E_q[p / q] = 1 with draws of all kinds: inside, on edges and at corners."""
    t = torch.tensor(0.03)
    q = RelaxedOneHot(t, logits=torch.zeros(3))
    p = RelaxedOneHot(t, logits=torch.tensor([0.5, 0.0, -0.5]))
    z = q.sample((20_000,))
    kinds = (z > 0).sum(-1).bincount(minlength=4)[1:]
    assert (kinds > 500).all()
    weights = (p.log_prob(z) - q.log_prob(z)).exp().double()
    assert_unbiased(weights, torch.tensor(1.0, dtype=torch.double))
    each = weights[:, None] * z.double()
    assert_unbiased(each - p.sample((20_000,)).double(), torch.zeros(3, dtype=torch.double))


@pytest.mark.slow
@pytest.mark.usefixtures("float64")
def test_log_likelihood_and_elbo_of_one_variable_are_exact() -> None:
    """log p(x) = log sum_k p(x | e_k) / 3, and the ELBO the sum over k under q."""
    torch.manual_seed(1)
    vae = VAE((4,), 1, "Bernoulli", posterior=StraightThrough(1, 3))
    x = (torch.rand(6, 4) > 0.5).double()
    with torch.no_grad():
        log_joint = vae.decode(torch.eye(3)[:, None, None]).log_prob(x) - torch.tensor(3.0).log()
        log_q = vae.guide.h(x)[:, 0].log_softmax(-1).T
    exact = log_joint.logsumexp(0)
    found = importance_sample(vae.model, vae.guide, x, num_samples=4000, compile=False)
    assert ((found.log_likelihood - exact).abs() < 4.5 * found.standard_error).all()
    elbo = (log_q.exp() * (log_joint - log_q)).sum(0)
    evaluation = evaluate(vae.model, vae.guide, x, num_particles=200, compile=False)
    spread = (log_q.exp() * (log_joint - log_q - elbo).square()).sum(0).mean() / (200 * 6)
    assert evaluation.elbo.mean == pytest.approx(elbo.mean().item(), abs=4.5 * spread.item() ** 0.5)


@pytest.mark.usefixtures("float64")
def test_straight_through_kl_has_a_useful_gradient() -> None:
    """log q(z) - log p(z) at straight-through samples pulls q to the prior, as the KL does."""
    h = torch.tensor([[1.0, 0.0, -1.0]]).expand(20_000, 1, 3).clone().requires_grad_()
    posterior = StraightThrough(1, 3)
    q, p = posterior(h), posterior.prior()()
    z = q.rsample()
    (estimates,) = torch.autograd.grad((q.log_prob(z) - p.log_prob(z)).sum(), h, retain_graph=True)
    exact = kl_divergence(q, p)
    expected = (h.softmax(-1) * h.log_softmax(-1)).sum((-2, -1)) + torch.tensor(3.0).log()
    torch.testing.assert_close(exact, expected)
    (gradient,) = torch.autograd.grad(exact.sum(), h)
    mean = estimates.mean(0)[0]
    cosine = mean @ gradient[0, 0] / mean.norm() / gradient[0, 0].norm()
    assert cosine > 0.9
    assert mean.norm() > 0.3 * gradient[0, 0].norm()


@pytest.mark.parametrize("kind", [Concrete, StraightThrough])
def test_centre_is_the_class_probabilities_and_prior_is_uniform(kind: Any) -> None:
    posterior = kind(2, 4, temperature=0.5)
    h = torch.randn(3, 2, 4)
    torch.testing.assert_close(posterior.centre(h), h.exp() / h.exp().sum(-1, keepdim=True))
    p = posterior.prior()()
    assert p.event_shape == (2, 4)
    flat = posterior(torch.zeros(2, 4))
    z = flat.sample((5,))
    torch.testing.assert_close(p.log_prob(z), flat.log_prob(z))


def test_expand_keeps_the_straight_through_gradient() -> None:
    q = StraightThroughOneHot(torch.tensor(0.5), torch.zeros(3, requires_grad=True)).expand((4, 2))
    assert q.rsample().requires_grad
    assert q.batch_shape == (4, 2)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: Concrete(2, num_classes=1), "num_classes is 1"),
        (lambda: StraightThrough(2, temperature=0.0), "temperature is 0"),
    ],
)
def test_invalid_arguments_are_refused(make: Callable[[], Any], message: str) -> None:
    with pytest.raises(InputError, match=message):
        make()
