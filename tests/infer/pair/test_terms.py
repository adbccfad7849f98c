"""The terms of the bound against densities and divergences written out by hand."""

from collections.abc import Callable
from typing import Any

import pyro
import pyro.distributions as dist
import pytest
import torch
from torch import Tensor, nn

from pyrovae import InputError
from pyrovae.infer import BetaELBO, FreeBits, StickingTheLanding
from pyrovae.infer.pair.particles import GradientPath, Particles
from pyrovae.infer.pair.terms import Terms, evaluate_terms

pytestmark = pytest.mark.usefixtures("float64")

NUM, BATCH = 3, 4
COVARIANCE = torch.tensor([[1.0, 0.4], [0.4, 0.7]], dtype=torch.float64)


class Latent(nn.Module):
    """x ~ N(z, 1) for a latent vector z of two numbers, with any prior and any q."""

    def __init__(self, q: Callable[[Tensor, Tensor], Any], p: Callable[[], Any]) -> None:
        super().__init__()
        self.q, self.p = q, p
        self.loc = nn.Parameter(torch.tensor([0.3, -0.2]))

    def model(self, x: Tensor) -> None:
        with pyro.plate("data", len(x)):
            z = pyro.sample("z", self.p())
            pyro.sample("x", dist.Normal(z, 1.0).to_event(1), obs=x)

    def guide(self, x: Tensor) -> None:
        with pyro.plate("data", len(x)):
            pyro.sample("z", self.q(0.5 * x + self.loc, torch.tensor([0.8, 0.6])))


def terms_of(
    pair: Any, *args: Tensor, num: int = NUM, path: GradientPath = "total", **kwargs: Any
) -> Terms:
    particles = Particles(pair.model, pair.guide, num, "data", args, {})
    torch.manual_seed(1)
    return evaluate_terms(particles, args, {}, path=path, **kwargs)


def normal(loc: Tensor, scale: Tensor) -> Any:
    return dist.Normal(loc, scale).to_event(1)


def multivariate(loc: Tensor, scale: Tensor) -> Any:
    return dist.MultivariateNormal(loc, COVARIANCE)


def standard_normal() -> Any:
    return dist.Normal(torch.zeros(2), 1.0).to_event(1)


def student() -> Any:
    return dist.StudentT(5.0, torch.zeros(2), 1.0).to_event(1)


def wide() -> Any:
    return dist.MultivariateNormal(torch.ones(2), 2 * COVARIANCE)


class TestKL:
    @pytest.mark.parametrize(
        ("q", "p", "num_dims", "is_closed"),
        [
            (normal, standard_normal, 2, True),
            (normal, student, 2, False),
            (normal, wide, 1, True),
            (multivariate, wide, 1, True),
            (multivariate, standard_normal, 1, False),
        ],
    )
    def test_kl_of_dimensions(self, q: Any, p: Any, num_dims: int, is_closed: bool) -> None:
        """In closed form where there is one, else at the samples; apart where both factorise."""
        x = torch.randn(BATCH, 2)
        pair = Latent(q, p)
        (latent,) = terms_of(pair, x).latents
        of_q, of_p, z = q(0.5 * x + pair.loc, torch.tensor([0.8, 0.6])), p(), latent.value
        if is_closed and num_dims > 1:
            want = torch.distributions.kl_divergence(of_q.base_dist, of_p.base_dist)
        elif is_closed:
            want = torch.distributions.kl_divergence(of_q, of_p)[:, None]
        elif num_dims > 1:
            want = of_q.base_dist.log_prob(z) - of_p.base_dist.log_prob(z)
        else:
            want = (of_q.log_prob(z) - of_p.log_prob(z))[..., None]
        want = want.expand(NUM, BATCH, num_dims)
        torch.testing.assert_close(latent.kl_of_dimensions(), want)
        torch.testing.assert_close(latent.kl(), want.sum(-1))

    @pytest.mark.parametrize("free", [0.0, 0.3])
    def test_free_bits_average_over_samples(self, free: float) -> None:
        x, pair = torch.randn(BATCH, 2), Latent(normal, student)
        objective = FreeBits(free, num_particles=NUM)
        terms = terms_of(pair, x)
        z = terms.latents[0].value
        q = dist.Normal(0.5 * x + pair.loc, torch.tensor([0.8, 0.6]))
        kl = (q.log_prob(z) - dist.StudentT(5.0).log_prob(z)).mean((0, 1))
        assert (kl > 0.3).any()
        assert (kl < 0.3).any()
        want = dist.Normal(z, 1.0).log_prob(x).sum(-1).mean() - kl.clamp(min=free).sum()
        torch.testing.assert_close(objective.value(terms), want)


class Mixed:
    """A discrete latent k and a continuous latent z given k, observed twice."""

    def __init__(self) -> None:
        self.logit, self.slope = (torch.tensor(v, requires_grad=True) for v in (0.2, 0.4))

    def model(self, x: Tensor, y: Tensor) -> None:
        with pyro.plate("data", len(x)):
            k = pyro.sample("k", dist.Bernoulli(0.4))
            z = pyro.sample("z", dist.Normal(k, 1.0))
            pyro.sample("x", dist.Normal(z, 1.0), obs=x)
            pyro.sample("y", dist.Normal(2 * z, 0.5), obs=y)

    def guide(self, x: Tensor, y: Tensor) -> None:
        with pyro.plate("data", len(x)):
            pyro.sample("k", dist.Bernoulli(logits=self.logit * x))
            pyro.sample("z", dist.Normal(self.slope * x, 0.8))


@pytest.mark.parametrize("num", [1, NUM])
def test_terms_add_up_over_sites(num: int) -> None:
    pair, x, y = Mixed(), torch.randn(BATCH), torch.randn(BATCH)
    terms = terms_of(pair, x, y, num=num)
    k, z = (latent.value.view(num, BATCH) for latent in terms.latents)
    log_likelihood = dist.Normal(z, 1.0).log_prob(x) + dist.Normal(2 * z, 0.5).log_prob(y)
    log_prior = dist.Bernoulli(0.4).log_prob(k) + dist.Normal(k, 1.0).log_prob(z)
    of_k = dist.Bernoulli(logits=pair.logit * x).log_prob(k)
    log_q = of_k + dist.Normal(pair.slope * x, 0.8).log_prob(z)
    torch.testing.assert_close(terms.log_likelihood, log_likelihood)
    torch.testing.assert_close(terms.log_prior, log_prior)
    torch.testing.assert_close(terms.log_q, log_q)
    torch.testing.assert_close(terms.score, of_k)
    torch.testing.assert_close(terms.kl, log_q - log_prior)
    torch.testing.assert_close(terms.log_weight, log_likelihood + log_prior - log_q)
    assert terms.size == BATCH
    assert float(terms.shared.detach()) == 0


@pytest.mark.parametrize("path", ["total", "partial", "none", "separate"])
def test_which_gradients_each_path_carries(path: GradientPath) -> None:
    x, pair = torch.randn(BATCH, 2), Latent(normal, standard_normal)
    terms = terms_of(pair, x, path=path)
    torch.manual_seed(1)
    scale = torch.tensor([0.8, 0.6])
    loc = 0.5 * x + pair.loc
    z = loc + scale * torch.randn(NUM, BATCH, 2)
    if path == "none":
        z = z.detach()
    q = dist.Normal(loc.detach() if path == "partial" else loc, scale)
    log_joint = dist.Normal(z, 1.0).log_prob(x) + dist.Normal(0.0, 1.0).log_prob(z)
    weights = torch.randn(NUM, BATCH)

    def gradient(total: Tensor) -> Tensor:
        if not total.requires_grad:
            return torch.zeros(2)
        (result,) = torch.autograd.grad(total, pair.loc, retain_graph=True, allow_unused=True)
        return torch.zeros(2) if result is None else result

    want = gradient((weights * q.log_prob(z).sum(-1)).sum())
    torch.testing.assert_close(gradient((weights * terms.log_q).sum()), want)
    total = (weights * (terms.log_likelihood + terms.log_prior)).sum()
    want = gradient((weights * log_joint.sum(-1)).sum())
    if path == "separate":
        assert gradient(total).abs().max() == 0
        torch.testing.assert_close(gradient(terms.through_samples(total)), want)
    else:
        torch.testing.assert_close(gradient(total), want)


def test_masked_data_add_nothing_to_path_gradients() -> None:
    kept = torch.tensor([True, False, True, True])
    x, pair = torch.randn(BATCH, 2), Latent(normal, standard_normal)
    model, guide = (pyro.poutine.mask(f, mask=kept) for f in (pair.model, pair.guide))
    torch.manual_seed(1)
    StickingTheLanding().loss_and_grads(model, guide, x)
    torch.manual_seed(1)
    z = 0.5 * x + pair.loc + torch.tensor([0.8, 0.6]) * torch.randn(BATCH, 2)
    q = dist.Normal((0.5 * x + pair.loc).detach(), torch.tensor([0.8, 0.6]))
    log_joint = dist.Normal(z, 1.0).log_prob(x) + dist.Normal(0.0, 1.0).log_prob(z)
    total = ((log_joint - q.log_prob(z)).sum(-1) * kept).mean()
    (want,) = torch.autograd.grad(-total, pair.loc)
    torch.testing.assert_close(pair.loc.grad, want)


def test_a_differentiable_loss_has_the_share_of_shared_latents() -> None:
    loc = torch.tensor(0.3, requires_grad=True)

    def model(x: Tensor) -> None:
        shared = pyro.sample("shared", dist.Normal(0.0, 1.0))
        with pyro.plate("data", len(x)):
            pyro.sample("x", dist.Normal(shared, 1.0), obs=x)

    def guide(x: Tensor) -> None:
        pyro.sample("shared", dist.Normal(loc, 0.5))

    x, objective = torch.randn(BATCH), BetaELBO()
    torch.manual_seed(1)
    loss = objective.differentiable_loss(model, guide, x)
    torch.manual_seed(1)
    z = loc + 0.5 * torch.randn(())
    log_weight = dist.Normal(0.0, 1.0).log_prob(z) - dist.Normal(loc, 0.5).log_prob(z)
    want = -dist.Normal(z, 1.0).log_prob(x).mean() - log_weight / BATCH
    torch.testing.assert_close(loss, want)
    torch.testing.assert_close(*(torch.autograd.grad(each, loc) for each in (loss, want)))
    assert objective.step == 1


def test_data_observed_outside_of_the_plate_only_are_refused() -> None:
    def model(x: Tensor) -> None:
        with pyro.plate("data", len(x)):
            z = pyro.sample("z", dist.Normal(0.0, 1.0))
        pyro.sample("x", dist.Normal(z.sum(), 1.0), obs=x.sum())

    def guide(x: Tensor) -> None:
        with pyro.plate("data", len(x)):
            pyro.sample("z", dist.Normal(x, 1.0))

    with pytest.raises(InputError, match="the model observes no site in plate 'data'"):
        BetaELBO().loss_and_grads(model, guide, torch.randn(BATCH))
