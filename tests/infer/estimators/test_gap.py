"""Inference gaps against linear-Gaussian pairs with known gaps."""

from typing import Any

import pyro
import pyro.distributions as dist
import pytest
import torch
from torch import Tensor
from torch.distributions import kl_divergence
from torch.utils.data import DataLoader, TensorDataset

from pyrovae import VAE
from pyrovae.infer.estimators.gap import InferenceGap, _make_free_pair, inference_gap
from pyrovae.infer.pair.pair import Pair
from pyrovae.infer.pair.particles import Particles

from .linear_gaussian import LinearGaussian

pytestmark = pytest.mark.usefixtures("float64")


def shortfall(num_steps: int = 500) -> float:
    """How far the optimiser may stay below the best ELBO, in nats per datum.

    Near the best q, the mean of n independent noisy gradient steps stays below it by a chi-square
    over 2 n, with one degree of freedom for each parameter of q. With 6 parameters, 28 is exceeded
    once in 10,000. Half the steps have 16 samples each. Twice that, as steps are correlated.
    """
    return 2 * 28 / (2 * 16 * num_steps / 2)


def near(num_samples: int, num_steps: int = 500) -> float:
    """4.5 standard errors of an ELBO at a q that is below the exact posterior by the shortfall.

    For close normals, log p - log q has twice the KL divergence as its variance.
    """
    return 4.5 * (2 * shortfall(num_steps) / num_samples) ** 0.5


def gap_for(model: Any, guide: Any, data: Any, **options: Any) -> InferenceGap:
    return inference_gap(model, guide, data, progress=False, **options)


class TestLinearGaussian:
    @pytest.mark.slow
    def test_both_gaps_of_a_shifted_factorised_guide(self) -> None:
        pair = LinearGaussian()
        x = pair.data(20)
        num = 4000
        got = gap_for(pair.model, pair.guide(pair.off), x, num_samples=num)
        log_p = pair.marginal.log_prob(x)
        best, deviation_of_best = pair.elbo(x, pair.best(x))
        elbo, deviation = pair.elbo(x, pair.off(x))
        assert ((got.elbo - elbo).abs() < 4.5 * deviation / num**0.5).all()
        error = 4.5 * deviation_of_best / num**0.5
        assert (got.best_elbo < best + error).all()
        assert (got.best_elbo > best - error - shortfall()).all()
        assert (best - elbo).min() > 0.05
        off = got.amortisation_gap - (best - elbo)
        assert (off.abs() < 4.5 * (deviation + deviation_of_best) / num**0.5 + shortfall()).all()
        assert ((got.log_likelihood - log_p).abs() < 4.5 * got.standard_error).all()
        assert (got.standard_error < (1 / num) ** 0.5).all()  # half the samples are exact
        assert (got.pareto_k < 0.5).all()

    @pytest.mark.slow
    @pytest.mark.parametrize("noise", [0.3, 0.1])
    def test_the_gap_of_a_factorised_q_of_a_correlated_posterior(self, noise: float) -> None:
        """KL(best factorised normal || posterior) = log(prod_j P_jj / |P|) / 2, P the precision.

        Importance weights of the best q itself have no finite variance, and miss half of it.
        """
        pair = LinearGaussian(noise)
        pair.weight = torch.tensor([[1.2, 1.1], [0.6, 0.55], [0.5, 0.4]])
        pair.precision = torch.eye(2) + pair.weight.T @ pair.weight / noise**2
        x = pair.data(40)
        exact = (pair.precision.diagonal().log().sum() - pair.precision.logdet()) / 2
        got = gap_for(pair.model, pair.guide(pair.best), x, num_samples=1000)
        off = (got.log_likelihood - pair.marginal.log_prob(x)) / got.standard_error
        assert off.abs().max() < 4.5
        covered = (off.abs() < 1.96).double().mean()
        assert abs(covered - 0.95) < 4.5 * (0.95 * 0.05 / 40) ** 0.5
        # Under the best q, log p - log q has the variance of a quadratic form.
        ratio = pair.precision / torch.outer(*[pair.precision.diagonal().sqrt()] * 2)
        deviation = ((ratio - torch.eye(2)).square().sum() / 2).sqrt()
        error = 4.5 * deviation / 1000**0.5 + 4.5 * got.standard_error + shortfall()
        assert exact > 1.0
        assert ((got.approximation_gap - exact).abs() < error).all()
        assert (got.pareto_k < 0.5).all()

    def test_more_dimensions_than_correlations_are_fitted_for(
        self, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """With variances alone, the weights of a correlated posterior still have a tail that is
        covered, and a larger error."""
        pair = LinearGaussian()
        x = pair.data(5)
        full = gap_for(pair.model, pair.guide(pair.best), x, num_steps=50, num_samples=1000)
        monkeypatch.setattr("pyrovae.infer.estimators.full_rank._MAX_DIMS", 1)
        got = gap_for(pair.model, pair.guide(pair.best), x, num_steps=50, num_samples=1000)
        off = got.log_likelihood - pair.marginal.log_prob(x)
        assert (off.abs() < 4.5 * got.standard_error).all()
        assert (got.standard_error > full.standard_error).all()

    def test_the_gaps_add_up(self) -> None:
        pair = LinearGaussian()
        x = pair.data(5)
        got = gap_for(pair.model, pair.guide(pair.off), x, num_steps=5, num_samples=50)
        total = got.approximation_gap + got.amortisation_gap
        torch.testing.assert_close(total, got.log_likelihood - got.elbo)

    @pytest.mark.slow
    @pytest.mark.parametrize("start", ["exact", "off"])
    def test_a_family_that_contains_the_posterior_has_no_approximation_gap(
        self, start: str
    ) -> None:
        pair = LinearGaussian()
        x = pair.data(10)

        def off(x: Tensor) -> Any:
            scale = torch.tensor([[0.7, 0.0], [0.1, 0.8]])
            return dist.MultivariateNormal(pair.loc(x) - 0.2, scale_tril=scale)

        q = pair.posterior if start == "exact" else off
        got = gap_for(pair.model, pair.guide(q), x, num_samples=1000)
        log_p = pair.marginal.log_prob(x)
        off = (got.log_likelihood - log_p).abs()
        assert (off < 4.5 * got.standard_error).all()
        error = 4.5 * got.standard_error + shortfall() + near(1000)
        assert (got.approximation_gap.abs() < error).all()
        lost = kl_divergence(q(x), pair.posterior(x))
        z = q(x).sample((4000,))
        deviation = (pair.posterior(x).log_prob(z) - q(x).log_prob(z)).std(0)
        error = 4.5 * deviation / 1000**0.5 + shortfall() + near(1000)
        assert ((got.amortisation_gap - lost).abs() < error).all()
        assert (lost.max() < 1e-9) == (start == "exact")

    def test_a_given_log_likelihood_is_used(self) -> None:
        pair = LinearGaussian()
        x = pair.data(5)
        known = pair.marginal.log_prob(x)
        got = gap_for(
            pair.model, pair.guide(pair.best), x, num_steps=1, num_samples=10, log_likelihood=known
        )
        assert torch.equal(got.log_likelihood, known)
        assert got.standard_error.isnan().all()
        assert got.pareto_k.isnan().all()
        assert torch.equal(got.approximation_gap, known - got.best_elbo)

    @pytest.mark.slow
    def test_a_gamma_posterior(self) -> None:
        """Counts, whose marginal is negative binomial."""
        x = torch.tensor([1.0, 3.0, 5.0])

        def model(x: Tensor) -> None:
            with pyro.plate("data", len(x)):
                z = pyro.sample("z", dist.Gamma(2.0, 1.0))
                pyro.sample("x", dist.Poisson(z), obs=x)

        def guide(x: Tensor) -> None:
            with pyro.plate("data", len(x)):
                pyro.sample("z", dist.Gamma(x + 1.5, torch.tensor(1.7)))

        got = gap_for(model, guide, x, num_samples=1000)
        posterior, q = dist.Gamma(x + 2, torch.tensor(2.0)), dist.Gamma(x + 1.5, 1.7)
        log_p = dist.GammaPoisson(2.0, 1.0).log_prob(x)
        assert ((got.log_likelihood - log_p).abs() < 4.5 * got.standard_error).all()
        z = q.sample((4000,))
        deviation = (posterior.log_prob(z) - q.log_prob(z)).std(0)
        off = got.amortisation_gap - kl_divergence(q, posterior)
        assert (off.abs() < 4.5 * deviation / 1000**0.5 + shortfall() + near(1000)).all()


class TestPairs:
    @pytest.mark.slow
    def test_model_and_guide_do_not_change(self) -> None:
        torch.manual_seed(0)
        vae = VAE((4,), 2, "Normal")
        x = torch.randn(6, 4)
        before = {name: value.clone() for name, value in vae.state_dict().items()}
        state = torch.get_rng_state()
        got = [gap_for(vae.model, vae.guide, x, num_steps=50, num_samples=20) for _ in range(2)]
        assert torch.equal(got[0].best_elbo, got[1].best_elbo)
        assert (got[0].amortisation_gap.mean() > 0).all()
        assert vae.training
        assert all(p.grad is None and p.requires_grad for p in vae.parameters())
        torch.testing.assert_close(dict(vae.state_dict()), before, rtol=0, atol=0)
        assert torch.equal(torch.get_rng_state(), state)
        assert not pyro.get_param_store().keys()

    @pytest.mark.slow
    @pytest.mark.parametrize("size", [7, 1000])
    def test_several_latents_in_several_plates_with_labels(self, size: int) -> None:
        """Independent problems together: units of one datum, and a label that shifts them.

        The plate may declare fewer data than there are samples of a batch in a step.
        """

        def model(x: Tensor, y: Tensor) -> None:
            with pyro.plate("data", size, subsample_size=len(x), dim=-1):
                a = pyro.sample("a", dist.Normal(0.0, 1.0))
                pyro.sample("y", dist.Normal(a, 1.0), obs=y)
                with pyro.plate("units", 2, dim=-2):
                    b = pyro.sample("b", dist.Normal(0.0, 1.0))
                    pyro.sample("x", dist.Normal(b, 1.0), obs=x.T)

        def guide(x: Tensor, y: Tensor) -> None:
            with pyro.plate("data", size, subsample_size=len(x), dim=-1):
                pyro.sample("a", dist.Normal(y / 2 + 0.5, 0.5**0.5))
                with pyro.plate("units", 2, dim=-2):
                    pyro.sample("b", dist.Normal(x.T / 2, 0.5**0.5))

        x, y = torch.randn(7, 2), torch.randn(7)
        got = gap_for(model, guide, (x, y), num_steps=200, num_samples=100)
        log_p = dist.Normal(0.0, 2**0.5).log_prob(torch.cat([x, y[:, None]], 1)).sum(1)
        assert ((got.log_likelihood - log_p).abs() < 4.5 * got.standard_error).all()
        # a is off by 1/2, with a variance of 1/2: a KL divergence of 1/4, of deviation 1 / sqrt 2.
        error = 4.5 * 0.5**0.5 / 100**0.5 + shortfall(200) + near(100, 200)
        assert ((got.amortisation_gap - 0.25).abs() < error).all()

    @pytest.mark.slow
    @pytest.mark.parametrize("takes_plates", [True, False])
    def test_samples_in_a_plate_or_in_repeated_rows(self, takes_plates: bool) -> None:
        """The free guide broadcasts in an outer plate, and its parameters repeat with the data."""
        pair = LinearGaussian()

        def model(x: Tensor) -> None:
            with pyro.plate("data", len(x)):
                z = pyro.sample("z", dist.Normal(torch.zeros(2), 1.0).to_event(1))
                mean = z @ pair.weight.T if takes_plates else torch.mm(z, pair.weight.T)
                pyro.sample("x", dist.Normal(mean, pair.noise).to_event(1), obs=x)

        x = pair.data(6)
        free = _make_free_pair(Pair(model, pair.guide(pair.off)), (x,), "data")
        particles = Particles(free.model, free.guide, 3, "data", (*free.rows, *free.parameters), {})
        assert particles.layout.uses_plate == takes_plates
        got = gap_for(model, pair.guide(pair.off), x, num_samples=1000)
        best, deviation_of_best = pair.elbo(x, pair.best(x))
        elbo, deviation = pair.elbo(x, pair.off(x))
        off = got.amortisation_gap - (best - elbo)
        assert (off.abs() < 4.5 * (deviation + deviation_of_best) / 1000**0.5 + shortfall()).all()

    def test_random_parameters_are_initialised_once(self) -> None:
        """A parameter that starts at random is the same in the guide and in every run."""

        def shift() -> Any:
            return pyro.param("shift", lambda: torch.randn(()))

        def model(x: Tensor) -> None:
            with pyro.plate("data", len(x)):
                z = pyro.sample("z", dist.Normal(shift(), 1.0))
                pyro.sample("x", dist.Normal(z, 1.0), obs=x)

        def guide(x: Tensor) -> None:
            with pyro.plate("data", len(x)):
                pyro.sample("z", dist.Normal((x + shift()) / 2, 0.5**0.5))

        got = gap_for(model, guide, torch.randn(5), batch_size=2, num_steps=1, lr=1e-6)
        assert (got.approximation_gap.abs() < 4.5 * got.standard_error).all()
        assert got.amortisation_gap.abs().max() < 1e-4
        assert not pyro.get_param_store().keys()

    def test_a_transform_draws_once(self) -> None:
        """If the transform drew data again, gaps of an exact guide would not be zero."""
        pair = LinearGaussian()
        got = gap_for(
            pair.model,
            pair.guide(pair.posterior),
            DataLoader(TensorDataset(pair.data(6)), batch_size=4),
            num_steps=1,
            lr=1e-6,
            num_samples=2000,
            transform=lambda x: x + torch.randn_like(x),
        )
        assert ((got.elbo - got.log_likelihood).abs() < 4.5 * got.standard_error).all()
        assert got.amortisation_gap.abs().max() < 1e-4


def test_gaps_are_in_the_order_of_the_data() -> None:
    pair = LinearGaussian()
    x = pair.data(12) * 3
    exact = pair.marginal.log_prob(x)
    covariance = pair.precision.inverse()
    guide = pair.guide(lambda x: dist.MultivariateNormal(pair.loc(x), covariance))
    found = gap_for(
        pair.model, guide, x, num_steps=1, num_samples=50, batch_size=5, log_likelihood=exact
    )
    # The guide is the posterior, so that its bound is log p(x) itself.
    torch.testing.assert_close(found.elbo, exact)
    torch.testing.assert_close(found.log_likelihood, exact)
