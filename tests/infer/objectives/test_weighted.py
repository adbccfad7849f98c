"""Objectives with weighted terms, and schedules, against the ELBO and formulas by hand."""

from math import log

import pyro
import pyro.distributions as dist
import pytest
import torch
from torch import Tensor
from torch.nn.functional import softplus

from pyrovae import InputError
from pyrovae.infer import ELBO
from pyrovae.infer.objectives.multisample import (
    IWAE,
)
from pyrovae.infer.objectives.schedules import Cyclical, Linear
from pyrovae.infer.objectives.weighted import (
    BetaELBO,
    BetaTCVAE,
    Capacity,
    FreeBits,
    InfoVAE,
    squared_mmd,
)
from tests.infer.objectives.linear_gaussian import NOISE, LinearGaussian, gradients_of
from tests.pairs import assert_unbiased

pytestmark = pytest.mark.usefixtures("float64")


def mmd_by_hand(a: Tensor, b: Tensor) -> Tensor:
    """The unbiased estimate of the squared maximum mean discrepancy, pair by pair."""
    size = 2 * a.shape[1]

    def kernel(x: Tensor, y: Tensor) -> Tensor:
        square = (x - y).square().sum()
        return sum(size * s / (size * s + square) for s in (0.1, 0.2, 0.5, 1, 2, 5, 10))

    pairs = [(i, j) for i in range(len(a)) for j in range(len(a))]
    apart = len(a) * (len(a) - 1)
    within = sum(kernel(a[i], a[j]) + kernel(b[i], b[j]) for i, j in pairs if i != j) / apart
    return within - 2 * sum(kernel(a[i], b[j]) for i, j in pairs) / len(pairs)


class TestWeightedTerms:
    def test_weights_of_one_give_the_elbo(self) -> None:
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

    def test_shared_latents_keep_the_weight_that_they_have_in_the_elbo(self) -> None:
        """With a global latent, and latents of each datum in a subsampled plate."""

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

    def test_analytic_kl_is_the_mean_of_the_sampled_kl(self) -> None:
        pair = LinearGaussian()
        x = pair.data(1).expand(20_000, 4)
        values = [
            (o.value(o._terms(pair.model, pair.guide, (x,), {}))).detach()
            for o in (BetaELBO(3.0), BetaELBO(3.0, kl="analytic"))
        ]
        assert_unbiased((values[0] - values[1])[:, None], torch.zeros(1))

    def test_free_bits_of_zero_of_some_and_of_all_nats(self) -> None:
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

    def test_beta_tcvae_matches_brute_force(self) -> None:
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

    def test_mmd_matches_brute_force(self) -> None:
        a, b = torch.randn(5, 3), torch.randn(5, 3) + 0.5
        torch.testing.assert_close(squared_mmd(a, b), mmd_by_hand(a, b))

    def test_info_weights_the_kl_and_the_mmd(self) -> None:
        pair = LinearGaussian()
        x = pair.data(5)
        got = gradients_of(pair, InfoVAE(0.3, 5.0), x)
        torch.manual_seed(1)
        q = dist.Normal(x @ pair.slope.T + pair.offset, softplus(pair.raw))
        z, draws = q.loc + q.scale * torch.randn(5, 2), torch.randn(5, 2)
        log_likelihood = dist.Normal(z @ pair.weight.T + pair.bias, NOISE).log_prob(x).sum(-1)
        kl = (q.log_prob(z) - dist.Normal(pair.centre, 1.0).log_prob(z)).sum(-1)
        discrepancy = mmd_by_hand(z, pair.centre + draws)
        total = log_likelihood.mean() - 0.7 * kl.mean() - 4.3 * discrepancy
        for name, parameter in pair.named_parameters():
            (want,) = torch.autograd.grad(-total, parameter, retain_graph=True)
            torch.testing.assert_close(got[name], want, rtol=0, atol=1e-9)

    @pytest.mark.slow
    def test_mmd_is_zero_for_equal_distributions(self) -> None:
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

    def test_cyclical_from_and_to_any_weight(self) -> None:
        schedule = Cyclical(period=5, cycles=2, ramp=0.8, start=0.5, end=3.0)
        weights = [float(schedule(torch.tensor(step))) for step in range(12)]
        cycle = [0.5, 1.125, 1.75, 2.375, 3.0]
        assert weights == pytest.approx([*cycle, *cycle, 3.0, 3.0])

    def test_shortest_schedules(self) -> None:
        one, two = Cyclical(1, 1, ramp=1.0, start=0.2), Cyclical(2, 1, ramp=1.0)
        assert [float(one(torch.tensor(n))) for n in range(2)] == pytest.approx([0.2, 1.0])
        assert [float(two(torch.tensor(n))) for n in range(3)] == pytest.approx([0.0, 0.5, 1.0])
        assert [float(Linear(1)(torch.tensor(n))) for n in range(2)] == [0.0, 1.0]

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
