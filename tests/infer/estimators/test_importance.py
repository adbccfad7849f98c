"""Importance sampling against models with a known log p(x), within its standard error."""

import warnings
from dataclasses import dataclass
from typing import Any

import pyro
import pyro.distributions as dist
import pytest
import torch
from pyro import poutine
from pyro.infer.importance import vectorized_importance_weights
from pyro.ops.stats import fit_generalized_pareto
from torch import Tensor, nn
from torch.utils.data import DataLoader, TensorDataset

from pyrovae import VAE, InputError
from pyrovae.infer import HeavyTailWarning, importance_sample
from pyrovae.infer.estimators.pareto import MAX_PARETO_K, pareto_k
from tests.pairs import user_pair

pytestmark = pytest.mark.usefixtures("float64")
QUIET: dict[str, Any] = {"progress": False, "compile": False}


@dataclass
class LinearGaussian:
    """Probabilistic PCA: x = W z + b + noise; q is the posterior, widened and shifted."""

    widened: float = 1.0
    shifted: float = 0.0

    def __post_init__(self) -> None:
        generator = torch.Generator().manual_seed(2)
        self.weight = torch.randn(4, 2, generator=generator)
        self.bias = torch.randn(4, generator=generator)
        self.noise = 0.8

    def model(self, x: Tensor) -> None:
        with pyro.plate("data", len(x)):
            z = pyro.sample("z", dist.Normal(torch.zeros(2), 1.0).to_event(1))
            mean = z @ self.weight.T + self.bias
            pyro.sample("x", dist.Normal(mean, self.noise).to_event(1), obs=x)

    def guide(self, x: Tensor) -> None:
        precision = torch.eye(2) + self.weight.T @ self.weight / self.noise**2
        covariance = precision.inverse()
        loc = (x - self.bias) @ self.weight @ covariance / self.noise**2 + self.shifted
        with pyro.plate("data", len(x)):
            pyro.sample("z", dist.MultivariateNormal(loc, self.widened * covariance))

    @property
    def marginal(self) -> dist.MultivariateNormal:
        noise = self.noise**2 * torch.eye(4)
        return dist.MultivariateNormal(self.bias, self.weight @ self.weight.T + noise)

    def data(self, num: int) -> Tensor:
        torch.manual_seed(4)
        return self.marginal.sample((num,))


class TestExact:
    def test_the_exact_posterior_has_no_error(self) -> None:
        pair = LinearGaussian()
        x = pair.data(7)
        got = importance_sample(pair.model, pair.guide, x, num_samples=100, bounds=(1, 9), **QUIET)
        exact = pair.marginal.log_prob(x)
        for estimate in (got.log_likelihood, got.elbo, got.bounds[1], got.bounds[9]):
            torch.testing.assert_close(estimate, exact, rtol=0, atol=1e-9)
        torch.testing.assert_close(got.effective_samples, torch.full((7,), 100.0))
        assert got.standard_error.max() < 1e-6
        assert got.mean.mean == pytest.approx(exact.mean().item(), abs=1e-9)

    @pytest.mark.slow
    @pytest.mark.parametrize("compile", [False, True])
    def test_estimates_are_within_their_stated_error(self, compile: bool) -> None:
        """About 95 percent of 1,000 95-percent intervals cover log p(x)."""
        pair = LinearGaussian(widened=1.4, shifted=0.1)
        x = pair.data(1000)
        got = importance_sample(
            pair.model,
            pair.guide,
            x,
            num_samples=400,
            batch_size=200,
            seed=11,
            compile=compile,
            progress=False,
        )
        off = (got.log_likelihood - pair.marginal.log_prob(x)) / got.standard_error
        covered = (off.abs() < 1.96).double().mean().item()
        assert abs(covered - 0.95) < 4.5 * (0.95 * 0.05 / 1000) ** 0.5
        # The mean over data is off by its bias, half the mean square of the errors.
        wrong = (got.log_likelihood - pair.marginal.log_prob(x)).mean().item()
        assert abs(wrong + got.bias) < 4.5 * got.monte_carlo_error
        assert got.pareto_k.median() < 0.5

    def test_the_average_is_too_low_by_its_stated_bias(self) -> None:
        """Over 40,000 data the error of the average is far below the bias."""
        pair = LinearGaussian(widened=2.0, shifted=0.2)
        x = pair.data(40_000)
        got = importance_sample(
            pair.model, pair.guide, x, num_samples=40, batch_size=2000, seed=3, **QUIET
        )
        too_low = (pair.marginal.log_prob(x) - got.log_likelihood).mean().item()
        assert got.bias > 6 * got.monte_carlo_error
        # Terms of the next order are smaller by 1 / K, times a few.
        assert abs(too_low - got.bias) < 4.5 * got.monte_carlo_error + 0.03 * got.bias
        assert got.bias == pytest.approx(got.standard_error.square().mean().item() / 2)

    def test_a_heavy_tail_is_shown_and_said(self) -> None:
        pair = LinearGaussian(widened=0.15)
        message = (
            r"50 of 50 data have heavy-tailed .*above 0\.5.*\(k above 0\.7\) log p\(x\) itself"
        )
        with pytest.warns(HeavyTailWarning, match=message):
            got = importance_sample(
                pair.model, pair.guide, pair.data(50), num_samples=2000, **QUIET
            )
        assert got.pareto_k.median() > 0.7

    def test_light_tails_are_not_warned_of(self) -> None:
        pair = LinearGaussian(widened=1.4)
        with warnings.catch_warnings():
            warnings.simplefilter("error", HeavyTailWarning)
            got = importance_sample(
                pair.model, pair.guide, pair.data(20), num_samples=2000, **QUIET
            )
        assert got.pareto_k.max() < 0.5

    def test_intervals_hold_too_rarely_above_the_limit(self) -> None:
        """Weights of a normal narrowed to a variance v have a Pareto shape of 1 - v.

        At k = 0.4 some 95 percent of the intervals hold; at 0.7 clearly fewer.
        """
        covered = []
        for k in (0.4, 0.7):
            pair = LinearGaussian(widened=1 - k)
            x = pair.data(2000)
            with warnings.catch_warnings():
                warnings.simplefilter("ignore", HeavyTailWarning)
                got = importance_sample(
                    pair.model, pair.guide, x, num_samples=1000, seed=1, **QUIET
                )
            off = (got.log_likelihood - pair.marginal.log_prob(x)) / got.standard_error
            covered.append((off.abs() < 1.96).double().mean().item())
        assert covered[0] > 0.92
        assert covered[1] < 0.9
        assert MAX_PARETO_K == 0.5

    def test_bounds_rise_with_the_number_of_samples_to_log_p(self) -> None:
        pair = LinearGaussian(widened=2.0, shifted=0.3)
        x = pair.data(20)
        got = importance_sample(
            pair.model, pair.guide, x, num_samples=5000, bounds=(1, 5, 50, 500), **QUIET
        )
        means = [bound.mean().item() for bound in got.bounds.values()]
        assert means == sorted(means)
        torch.testing.assert_close(got.bounds[1], got.elbo)
        exact = pair.marginal.log_prob(x).mean().item()
        assert means[1] < exact - 0.05
        assert abs(means[-1] - exact) < 4.5 * got.monte_carlo_error + 10 * got.bias

    def test_reconstruction_and_kl_are_the_terms_of_the_elbo(self) -> None:
        pair = LinearGaussian(widened=1.2)
        x = pair.data(3)
        got = importance_sample(pair.model, pair.guide, x, num_samples=20_000, **QUIET)
        trace = poutine.trace(pair.guide).get_trace(x)
        q = trace.nodes["z"]["fn"]
        prior = dist.MultivariateNormal(torch.zeros(2), torch.eye(2))
        kl = torch.distributions.kl_divergence(q, prior)
        z = q.sample((20_000,))
        deviation = (q.log_prob(z) - prior.log_prob(z)).std(0)
        assert ((got.kl - kl).abs() < 4.5 * deviation / 20_000**0.5).all()
        torch.testing.assert_close(got.elbo, -got.reconstruction - got.kl)


class TestPairs:
    @pytest.mark.slow
    def test_a_vae_runs_in_eval_mode_in_any_chunks(self) -> None:
        torch.manual_seed(0)
        encoder = nn.Sequential(nn.Linear(4, 5), nn.BatchNorm1d(5), nn.Dropout(0.3))
        encoder.extend([nn.Linear(5, 4), nn.Unflatten(-1, (2, 2))])
        vae = VAE((4,), 2, "Normal", encoder=encoder)
        x = torch.randn(30, 4)
        vae.guide.encoder(x)
        before = {name: value.clone() for name, value in vae.state_dict().items()}
        results = [
            importance_sample(
                vae.model, vae.guide, x, num_samples=1000, batch_size=size, memory=memory, **QUIET
            )
            for size, memory in ((30, 2**28), (7, 2**22))
        ]
        first, second = results
        error = (first.standard_error**2 + second.standard_error**2).sqrt()
        assert ((first.log_likelihood - second.log_likelihood).abs() < 4.5 * error).all()
        assert vae.training
        torch.testing.assert_close(dict(vae.state_dict()), before, rtol=0, atol=0)

    def test_a_pair_with_parameters_labels_and_a_discrete_latent(self) -> None:
        """A mixture of two normals, with weights that depend on a label."""
        means = torch.tensor([-1.0, 2.0])

        def model(x: Tensor, y: Tensor) -> None:
            probs = torch.where(y > 0, 0.3, 0.6)
            with pyro.plate("data", len(x)):
                k = pyro.sample("k", dist.Bernoulli(probs))
                pyro.sample("x", dist.Normal(means[k.long()], 1.0), obs=x)

        def guide(x: Tensor, y: Tensor) -> None:
            slope = pyro.param("slope", torch.tensor(1.0))
            with pyro.plate("data", len(x)):
                pyro.sample("k", dist.Bernoulli(logits=slope * x))

        x, y = torch.randn(200), torch.arange(200) % 2
        got = importance_sample(model, guide, (x, y), num_samples=4000, **QUIET)
        probs = torch.where(y > 0, 0.3, 0.6)
        weights = torch.stack([1 - probs, probs]).log()
        exact = (weights + dist.Normal(means[:, None], 1.0).log_prob(x)).logsumexp(0)
        off = (got.log_likelihood - exact) / got.standard_error
        assert off.abs().max() < 4.5
        assert (off.abs() < 1.96).double().mean().item() > 0.95 - 4.5 * (0.0475 / 200) ** 0.5

    def test_a_subsampled_plate_makes_no_difference(self) -> None:
        pair = LinearGaussian(widened=1.2)
        x = pair.data(10)

        def within(function: Any) -> Any:
            def declared(x: Tensor) -> Any:
                with pyro.plate("data", 60_000, subsample_size=len(x), dim=-1):
                    return function(x)

            return declared

        def model(x: Tensor) -> None:
            z = pyro.sample("z", dist.Normal(torch.zeros(2), 1.0).to_event(1))
            mean = z @ pair.weight.T + pair.bias
            pyro.sample("x", dist.Normal(mean, pair.noise).to_event(1), obs=x)

        def guide(x: Tensor) -> None:
            pyro.sample("z", dist.Normal(torch.zeros(len(x), 2), 1.0).to_event(1))

        got = importance_sample(within(model), within(guide), x, num_samples=4000, **QUIET)
        off = (got.log_likelihood - pair.marginal.log_prob(x)) / got.standard_error
        assert off.abs().max() < 4.5

    def test_pyros_weights_are_joint_over_the_batch(self) -> None:
        """Pyro has one weight for all data together, so its estimate is off by nats."""
        pair = LinearGaussian(widened=3.0, shifted=0.2)
        x = pair.data(100)
        exact = pair.marginal.log_prob(x).sum().item()
        got = importance_sample(pair.model, pair.guide, x, num_samples=500, **QUIET)
        error = got.monte_carlo_error * 100
        assert abs(got.log_likelihood.sum().item() + got.bias * 100 - exact) < 4.5 * error
        joint, _, _ = vectorized_importance_weights(
            pair.model, pair.guide, x, num_samples=500, max_plate_nesting=1
        )
        assert joint.shape == (500,)
        pyros = (joint.logsumexp(0) - torch.tensor(500.0).log()).item()
        assert abs(pyros - exact) > 10 * error


class TestRandomness:
    def test_the_seed_determines_results_and_torchs_state_does_not_change(self) -> None:
        pair = LinearGaussian(widened=1.5)
        x = pair.data(5)
        state = torch.get_rng_state()
        runs = [
            importance_sample(
                pair.model,
                pair.guide,
                x,
                num_samples=50,
                seed=seed,
                transform=lambda x: x + torch.randn_like(x),
                **QUIET,
            ).log_likelihood
            for seed in (1, 1, 2)
        ]
        assert torch.equal(runs[0], runs[1])
        assert not torch.equal(runs[0], runs[2])
        assert torch.equal(torch.get_rng_state(), state)


class TestErrors:
    def test_shared_latents_are_refused(self) -> None:
        pair = user_pair()
        with pytest.raises(InputError, match=r"'weights' is outside of plate 'data'.*use evaluate"):
            importance_sample(pair.model, pair.guide, torch.randn(4, 3), **QUIET)

    def test_scaled_sites_are_refused(self) -> None:
        pair = LinearGaussian()
        annealed = poutine.scale(pair.model, 0.5)
        with pytest.raises(InputError, match=r"site 'z' is scaled by 0\.5"):
            importance_sample(annealed, pair.guide, pair.data(4), **QUIET)

    @pytest.mark.parametrize(
        ("options", "message"),
        [
            ({"num_samples": 1}, "num_samples is 1; it must be 2 or more"),
            ({"num_samples": 10, "bounds": (11,)}, r"bounds are \[11\]; each must be from 1 to 10"),
            ({"memory": 0}, "memory is 0"),
        ],
    )
    def test_invalid_options_are_refused(self, options: dict[str, Any], message: str) -> None:
        pair = LinearGaussian()
        with pytest.raises(InputError, match=message):
            importance_sample(pair.model, pair.guide, pair.data(4), **options)

    def test_a_loader_without_batches_is_refused(self) -> None:
        pair = LinearGaussian()
        loader = DataLoader(TensorDataset(pair.data(3)), batch_size=5, drop_last=True)
        with pytest.raises(InputError, match="the data gave no batch"):
            importance_sample(pair.model, pair.guide, loader, **QUIET)

    def test_nan_weights_are_refused(self) -> None:
        pair = LinearGaussian()

        def guide(x: Tensor) -> None:
            with pyro.plate("data", len(x)):
                scale = torch.full((2,), torch.nan)
                pyro.sample("z", dist.Normal(torch.zeros(len(x), 2), scale).to_event(1))

        message = r"log p\(x\) of 4 data is not a number"
        with pyro.validation_enabled(False), pytest.raises(FloatingPointError, match=message):
            importance_sample(pair.model, guide, pair.data(4), num_samples=5, **QUIET)


@pytest.mark.parametrize("shape", [-0.3, 0.2, 0.7, 1.2])
def test_pareto_k_matches_pyro(shape: float) -> None:
    torch.manual_seed(1)
    u = torch.rand(6, 1000)
    weights = 3.0 + (u**-shape - 1) / shape
    got = pareto_k(weights.log())
    for row, k in zip(weights / weights.max(), got, strict=True):
        largest, _ = row.topk(96)  # 3 sqrt(1000) of them, and the one below
        want, _ = fit_generalized_pareto(largest[:-1] - largest[-1])
        assert k.item() == pytest.approx(want, abs=1e-6)


def test_pareto_k_of_few_or_equal_weights() -> None:
    assert pareto_k(torch.zeros(2, 20)).isnan().all()
    assert pareto_k(torch.zeros(2, 2000)).tolist() == [float("-inf")] * 2


def test_weights_that_differ_by_round_off_have_no_tail() -> None:
    noise = torch.rand(3, 2000, generator=torch.Generator().manual_seed(0)) * 1e-5
    log_weights = noise.float() - 100.0
    log_weights[1, 7] = torch.nan
    k = pareto_k(log_weights)
    assert k[0] == k[2] == -torch.inf
    assert k[1].isnan()


def test_memory_bounds_how_many_samples_are_drawn_at_once() -> None:
    pair = LinearGaussian()

    def count_runs(num: int, memory: int) -> int:
        calls = 0

        def model(x: Tensor) -> None:
            nonlocal calls
            calls += 1
            pair.model(x)

        importance_sample(model, pair.guide, pair.data(num), num_samples=64, memory=memory, **QUIET)
        return calls

    at_once = count_runs(2, 2**24)
    memory = next(2**i for i in range(8, 24) if count_runs(2, 2**i) < at_once + 4)
    # Ten times as many data leave room for a tenth of the samples.
    assert count_runs(20, memory) >= at_once + 8
