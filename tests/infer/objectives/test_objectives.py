"""Objectives against closed forms, formulas written out by hand, and one another."""

from collections.abc import Callable
from math import log
from typing import Any

import pyro
import pyro.distributions as dist
import pytest
import torch
from pyro.distributions.testing.fakes import NonreparameterizedNormal
from pyro.infer import RenyiELBO
from torch import Tensor, nn
from torch.nn.functional import softplus

from pyrovae import InputError
from pyrovae.infer import ELBO
from pyrovae.infer.objectives.multisample import (
    CIWAE,
    IWAE,
    MIWAE,
    PIWAE,
    RWS,
    DReG,
    Renyi,
    StickingTheLanding,
    WakeSleep,
)
from pyrovae.infer.objectives.objective import Objective
from pyrovae.infer.objectives.schedules import Cyclical, Linear
from pyrovae.infer.objectives.weighted import (
    BetaELBO,
    BetaTCVAE,
    Capacity,
    FreeBits,
    InfoVAE,
    squared_mmd,
)
from tests.pairs import assert_unbiased

pytestmark = pytest.mark.usefixtures("float64")

NOISE = 0.8


class LinearGaussian(nn.Module):
    """x = W z + b + noise, and q(z | x) = N(A x + c, diag(s)^2), or the posterior itself."""

    def __init__(self, draw: Any = dist.Normal) -> None:
        super().__init__()
        generator = torch.Generator().manual_seed(3)
        weight, _ = torch.linalg.qr(torch.randn(4, 2, generator=generator))
        self.weight = nn.Parameter(weight * torch.tensor([1.3, 0.6]))
        self.bias = nn.Parameter(torch.randn(4, generator=generator))
        self.slope = nn.Parameter(0.2 * torch.randn(2, 4, generator=generator))
        self.offset = nn.Parameter(torch.tensor([0.2, -0.1]))
        self.raw = nn.Parameter(torch.tensor([0.3, 0.1]))
        self.draw = draw

    def posterior_itself(self) -> "LinearGaussian":
        """With orthogonal columns of W the posterior factorises."""
        with torch.no_grad():
            variance = 1 / (1 + self.weight.square().sum(0) / NOISE**2)
            self.slope.copy_(variance[:, None] * self.weight.T / NOISE**2)
            self.offset.copy_(-self.slope @ self.bias)
            self.raw.copy_(variance.sqrt().expm1().log())
        return self

    def model(self, x: Tensor) -> None:
        with pyro.plate("data", len(x)):
            z = pyro.sample("z", dist.Normal(torch.zeros(2), 1.0).to_event(1))
            mean = z @ self.weight.T + self.bias
            pyro.sample("x", dist.Normal(mean, NOISE).to_event(1), obs=x)

    def guide(self, x: Tensor) -> None:
        with pyro.plate("data", len(x)):
            q = self.draw(x @ self.slope.T + self.offset, softplus(self.raw))
            pyro.sample("z", q.to_event(1))

    def log_marginal(self, x: Tensor) -> Tensor:
        covariance = self.weight @ self.weight.T + NOISE**2 * torch.eye(4)
        return dist.MultivariateNormal(self.bias, covariance).log_prob(x)

    def data(self, num: int) -> Tensor:
        torch.manual_seed(4)
        z, noise = torch.randn(num, 2), NOISE * torch.randn(num, 4)
        return (z @ self.weight.T + self.bias + noise).detach()

    def terms(self, x: Tensor, num: int) -> tuple[Tensor, Tensor, Tensor]:
        """log p(x | z), log p(z), log q(z | x) of samples, by hand."""
        loc, scale = x @ self.slope.T + self.offset, softplus(self.raw)
        z = loc + scale * torch.randn(num, len(x), 2) if num > 1 else torch.normal(loc, scale)
        if num == 1:
            raise AssertionError("for several samples")
        return (
            dist.Normal(z @ self.weight.T + self.bias, NOISE).log_prob(x).sum(-1),
            dist.Normal(0.0, 1.0).log_prob(z).sum(-1),
            dist.Normal(loc, scale).log_prob(z).sum(-1),
        )


def gradients_of(pair: nn.Module, loss: Objective | ELBO, x: Tensor) -> dict[str, Tensor]:
    torch.manual_seed(1)
    pair.zero_grad()
    loss.loss_and_grads(pair.model, pair.guide, x)
    return {n: torch.zeros_like(p) if p.grad is None else p.grad.clone() for n, p in named(pair)}


def named(pair: nn.Module) -> list[tuple[str, Any]]:
    return list(pair.named_parameters())


def logmean(log_weights: Tensor) -> Tensor:
    return log_weights.logsumexp(0) - log(len(log_weights))


BOUNDS: dict[str, tuple[Objective, Callable[[Tensor], Tensor]]] = {
    "iwae": (IWAE(6), logmean),
    "renyi": (Renyi(0.3, 6), lambda w: logmean(0.7 * w) / 0.7),
    "miwae": (
        MIWAE(6, 3),
        lambda w: w.view(3, 2, -1).transpose(0, 1).logsumexp(0).mean(0) - log(2),
    ),
    "ciwae": (CIWAE(0.25, 6), lambda w: 0.25 * w.mean(0) + 0.75 * logmean(w)),
    "stl": (StickingTheLanding(6), logmean),
    "dreg": (DReG(6), logmean),
    "piwae": (PIWAE(6, 3), logmean),
    "rws": (RWS(6), logmean),
}


class TestBounds:
    @pytest.mark.parametrize("name", BOUNDS)
    def test_with_the_posterior_itself_each_is_the_evidence(self, name: str) -> None:
        pair = LinearGaussian().posterior_itself()
        x = pair.data(7)
        loss = BOUNDS[name][0].loss(pair.model, pair.guide, x).loss
        torch.testing.assert_close(-loss, pair.log_marginal(x).mean().detach(), rtol=0, atol=1e-9)

    @pytest.mark.parametrize("name", BOUNDS)
    def test_values_are_the_formula_on_the_same_noise(self, name: str) -> None:
        objective, formula = BOUNDS[name]
        pair = LinearGaussian()
        x = pair.data(5)
        torch.manual_seed(1)
        got = objective.loss(pair.model, pair.guide, x)
        torch.manual_seed(1)
        log_likelihood, log_prior, log_q = pair.terms(x, 6)
        want = formula(log_likelihood + log_prior - log_q).mean()
        torch.testing.assert_close(-got.loss, want.detach(), rtol=0, atol=1e-9)
        torch.testing.assert_close(got.kl, (log_q - log_prior).mean().detach())
        torch.testing.assert_close(got.reconstruction, -log_likelihood.mean().detach())

    @pytest.mark.parametrize("name", ["iwae", "renyi", "miwae", "ciwae"])
    def test_gradients_are_those_of_the_formula(self, name: str) -> None:
        objective, formula = BOUNDS[name]
        pair = LinearGaussian()
        x = pair.data(5)
        got = gradients_of(pair, objective, x)
        torch.manual_seed(1)
        log_likelihood, log_prior, log_q = pair.terms(x, 6)
        loss = -formula(log_likelihood + log_prior - log_q).mean()
        want = torch.autograd.grad(loss, [p for _, p in named(pair)])
        for (parameter, _), each in zip(named(pair), want, strict=True):
            torch.testing.assert_close(got[parameter], each, rtol=0, atol=1e-9)

    def test_they_lie_below_the_evidence_and_rise_with_samples(self) -> None:
        pair = LinearGaussian()
        x = pair.data(1).expand(4000, 4)
        exact = pair.log_marginal(x[0]).item()
        means, errors = [], []
        for num in (1, 2, 8, 64):
            torch.manual_seed(num)
            terms = IWAE(num)._terms(pair.model, pair.guide, (x,), {})
            values = IWAE(num).value(terms)
            means.append(values.mean().item())
            errors.append(values.std().item() / 4000**0.5)
        for low, high, *error in zip(means, means[1:], errors, errors[1:], strict=False):
            assert high - low > 4.5 * (error[0] ** 2 + error[1] ** 2) ** 0.5
        assert means[-1] < exact + 4.5 * errors[-1]


class TestGradients:
    def test_sticking_the_landing_is_still_at_the_posterior(self) -> None:
        pair = LinearGaussian().posterior_itself()
        x = pair.data(6)
        for objective in (StickingTheLanding(), StickingTheLanding(5), DReG(5)):
            got = gradients_of(pair, objective, x)
            for name in ("slope", "offset", "raw"):
                assert got[name].abs().max() < 1e-12
        assert gradients_of(pair, IWAE(5), x)["offset"].abs().max() > 1e-3

    @pytest.mark.parametrize("objective", [StickingTheLanding(), DReG(8)])
    def test_estimates_through_samples_alone_are_unbiased(self, objective: Objective) -> None:
        reference = IWAE(objective.num_particles)
        got, want = estimates(objective), estimates(reference)
        assert_unbiased(got - want, torch.zeros(4))
        near = LinearGaussian().posterior_itself()
        with torch.no_grad():
            near.offset.add_(0.1)
            near.raw.add_(0.1)
        got, want = (estimates(each, pair=near) for each in (objective, reference))
        assert_unbiased(got - want, torch.zeros(4))
        assert (got.var(0) < 0.2 * want.var(0)).all()

    def test_score_function_and_reparameterised_gradients_agree(self) -> None:
        for objective in (BetaELBO(0.7, num_particles=4), IWAE(4), MIWAE(4, 2), Renyi(0.5, 4)):
            by_score, by_path = estimates(objective, NonreparameterizedNormal), estimates(objective)
            assert_unbiased(by_score - by_path, torch.zeros(4))
            assert (by_score.var(0) > by_path.var(0)).any()

    def test_baselines_lower_the_variance_of_the_score_function(self) -> None:
        class WithoutBaseline(IWAE):
            def signal(self, terms: Any) -> Tensor:
                return self.value(terms).detach().expand_as(terms.log_weight)

        plain = estimates(WithoutBaseline(4), NonreparameterizedNormal)
        ours = estimates(IWAE(4), NonreparameterizedNormal)
        assert_unbiased(plain - ours, torch.zeros(4))
        assert (ours.var(0) < 0.5 * plain.var(0)).all()

    def test_piwae_trains_model_and_guide_by_two_bounds(self) -> None:
        pair = LinearGaussian()
        x = pair.data(5)
        got = gradients_of(pair, PIWAE(6, 3), x)
        for names, objective in (
            (("weight", "bias"), IWAE(6)),
            (("slope", "offset", "raw"), MIWAE(6, 3)),
        ):
            want = gradients_of(pair, objective, x)
            for name in names:
                torch.testing.assert_close(got[name], want[name], rtol=0, atol=1e-9)

    def test_reweighted_wake_sleep(self) -> None:
        pair = LinearGaussian()
        x = pair.data(5)
        got = gradients_of(pair, RWS(6), x)
        want = gradients_of(pair, IWAE(6), x)
        torch.testing.assert_close(got["weight"], want["weight"], rtol=0, atol=1e-9)
        torch.manual_seed(1)
        loc, scale = x @ pair.slope.T + pair.offset, softplus(pair.raw)
        with torch.no_grad():
            z = loc + scale * torch.randn(6, 5, 2)
        torch.manual_seed(1)
        weights = sum(t * s for t, s in zip(pair.terms(x, 6), (1, 1, -1), strict=True)).softmax(0)
        log_q = dist.Normal(loc, scale).log_prob(z).sum(-1)
        (want_raw,) = torch.autograd.grad(-(weights.detach() * log_q).sum(0).mean(), pair.raw)
        torch.testing.assert_close(got["raw"], want_raw, rtol=0, atol=1e-9)

    def test_wake_and_sleep(self) -> None:
        pair = LinearGaussian()
        x = pair.data(5)
        got = gradients_of(pair, WakeSleep(), x)
        torch.manual_seed(1)
        loc, scale = x @ pair.slope.T + pair.offset, softplus(pair.raw)
        z = (loc + scale * torch.randn(5, 2)).detach()
        awake = dist.Normal(z @ pair.weight.T + pair.bias, NOISE).log_prob(x).sum(-1).mean()
        dreamt = torch.randn(5, 2)
        seen = (dreamt @ pair.weight.T + pair.bias + NOISE * torch.randn(5, 4)).detach()
        q = dist.Normal(seen @ pair.slope.T + pair.offset, softplus(pair.raw))
        asleep = q.log_prob(dreamt).sum(-1).mean()
        parameters = [p for _, p in named(pair)]
        want = torch.autograd.grad(-awake - asleep, parameters)
        for (name, _), each in zip(named(pair), want, strict=True):
            torch.testing.assert_close(got[name], each, rtol=0, atol=1e-9)
        with pytest.raises(InputError, match="at 'x' a value that is none of its arguments"):
            WakeSleep().loss_and_grads(lambda x: pair.model(x + 0), pair.guide, x)

    def test_the_differentiable_loss_has_value_and_gradient(self) -> None:
        pair = LinearGaussian()
        x = pair.data(5)
        for objective in (DReG(4), RWS(4), BetaELBO(2.0)):
            want = gradients_of(pair, objective, x)
            torch.manual_seed(1)
            loss = objective.differentiable_loss(pair.model, pair.guide, x)
            pair.zero_grad()
            loss.backward()
            for name, parameter in named(pair):
                torch.testing.assert_close(parameter.grad, want[name])


def estimates(
    objective: Objective, draw: Any = dist.Normal, pair: LinearGaussian | None = None
) -> Tensor:
    """Many independent estimates of the gradient in q's location and scale, of one datum."""
    num = 20_000
    pair = LinearGaussian() if pair is None else pair
    x = pair.data(1).expand(num, 4)
    loc = (x @ pair.slope.T + pair.offset).detach().requires_grad_()
    scale = softplus(pair.raw).expand(num, 2).detach().requires_grad_()

    def guide(x: Tensor) -> None:
        with pyro.plate("data", num):
            pyro.sample("z", draw(loc, scale).to_event(1))

    torch.manual_seed(sum(map(ord, objective.name + draw.__name__)))
    objective.loss_and_grads(pair.model, guide, x)
    assert loc.grad is not None
    assert scale.grad is not None
    return torch.cat([loc.grad, scale.grad], 1) * num


class TestWeighedTerms:
    def test_with_weights_of_one_they_are_the_elbo(self) -> None:
        pair = LinearGaussian()
        x = pair.data(5)
        want = gradients_of(pair, ELBO(), x)
        torch.manual_seed(1)
        elbo = ELBO().loss(pair.model, pair.guide, x).loss
        for objective in (
            BetaELBO(),
            BetaTCVAE(1.0),
            InfoVAE(weight=1.0),
        ):
            got = gradients_of(pair, objective, x)
            torch.manual_seed(1)
            loss = objective._loss(objective._terms(pair.model, pair.guide, (x,), {})).loss
            torch.testing.assert_close(loss, elbo, rtol=0, atol=1e-9)
            for name, each in want.items():
                torch.testing.assert_close(got[name], each, rtol=0, atol=1e-9)

    def test_shared_latents_are_kept_as_in_the_elbo(self) -> None:
        """A global latent beside latents of each datum, in a subsampled plate."""

        def model(x: Tensor) -> None:
            shared = pyro.sample("shared", dist.Normal(0.0, 1.0))
            with pyro.plate("data", 12, subsample_size=5) as index:
                z = pyro.sample("z", dist.Normal(shared, 1.0))
                pyro.sample("x", dist.Normal(z, 1.0), obs=x[index])

        def guide(x: Tensor) -> None:
            loc = pyro.param("loc", torch.tensor(0.3))
            pyro.sample("shared", dist.Normal(loc, 0.5))
            with pyro.plate("data", 12, subsample_size=5) as index:
                slope = pyro.param("slope", torch.tensor(0.6))
                pyro.sample("z", dist.Normal(slope * x[index], 0.8))

        x = torch.randn(12)
        results = []
        for loss in (ELBO(), BetaELBO(), FreeBits(0.0)):
            pyro.clear_param_store()
            torch.manual_seed(1)
            value = loss.loss_and_grads(model, guide, x)
            grads = [pyro.param(n).grad for n in ("loc", "slope")]
            results.append((value, grads))
        for value, grads in results[1:2]:
            torch.testing.assert_close(value, results[0][0], rtol=0, atol=1e-9)
            torch.testing.assert_close(grads, results[0][1], rtol=0, atol=1e-9)
        with pytest.raises(InputError, match=r"iwae weights the samples .* shared by all data"):
            IWAE(3).loss(model, guide, x)

    def test_analytic_kl_is_the_mean_of_the_sampled(self) -> None:
        pair = LinearGaussian()
        x = pair.data(1).expand(20_000, 4)
        values = [
            (o.value(o._terms(pair.model, pair.guide, (x,), {}))).detach()
            for o in (BetaELBO(3.0), BetaELBO(3.0, kl="analytic"))
        ]
        assert_unbiased((values[0] - values[1])[:, None], torch.zeros(1))

    def test_free_bits_at_their_corners(self) -> None:
        pair = LinearGaussian()
        x = pair.data(8)
        q = dist.Normal(x @ pair.slope.T + pair.offset, softplus(pair.raw))
        kl = torch.distributions.kl_divergence(q, dist.Normal(torch.zeros(2), 1.0)).mean(0)
        between = kl.mean().item()
        none, some, all_free = (
            gradients_of(pair, FreeBits(free), x) for free in (0.0, between, 1e6)
        )
        analytic = gradients_of(pair, BetaELBO(kl="analytic"), x)
        without = gradients_of(pair, BetaELBO(0.0), x)
        for name in none:
            torch.testing.assert_close(none[name], analytic[name], rtol=0, atol=1e-9)
            torch.testing.assert_close(all_free[name], without[name], rtol=0, atol=1e-9)
        torch.manual_seed(1)
        z = q.rsample()
        log_likelihood = dist.Normal(z @ pair.weight.T + pair.bias, NOISE).log_prob(x).sum(-1)
        want = -(log_likelihood.mean() - kl.clamp(min=between).sum())
        (by_hand,) = torch.autograd.grad(want, pair.offset)
        torch.testing.assert_close(some["offset"], by_hand, rtol=0, atol=1e-9)

    def test_capacity_pulls_the_kl_from_both_sides(self) -> None:
        pair = LinearGaussian()
        x = pair.data(8)
        zero, above, below = (
            gradients_of(pair, Capacity(c, gamma=2.0), x)["offset"] for c in (0.0, 0.1, 1e6)
        )
        heavy = gradients_of(pair, BetaELBO(2.0, kl="analytic"), x)["offset"]
        light = gradients_of(pair, BetaELBO(-2.0, kl="analytic"), x)["offset"]
        torch.testing.assert_close(zero, heavy, rtol=0, atol=1e-9)
        torch.testing.assert_close(above, heavy, rtol=0, atol=1e-9)
        torch.testing.assert_close(below, light, rtol=0, atol=1e-9)

    def test_total_correlation_by_brute_force(self) -> None:
        pair = LinearGaussian()
        x = pair.data(4)
        objective = BetaTCVAE(beta=5.0, alpha=2.0, gamma=3.0, size=100)
        torch.manual_seed(1)
        terms = objective._terms(pair.model, pair.guide, (x,), {})
        z, q = terms.latents[0].value, terms.latents[0].q.base_dist
        want = []
        for i in range(4):
            rows = torch.stack([dist.Normal(q.loc[b], q.scale[b]).log_prob(z[i]) for b in range(4)])
            log_q = rows.sum(1).exp().sum().log() - log(400)
            log_q_of_each = (rows.exp().sum(0).log() - log(400)).sum()
            log_p = dist.Normal(0.0, 1.0).log_prob(z[i]).sum()
            information = rows[i].sum() - log_q
            want.append(
                terms.log_likelihood[0, i]
                - 2 * information
                - 5 * (log_q - log_q_of_each)
                - 3 * (log_q_of_each - log_p)
            )
        torch.testing.assert_close(objective.value(terms), torch.stack(want), rtol=0, atol=1e-9)

    def test_discrepancy_by_brute_force_and_zero_for_one_distribution(self) -> None:
        a, b = torch.randn(5, 3), torch.randn(5, 3) + 0.5

        def kernel(x: Tensor, y: Tensor) -> Tensor:
            square = (x - y).square().sum()
            return sum(6 * s / (6 * s + square) for s in (0.1, 0.2, 0.5, 1, 2, 5, 10))

        pairs = [(i, j) for i in range(5) for j in range(5)]
        within = sum(kernel(a[i], a[j]) + kernel(b[i], b[j]) for i, j in pairs if i != j) / 20
        across = sum(kernel(a[i], b[j]) for i, j in pairs) / 25
        torch.testing.assert_close(squared_mmd(a, b), within - 2 * across)
        same = torch.stack(
            [squared_mmd(torch.randn(10, 2), torch.randn(10, 2)) for _ in range(400)]
        )
        assert_unbiased(same[:, None], torch.zeros(1))


class TestSchedules:
    def test_linear(self) -> None:
        weights = [float(Linear(4, 0.2, 1.0)(torch.tensor(step))) for step in range(7)]
        assert weights == pytest.approx([0.2, 0.4, 0.6, 0.8, 1.0, 1.0, 1.0])

    def test_cyclical(self) -> None:
        schedule = Cyclical(period=4, cycles=2, ramp=0.5)
        weights = [float(schedule(torch.tensor(step))) for step in range(10)]
        assert weights == pytest.approx([0, 0.5, 1, 1, 0, 0.5, 1, 1, 1, 1])

    def test_steps_are_counted_and_the_reported_loss_is_the_elbo(self) -> None:
        pair = LinearGaussian()
        x = pair.data(5)
        objective = BetaELBO(Linear(2))
        losses = []
        for _ in range(3):
            torch.manual_seed(1)
            losses.append(objective.loss_and_grads(pair.model, pair.guide, x))
        reconstruction, kl = losses[0][1:]
        for loss, beta in zip(losses, (0, 0.5, 1), strict=True):
            torch.testing.assert_close(loss.loss, reconstruction + beta * kl)
        torch.manual_seed(1)
        heavy = BetaELBO(9.0).loss(pair.model, pair.guide, x)
        torch.testing.assert_close(heavy.loss, reconstruction + kl)


def sum_of_bounds(model: Any, guide: Any, x: Tensor) -> tuple[float, float]:
    """The bound of 2,000 samples, summed over the batch, and its standard error."""
    objective = IWAE(2000)
    terms = objective._terms(model, guide, (x,), {})
    variance = (terms.log_weight.softmax(0).square().sum(0) - 1 / 2000).sum()
    return float(objective.value(terms).sum().detach()), float(variance.detach().sqrt())


class TestWherePyroErrs:
    """Toys on which ``RenyiELBO`` is not the importance-weighted bound, and ours is."""

    def test_a_site_outside_of_the_plate(self) -> None:
        pair = LinearGaussian()

        def model(x: Tensor) -> None:
            pyro.deterministic("twice", torch.tensor(2.0))
            pair.model(x)

        x = pair.data(20)
        exact = pair.log_marginal(x).sum().item()
        ours, error = sum_of_bounds(model, pair.guide, x)
        assert ours == pytest.approx(exact, abs=4.5 * error)
        pyros = RenyiELBO(alpha=0, num_particles=2000, vectorize_particles=True)
        assert -pyros.loss(model, pair.guide, x) < exact - 9 * error

    def test_a_subsampled_plate(self) -> None:
        pair = LinearGaussian()
        x = pair.data(20)

        def model(x: Tensor) -> None:
            with pyro.plate("data", 20, subsample_size=5) as index:
                z = pyro.sample("z", dist.Normal(torch.zeros(2), 1.0).to_event(1))
                mean = z @ pair.weight.T + pair.bias
                pyro.sample("x", dist.Normal(mean, NOISE).to_event(1), obs=x[index])

        def guide(x: Tensor) -> None:
            with pyro.plate("data", 20, subsample_size=5) as index:
                loc = x[index] @ pair.slope.T + pair.offset
                pyro.sample("z", dist.Normal(loc, softplus(pair.raw)).to_event(1))

        same = x[:1].expand(20, 4)  # so that it does not matter which are drawn
        exact = pair.log_marginal(same).sum().item()
        ours, error = sum_of_bounds(model, guide, same)
        assert ours * 20 / 5 == pytest.approx(exact, abs=4.5 * error * 20 / 5)
        pyros = RenyiELBO(alpha=0, num_particles=2000, vectorize_particles=True)
        assert abs(-pyros.loss(model, guide, same) - exact) > 9 * error * 20 / 5


class TestRefused:
    def test_latents_drawn_one_given_another(self) -> None:
        def model(x: Tensor) -> None:
            with pyro.plate("data", len(x)):
                above = pyro.sample("above", dist.Normal(0.0, 1.0))
                below = pyro.sample("below", dist.Normal(above, 1.0))
                pyro.sample("x", dist.Normal(below, 1.0), obs=x)

        def guide(x: Tensor) -> None:
            slope = pyro.param("slope", torch.tensor(0.5))
            with pyro.plate("data", len(x)):
                below = pyro.sample("below", dist.Normal(slope * x, 1.0))
                pyro.sample("above", dist.Normal(slope * below, 1.0))

        x = torch.randn(5)
        assert IWAE(3).loss_and_grads(model, guide, x).loss.isfinite()
        for objective in (StickingTheLanding(), DReG(3)):
            with pytest.raises(InputError, match="'above' is drawn given 'below'"):
                objective.loss_and_grads(model, guide, x)

    def test_samples_without_a_gradient(self) -> None:
        pair = LinearGaussian(NonreparameterizedNormal)
        x = pair.data(5)
        for objective in (StickingTheLanding(), DReG(3), FreeBits(), BetaELBO(kl="analytic")):
            with pytest.raises(InputError, match=f"{objective.name} needs latents that can be"):
                objective.loss_and_grads(pair.model, pair.guide, x)

    def test_scaled_sites(self) -> None:
        pair = LinearGaussian()
        x = pair.data(5)
        with pytest.raises(InputError, match="'x' is scaled by 3"):
            IWAE(3).loss(pyro.poutine.scale(pair.model, 3.0), pair.guide, x)

    @pytest.mark.parametrize(
        ("make", "message"),
        [
            (lambda: RWS(1), "rws needs 2 or more"),
            (lambda: IWAE(0), "iwae needs 1 or more"),
            (lambda: MIWAE(10, 3), "must divide num_particles, which is 10"),
            (lambda: Renyi(1.0), "below 1 .for 1 use 'elbo'"),
            (lambda: CIWAE(2.0), "from 0 .'iwae'. to 1"),
            (lambda: FreeBits(-1.0), "free is -1.0"),
            (lambda: Linear(0), "steps of 1 or more"),
            (lambda: Cyclical(0), "period of 1 step or more"),
        ],
    )
    def test_settings(self, make: Callable[[], Any], message: str) -> None:
        with pytest.raises(InputError, match=message):
            make()
