"""Annealed importance sampling against models with a known log p(x)."""

from collections.abc import Callable
from math import log, pi
from typing import Any

import pyro
import pyro.distributions as dist
import pytest
import torch
from pyro import poutine
from torch import Tensor, nn

from pyrovae import VAE
from pyrovae.infer import HeavyTailWarning, importance_sample
from pyrovae.infer.estimators.ais import annealed_importance_sample
from tests.infer.estimators.annealing_models import (
    QUIET,
    Regression,
    gamma_poisson,
    negative_binomial,
)
from tests.pairs import assert_unbiased

pytestmark = pytest.mark.usefixtures("float64")


class TestExact:
    @pytest.mark.slow
    @pytest.mark.parametrize("guided", [False, True])
    def test_estimates_are_within_their_stated_error(self, guided: bool) -> None:
        """About 95 percent of 400 95-percent intervals cover log p(x)."""
        program = Regression()
        data = program.data(400)
        got = annealed_importance_sample(
            program.model,
            data,
            guide=program.guide if guided else None,
            num_chains=50,
            num_temperatures=8,
            num_leapfrog=2,
            batch_size=250,
            seed=1,
            **QUIET,
        )
        wrong = got.log_likelihood - program.exact(*data)
        covered = ((wrong / got.standard_error).abs() < 1.96).double().mean().item()
        assert abs(covered - 0.95) < 4.5 * (0.95 * 0.05 / 400) ** 0.5
        bias = got.standard_error.square().mean().item() / 2
        assert abs(wrong.mean().item() + bias) < 4.5 * got.monte_carlo_error
        assert got.monte_carlo_error < 0.02
        assert got.mean.mean == pytest.approx(got.log_likelihood.mean().item())

    @pytest.mark.slow
    def test_p_of_x_is_unbiased_however_few_temperatures(self) -> None:
        """Estimates of log p(x) are too low, and less so with more temperatures."""
        program = Regression(noise=1.0)
        x, y = program.data(1000)
        wrong = [
            annealed_importance_sample(
                program.model,
                (x, y),
                num_chains=4,
                num_temperatures=num_temperatures,
                num_leapfrog=2,
                batch_size=1000,
                seed=2,
                **QUIET,
            ).log_likelihood
            - program.exact(x, y)
            for num_temperatures in (1, 3, 30)
        ]
        for each in wrong:
            assert_unbiased(each.exp()[:, None], torch.ones(1))
        for rise in (wrong[1] - wrong[0], wrong[2] - wrong[1], -wrong[2]):
            assert rise.mean() > 4.5 * rise.std() / 1000**0.5

    def test_one_temperature_is_importance_sampling(self) -> None:
        """To within the standard errors of both."""
        program = Regression()
        data = program.data(20)
        for seed in (0, 5):
            got = annealed_importance_sample(
                program.model,
                data,
                guide=program.guide,
                num_chains=30,
                num_temperatures=1,
                seed=seed,
                **QUIET,
            )
            want = importance_sample(
                program.model, program.guide, data, num_samples=30, seed=seed, progress=False
            )
            error = (got.standard_error.square() + want.standard_error.square()).sqrt()
            assert ((got.log_likelihood - want.log_likelihood).abs() < 4.5 * error).all()
            assert got.acceptance.isnan().all()

    @pytest.mark.slow
    def test_step_sizes_adapt_to_a_posterior_far_narrower_than_the_prior(self) -> None:
        program = Regression(noise=0.03)
        data = program.data(30)
        options: dict[str, Any] = {"num_chains": 16, "num_leapfrog": 3, **QUIET}
        got = annealed_importance_sample(program.model, data, num_temperatures=150, **options)
        assert abs(got.acceptance.mean().item() - 0.65) < 0.1
        plain = annealed_importance_sample(program.model, data, num_temperatures=1, **options)
        off, plainly_off = (
            (each.log_likelihood - program.exact(*data)).abs().mean() for each in (got, plain)
        )
        assert plainly_off > 10 * off


def dirichlet_multinomial(x: Tensor) -> None:
    """A latent that has one dimension less in R^n."""
    with pyro.plate("data", len(x)):
        p = pyro.sample("p", dist.Dirichlet(torch.tensor([2.0, 1.0, 3.0])))
        pyro.sample("x", dist.Multinomial(6, p), obs=x)


def polya(x: Tensor) -> Tensor:
    return dist.DirichletMultinomial(torch.tensor([2.0, 1.0, 3.0]), 6).log_prob(x)


def spacings(x: Tensor) -> None:
    """A support that depends on another latent; both spacings are exponential."""
    with pyro.plate("data", len(x)):
        total = pyro.sample("total", dist.Gamma(2.0, 1.0))
        part = pyro.sample("part", dist.Uniform(0.0, total))
        rates = torch.stack([part, total - part], 1)
        pyro.sample("x", dist.Poisson(rates).to_event(1), obs=x)


def geometric(x: Tensor) -> Tensor:
    return -(x + 1).sum(1) * log(2)


def mixture_prior(x: Tensor) -> None:
    modes = dist.Normal(torch.tensor([-2.0, 1.0]), 0.5)
    prior = dist.MixtureSameFamily(dist.Categorical(torch.tensor([0.3, 0.7])), modes)
    with pyro.plate("data", len(x)):
        z = pyro.sample("z", prior)
        pyro.sample("x", dist.Normal(z, 1.0), obs=x[:, 0])


def mixture(x: Tensor) -> Tensor:
    modes = dist.Normal(torch.tensor([-2.0, 1.0]), 1.25**0.5)
    return (torch.tensor([0.3, 0.7]).log() + modes.log_prob(x)).logsumexp(1)


def angle(x: Tensor) -> None:
    """A density of period 2 pi, cut at pi by the observation."""
    with pyro.plate("data", len(x)):
        z = pyro.sample("z", dist.VonMises(torch.tensor([2.5]), 1.0).to_event(1))
        pyro.sample("x", dist.Normal(z, 1.0).to_event(1), obs=x)


def by_quadrature(x: Tensor) -> Tensor:
    z = torch.linspace(-pi, pi, 4001)
    joint = dist.VonMises(2.5, 1.0).log_prob(z) + dist.Normal(z, 1.0).log_prob(x)
    return torch.trapezoid(joint.exp(), z).log()


def subsampled(x: Tensor) -> None:
    with pyro.plate("data", 60_000, subsample_size=len(x)):
        z = pyro.sample("z", dist.Normal(0.0, 1.0))
        pyro.sample("x", dist.Normal(z, 1.0), obs=x[:, 0])


def normal(x: Tensor) -> Tensor:
    return dist.Normal(0.0, 2**0.5).log_prob(x[:, 0])


@pytest.mark.slow
@pytest.mark.parametrize(
    ("model", "exact", "shape"),
    [
        (gamma_poisson, negative_binomial, (400, 2)),
        (dirichlet_multinomial, polya, (400, 3)),
        (spacings, geometric, (400, 2)),
        (mixture_prior, mixture, (400, 1)),
        (angle, by_quadrature, (400, 1)),
        (subsampled, normal, (400, 1)),
    ],
)
def test_constrained_and_multimodal_latents(
    model: Callable[[Tensor], None], exact: Callable[[Tensor], Tensor], shape: tuple[int, ...]
) -> None:
    """On data from the model, estimates of p(x) are unbiased with few temperatures."""
    torch.manual_seed(8)
    trace = poutine.trace(poutine.uncondition(model)).get_trace(torch.zeros(shape))
    x = trace.nodes["x"]["value"].reshape(shape)
    got = annealed_importance_sample(
        model,
        x,
        num_chains=8,
        num_temperatures=6,
        num_leapfrog=3,
        batch_size=400,
        seed=3,
        **QUIET,
    )
    ratio = (got.log_likelihood - exact(x)).exp()
    assert_unbiased(ratio[:, None], torch.ones(1))
    assert ratio.std() / 400**0.5 < 0.02
    assert got.acceptance.mean() > 0.4


class TestPairs:
    @pytest.mark.slow
    def test_a_vae_runs_in_eval_mode_and_does_not_change(self) -> None:
        torch.manual_seed(0)
        decoder = nn.Sequential(nn.Linear(2, 5), nn.BatchNorm1d(5), nn.Dropout(0.3), nn.Tanh())
        decoder.extend([nn.Linear(5, 4), nn.Unflatten(-1, (1, 4))])
        vae = VAE((4,), 2, "Normal", decoder=decoder)
        x = torch.randn(8, 4)
        vae.model.decoder(torch.randn(30, 2))
        before = {name: value.clone() for name, value in vae.state_dict().items()}
        options: dict[str, Any] = {"num_chains": 40, "num_temperatures": 10, "num_leapfrog": 1}
        want = importance_sample(vae.model, vae.guide, x, num_samples=4000, compile=False, **QUIET)
        for guide in (None, vae.guide):
            got = annealed_importance_sample(vae.model, x, guide=guide, **options, **QUIET)
            error = (got.standard_error**2 + want.standard_error**2).sqrt()
            assert ((got.log_likelihood - want.log_likelihood).abs() < 4.5 * error).all()
        assert vae.training
        torch.testing.assert_close(dict(vae.state_dict()), before, rtol=0, atol=0)
        assert all(parameter.grad is None for parameter in vae.parameters())

    @pytest.mark.slow
    def test_the_seed_determines_results_and_torchs_state_does_not_change(self) -> None:
        program = Regression()
        data = program.data(5)
        state = torch.get_rng_state()
        runs = [
            annealed_importance_sample(
                program.model,
                data,
                num_chains=4,
                num_temperatures=3,
                num_leapfrog=1,
                seed=seed,
                **QUIET,
            ).log_likelihood
            for seed in (1, 1, 2)
        ]
        assert torch.equal(runs[0], runs[1])
        assert not torch.equal(runs[0], runs[2])
        assert torch.equal(torch.get_rng_state(), state)

    @pytest.mark.slow
    def test_parameters_in_single_precision(self) -> None:
        torch.set_default_dtype(torch.float32)

        def model(x: Tensor) -> None:
            slope = pyro.param("slope", torch.tensor(2.0))
            with pyro.plate("data", len(x)):
                z = pyro.sample("z", dist.Normal(0.0, 1.0))
                pyro.sample("x", dist.Normal(slope * z, 1.0), obs=x)

        x = torch.randn(200)
        got = annealed_importance_sample(
            model, x, num_chains=20, num_temperatures=10, num_leapfrog=3, **QUIET
        )
        exact = dist.Normal(0.0, 5**0.5).log_prob(x).double()
        assert_unbiased((got.log_likelihood - exact).exp()[:, None], torch.ones(1).double())
        assert "slope" not in pyro.get_param_store()


def test_pareto_k_needs_enough_chains_and_is_warned_of() -> None:
    """One temperature is importance sampling from the prior, whose weights may be heavy-tailed."""

    def model(x: Tensor) -> None:
        with pyro.plate("data", len(x)):
            z = pyro.sample("z", dist.Normal(torch.zeros(4), 1.0).to_event(1))
            pyro.sample("x", dist.Normal(z, 0.05).to_event(1), obs=x)

    x = 2 * torch.ones(3, 4)
    few = annealed_importance_sample(model, x, num_temperatures=1, progress=False)
    assert few.pareto_k.isnan().all()
    with pytest.warns(HeavyTailWarning, match=r"3 of 3 data .*raise num_temperatures"):
        many = annealed_importance_sample(
            model, x, num_chains=400, num_temperatures=1, progress=False
        )
    assert (many.pareto_k > 0.7).all()
