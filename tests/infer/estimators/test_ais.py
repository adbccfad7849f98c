"""Annealed importance sampling against models whose log p(x) is known."""

from collections.abc import Callable
from dataclasses import dataclass
from math import log, pi
from typing import Any

import pyro
import pyro.distributions as dist
import pytest
import torch
from pyro import poutine
from pyro.poutine.messenger import Messenger
from torch import Tensor, nn
from torch.utils.data import DataLoader, TensorDataset

from pyrovae import VAE, InputError
from pyrovae.infer import importance_sample
from pyrovae.infer.estimators.ais import annealed_importance_sample, bidirectional_check
from tests.pairs import assert_unbiased, user_pair

pytestmark = pytest.mark.usefixtures("float64")
quietly: dict[str, Any] = {"progress": False}


@dataclass
class Regression:
    """x = W z + c y + noise, for covariates y; the guide is the posterior, but too wide."""

    noise: float = 0.7

    def __post_init__(self) -> None:
        generator = torch.Generator().manual_seed(6)
        self.weight = torch.randn(3, 2, generator=generator)
        self.slope = torch.tensor([0.5, -1.0, 2.0])

    def model(self, x: Tensor, y: Tensor) -> None:
        with pyro.plate("data", len(x)):
            z = pyro.sample("z", dist.Normal(torch.zeros(2), 1.0).to_event(1))
            mean = pyro.deterministic("mean", z @ self.weight.T + y[:, None] * self.slope)
            pyro.sample("x", dist.Normal(mean, self.noise).to_event(1), obs=x)

    def guide(self, x: Tensor, y: Tensor) -> None:
        precision = torch.eye(2) + self.weight.T @ self.weight / self.noise**2
        covariance = precision.inverse()
        loc = (x - y[:, None] * self.slope) @ self.weight @ covariance / self.noise**2
        with pyro.plate("data", len(x)):
            pyro.sample("z", dist.MultivariateNormal(loc + 0.1, 1.5 * covariance))

    def exact(self, x: Tensor, y: Tensor) -> Tensor:
        covariance = self.weight @ self.weight.T + self.noise**2 * torch.eye(3)
        return dist.MultivariateNormal(y[:, None] * self.slope, covariance).log_prob(x)

    def data(self, num: int) -> tuple[Tensor, Tensor]:
        torch.manual_seed(4)
        y = torch.randn(num)
        mean = torch.randn(num, 2) @ self.weight.T + y[:, None] * self.slope
        return mean + self.noise * torch.randn(num, 3), y


class TestExact:
    @pytest.mark.parametrize("guided", [False, True])
    def test_estimates_are_within_their_stated_error(self, guided: bool) -> None:
        """Of 400 intervals of 95 percent, so many cover log p(x) as they should."""
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
            **quietly,
        )
        wrong = got.log_likelihood - program.exact(*data)
        covered = ((wrong / got.standard_error).abs() < 1.96).double().mean().item()
        assert abs(covered - 0.95) < 4.5 * (0.95 * 0.05 / 400) ** 0.5
        bias = got.standard_error.square().mean().item() / 2
        assert abs(wrong.mean().item() + bias) < 4.5 * got.monte_carlo_error
        assert got.monte_carlo_error < 0.02
        assert got.mean.mean == pytest.approx(got.log_likelihood.mean().item())

    def test_p_of_x_is_unbiased_however_few_temperatures(self) -> None:
        """Its logarithm is too low, the less so the more there are."""
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
                **quietly,
            ).log_likelihood
            - program.exact(x, y)
            for num_temperatures in (1, 3, 30)
        ]
        for each in wrong:
            assert_unbiased(each.exp()[:, None], torch.ones(1))
        for rise in (wrong[1] - wrong[0], wrong[2] - wrong[1], -wrong[2]):
            assert rise.mean() > 4.5 * rise.std() / 1000**0.5

    def test_one_temperature_is_importance_sampling(self) -> None:
        """To within what both state as their errors."""
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
                **quietly,
            )
            want = importance_sample(
                program.model, program.guide, data, num_samples=30, seed=seed, progress=False
            )
            error = (got.standard_error.square() + want.standard_error.square()).sqrt()
            assert ((got.log_likelihood - want.log_likelihood).abs() < 4.5 * error).all()
            assert got.acceptance.isnan().all()

    def test_step_sizes_follow_a_posterior_that_is_far_narrower_than_the_prior(self) -> None:
        program = Regression(noise=0.03)
        data = program.data(30)
        options: dict[str, Any] = {"num_chains": 16, "num_leapfrog": 3, **quietly}
        got = annealed_importance_sample(program.model, data, num_temperatures=150, **options)
        assert abs(got.acceptance.mean().item() - 0.65) < 0.1
        plain = annealed_importance_sample(program.model, data, num_temperatures=1, **options)
        off, plainly_off = (
            (each.log_likelihood - program.exact(*data)).abs().mean() for each in (got, plain)
        )
        assert plainly_off > 10 * off


def gamma_poisson(x: Tensor) -> None:
    """Two plates, of which that over data is on the left."""
    with pyro.plate("data", len(x), dim=-2), pyro.plate("features", 2, dim=-1):
        rate = pyro.sample("rate", dist.Gamma(torch.tensor([2.0, 0.7]), 1.5))
        pyro.sample("x", dist.Poisson(rate), obs=x)


def negative_binomial(x: Tensor) -> Tensor:
    shape = torch.tensor([2.0, 0.7])
    return dist.NegativeBinomial(shape, probs=torch.tensor(1 / 2.5)).log_prob(x).sum(1)


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
    """A density of period 2 pi, cut at pi by what is observed."""
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
def test_latents_of_all_sorts(
    model: Callable[[Tensor], None], exact: Callable[[Tensor], Tensor], shape: tuple[int, ...]
) -> None:
    """p(x) is unbiased, on data drawn from the model, from the prior after few temperatures."""
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
        **quietly,
    )
    ratio = (got.log_likelihood - exact(x)).exp()
    assert_unbiased(ratio[:, None], torch.ones(1))
    assert ratio.std() / 400**0.5 < 0.02
    assert got.acceptance.mean() > 0.4


class Simulated(Messenger):
    """Remembers the first value of each site."""

    def __init__(self) -> None:
        super().__init__()
        self.values: dict[str, Tensor] = {}

    def _pyro_post_sample(self, msg: Any) -> None:
        self.values.setdefault(msg["name"], msg["value"].clone())


class TestBidirectional:
    def test_the_truth_is_between_and_the_gap_closes(self) -> None:
        """Whatever the data that are given hold: only their number, shape and covariates count."""
        program = Regression()
        y = torch.linspace(-1, 1, 400)
        given = torch.full((400, 3), 1e6), y
        gaps = []
        for num_temperatures in (1, 4, 40):
            with Simulated() as simulated:
                got = bidirectional_check(
                    program.model,
                    given,
                    num_chains=4,
                    num_temperatures=num_temperatures,
                    num_leapfrog=2,
                    batch_size=400,
                    **quietly,
                )
            exact = program.exact(simulated.values["x"], y)
            for above in (exact - got.lower.log_likelihood, got.upper - exact):
                error = above.std() / 400**0.5
                assert above.mean() > (4.5 if num_temperatures == 1 else -4.5) * error
            torch.testing.assert_close(got.gap, got.upper - got.lower.log_likelihood)
            gaps.append(got.mean_gap.mean)
        assert gaps[0] > 2 * gaps[1] > 4 * gaps[2]

    @pytest.mark.parametrize("constrained", [False, True])
    def test_p_of_x_and_its_inverse_are_unbiased(self, constrained: bool) -> None:
        """With as many temperatures as it takes for the inverse to have a variance."""
        program, y = Regression(noise=1.5), torch.linspace(-1, 1, 400)
        with Simulated() as simulated:
            got = bidirectional_check(
                gamma_poisson if constrained else program.model,
                torch.zeros(400, 2) if constrained else (torch.zeros(400, 3), y),
                num_chains=4,
                num_temperatures=40,
                num_leapfrog=2,
                batch_size=400,
                **quietly,
            )
        x = simulated.values["x"]
        exact = negative_binomial(x) if constrained else program.exact(x, y)
        for ratio in ((got.lower.log_likelihood - exact).exp(), (exact - got.upper).exp()):
            assert_unbiased(ratio[:, None], torch.ones(1))
            assert ratio.std() / 400**0.5 < 0.05

    def test_reverse_chains_start_at_the_latents_that_made_the_data(self) -> None:
        """By one temperature alone, the estimate from above is log p(x* | z*)."""
        program, y = Regression(), torch.linspace(-1, 1, 20)
        options: dict[str, Any] = {"num_temperatures": 1, **quietly}
        with Simulated() as drawn:
            got = bidirectional_check(program.model, (torch.zeros(20, 3), y), **options)
        log_likelihood = dist.Normal(drawn.values["mean"], 0.7).log_prob(drawn.values["x"])
        torch.testing.assert_close(got.upper, log_likelihood.sum(1))
        with Simulated() as drawn:
            got = bidirectional_check(gamma_poisson, torch.zeros(20, 2), **options)
        log_likelihood = dist.Poisson(drawn.values["rate"]).log_prob(drawn.values["x"])
        torch.testing.assert_close(got.upper, log_likelihood.sum(1))

    def test_batches_are_put_together(self) -> None:
        program = Regression()
        x, y = program.data(7)
        got = bidirectional_check(
            program.model,
            (x, y),
            num_chains=3,
            num_temperatures=2,
            num_leapfrog=1,
            batch_size=3,
            **quietly,
        )
        assert got.upper.shape == got.lower.acceptance.shape == (7,)

    def test_a_factor_cannot_be_simulated(self) -> None:
        def model(x: Tensor) -> None:
            with pyro.plate("data", len(x)):
                z = pyro.sample("z", dist.Normal(0.0, 1.0))
                pyro.factor("f", -z.abs())
                pyro.sample("x", dist.Normal(z, 1.0), obs=x)

        with pytest.raises(InputError, match=r"'f' is a pyro\.factor"):
            bidirectional_check(model, torch.zeros(3), **quietly)


class TestPrograms:
    def test_a_vae_in_eval_mode_with_nothing_changed(self) -> None:
        torch.manual_seed(0)
        decoder = nn.Sequential(nn.Linear(2, 5), nn.BatchNorm1d(5), nn.Dropout(0.3), nn.Tanh())
        decoder.extend([nn.Linear(5, 4), nn.Unflatten(-1, (1, 4))])
        vae = VAE((4,), 2, "Normal", decoder=decoder)
        x = torch.randn(8, 4)
        vae.model.decoder(torch.randn(30, 2))
        before = {name: value.clone() for name, value in vae.state_dict().items()}
        options: dict[str, Any] = {"num_chains": 40, "num_temperatures": 10, "num_leapfrog": 1}
        want = importance_sample(
            vae.model, vae.guide, x, num_samples=4000, compile=False, **quietly
        )
        for guide in (None, vae.guide):
            got = annealed_importance_sample(vae.model, x, guide=guide, **options, **quietly)
            error = (got.standard_error**2 + want.standard_error**2).sqrt()
            assert ((got.log_likelihood - want.log_likelihood).abs() < 4.5 * error).all()
        assert vae.training
        torch.testing.assert_close(dict(vae.state_dict()), before, rtol=0, atol=0)
        assert all(parameter.grad is None for parameter in vae.parameters())

    def test_the_seed_decides_and_torchs_state_is_left(self) -> None:
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
                **quietly,
            ).log_likelihood
            for seed in (1, 1, 2)
        ]
        assert torch.equal(runs[0], runs[1])
        assert not torch.equal(runs[0], runs[2])
        assert torch.equal(torch.get_rng_state(), state)

    def test_parameters_in_single_precision(self) -> None:
        torch.set_default_dtype(torch.float32)

        def model(x: Tensor) -> None:
            slope = pyro.param("slope", torch.tensor(2.0))
            with pyro.plate("data", len(x)):
                z = pyro.sample("z", dist.Normal(0.0, 1.0))
                pyro.sample("x", dist.Normal(slope * z, 1.0), obs=x)

        x = torch.randn(200)
        got = annealed_importance_sample(
            model, x, num_chains=20, num_temperatures=10, num_leapfrog=3, **quietly
        )
        exact = dist.Normal(0.0, 5**0.5).log_prob(x).double()
        assert_unbiased((got.log_likelihood - exact).exp()[:, None], torch.ones(1).double())
        assert "slope" not in pyro.get_param_store()


def sampling(latent: Callable[[], Any]) -> Callable[[Tensor], None]:
    """A model whose one latent has this distribution."""

    def model(x: Tensor) -> None:
        with pyro.plate("data", len(x)):
            pyro.sample("z", latent())
            pyro.sample("x", dist.Normal(0.0, 1.0), obs=x)

    return model


def without_latents(x: Tensor) -> None:
    with pyro.plate("data", len(x)):
        pyro.sample("x", dist.Normal(0.0, 1.0), obs=x)


def of_fixed_size(x: Tensor) -> None:
    with pyro.plate("data", 3):
        z = pyro.sample("z", dist.Normal(0.0, 1.0))
        pyro.sample("x", dist.Normal(z, 1.0), obs=x[:3])


def in_a_loop(x: Tensor) -> None:
    for i in pyro.plate("data", len(x)):
        z = pyro.sample(f"z{i}", dist.Normal(0.0, 1.0))
        pyro.sample(f"x{i}", dist.Normal(z, 1.0), obs=x[i])


def observing_nothing(x: Tensor) -> None:
    with pyro.plate("data", len(x)):
        pyro.sample("z", dist.Normal(0.0, 1.0))


class TestRefusals:
    @pytest.mark.parametrize(
        ("model", "message"),
        [
            (sampling(lambda: dist.Bernoulli(0.4)), "'z' is a Bernoulli, which is discrete: HMC"),
            (sampling(lambda: dist.Poisson(0.4)), "'z' is a Poisson, which is discrete: HMC"),
            (sampling(lambda: dist.Delta(torch.ones(()))), "'z' is a Delta, which"),
            (
                sampling(lambda: dist.ProjectedNormal(torch.ones(3))),
                "'z' is a ProjectedNormal, whose support has no bijection",
            ),
            (without_latents, "the model has no latents"),
            (of_fixed_size, r"plate 'data' has 3 data at site 'z', but got 8 rows"),
            (in_a_loop, "plate 'data' is a loop"),
            (observing_nothing, "the model observes nothing"),
        ],
    )
    def test_models(self, model: Callable[[Tensor], None], message: str) -> None:
        with pytest.raises(InputError, match=message):
            annealed_importance_sample(model, torch.randn(4), num_chains=2, **quietly)

    @pytest.mark.parametrize("estimate", [annealed_importance_sample, bidirectional_check])
    def test_shared_latents_and_scaled_sites(self, estimate: Callable[..., Any]) -> None:
        with pytest.raises(InputError, match=r"'weights' is outside of plate 'data'"):
            estimate(user_pair().model, torch.randn(4, 3), **quietly)
        program = Regression()
        with pytest.raises(InputError, match=r"site 'z' is scaled by 0\.5"):
            estimate(poutine.scale(program.model, 0.5), program.data(4), **quietly)

    def test_guides_whose_density_is_not_known(self) -> None:
        program = Regression()

        def guide(x: Tensor, y: Tensor) -> None:
            with pyro.plate("data", len(x)):
                loc = pyro.sample("a", dist.Normal(0.0, 1.0), infer={"is_auxiliary": True})
                pyro.sample("z", dist.Normal(loc[:, None].expand(-1, 2), 1.0).to_event(1))

        with pytest.raises(InputError, match="site 'a' of the guide is auxiliary"):
            annealed_importance_sample(program.model, program.data(4), guide=guide, **quietly)

    @pytest.mark.parametrize(
        ("options", "message"),
        [
            ({"num_chains": 1}, "num_chains is 1; a standard error needs 2"),
            ({"num_temperatures": 0}, "num_temperatures is 0; it must be 1 or more"),
            ({"num_leapfrog": 0}, "num_leapfrog is 0; it must be 1 or more"),
        ],
    )
    def test_options(self, options: dict[str, int], message: str) -> None:
        program = Regression()
        for estimate in (annealed_importance_sample, bidirectional_check):
            with pytest.raises(InputError, match=message):
                estimate(program.model, program.data(4), **options)

    def test_no_data(self) -> None:
        program = Regression()
        loader = DataLoader(TensorDataset(*program.data(3)), batch_size=5, drop_last=True)
        with pytest.raises(InputError, match="the data gave no batch"):
            annealed_importance_sample(program.model, loader, **quietly)

    def test_weights_that_are_not_numbers(self) -> None:
        def model(x: Tensor) -> None:
            with pyro.plate("data", len(x)):
                z = pyro.sample("z", dist.Normal(0.0, 1.0))
                pyro.sample("x", dist.Normal(z, x * torch.nan), obs=x)

        message = r"log p\(x\) of 4 data is not a number"
        with pyro.validation_enabled(False), pytest.raises(FloatingPointError, match=message):
            annealed_importance_sample(model, torch.ones(4), num_temperatures=1, **quietly)
