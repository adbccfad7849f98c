"""Reports on latents against pairs with known information and divergences."""

from dataclasses import dataclass
from math import log

import pyro
import pyro.distributions as dist
import pytest
import torch
from pyro import poutine
from pyro.distributions.transforms import AffineTransform
from torch import Tensor, nn
from torch.distributions import kl_divergence
from torch.utils.data import DataLoader, TensorDataset

from pyrovae import VAE, Batches
from pyrovae.infer.estimators.collapse import latent_report
from tests.infer.estimators.latent_pairs import make_pair, report_of

pytestmark = pytest.mark.usefixtures("float64")


@dataclass
class LinearGaussian:
    """Probabilistic PCA with q the posterior, on data from another normal distribution.

    The aggregate posterior of infinitely many data is normal, so every reported number has a
    formula.
    """

    weight: Tensor
    noise: float = 0.8

    def model(self, x: Tensor) -> None:
        with pyro.plate("data", len(x)):
            z = pyro.sample("z", dist.Normal(torch.zeros(2), 1.0).to_event(1))
            pyro.sample("x", dist.Normal(z @ self.weight.T, self.noise).to_event(1), obs=x)

    @property
    def covariance(self) -> Tensor:
        precision = torch.eye(2) + self.weight.T @ self.weight / self.noise**2
        return precision.inverse()

    @property
    def encoder(self) -> Tensor:
        return self.covariance @ self.weight.T / self.noise**2

    def guide(self, x: Tensor) -> None:
        with pyro.plate("data", len(x)):
            scale = self.covariance.diagonal().sqrt()
            pyro.sample("z", dist.Normal(x @ self.encoder.T, scale).to_event(1))

    def joint_guide(self, x: Tensor) -> None:
        with pyro.plate("data", len(x)):
            pyro.sample("z", dist.MultivariateNormal(x @ self.encoder.T, self.covariance))

    @property
    def of_data(self) -> dist.MultivariateNormal:
        """Wider than the marginal of the model, and shifted."""
        covariance = self.weight @ self.weight.T + self.noise**2 * torch.eye(len(self.weight))
        return dist.MultivariateNormal(torch.full((len(self.weight),), 0.4), 1.5 * covariance)

    @property
    def aggregate(self) -> dist.MultivariateNormal:
        of_means = self.encoder @ self.of_data.covariance_matrix @ self.encoder.T
        return dist.MultivariateNormal(self.encoder @ self.of_data.mean, self.covariance + of_means)

    def data(self, num: int) -> Tensor:
        torch.manual_seed(4)
        return self.of_data.sample((num,))

    def draws(self, num: int) -> tuple[Tensor, Tensor, Tensor]:
        """log q(z | x), log q(z) and log p(z) at fresh draws of x and z."""
        torch.manual_seed(5)
        q = dist.MultivariateNormal(self.of_data.sample((num,)) @ self.encoder.T, self.covariance)
        z = q.sample()
        prior = dist.MultivariateNormal(torch.zeros(2), torch.eye(2))
        return q.log_prob(z), self.aggregate.log_prob(z), prior.log_prob(z)


def factorised_posterior() -> LinearGaussian:
    """With orthogonal columns of the weight, so the posterior factorises."""
    pair = LinearGaussian(torch.tensor([[1.5, 0.3], [-1.0, 0.9], [0.5, 0.9]]))
    assert pair.covariance[0, 1].abs() < 1e-12
    return pair


def correlated_posterior() -> LinearGaussian:
    return LinearGaussian(torch.tensor([[1.5, 0.7], [1.0, 0.9], [0.5, -0.4]]))


class TestLinearGaussian:
    @pytest.mark.slow
    @pytest.mark.parametrize("is_joint", [False, True])
    def test_information_and_aggregate_kl_match_infinitely_many_data(self, is_joint: bool) -> None:
        """By matrix products, and by broadcasting."""
        pair = correlated_posterior() if is_joint else factorised_posterior()
        guide = pair.joint_guide if is_joint else pair.guide
        num = 3000
        got = report_of(pair.model, guide, pair.data(num), seed=3)
        log_q, log_aggregate, log_prior = pair.draws(20_000)
        covariances = pair.aggregate.covariance_matrix, pair.covariance
        information = (covariances[0].logdet() - covariances[1].logdet()).item() / 2
        prior = dist.MultivariateNormal(torch.zeros(2), torch.eye(2))
        divergence = kl_divergence(pair.aggregate, prior).item()
        # The estimate of q(z) from N data has a relative variance of E[q(z | x) / q(z)] / N.
        bias = 2 * (log_q - log_aggregate).exp().mean().item() / num
        error = (log_q - log_aggregate).std().item() / num**0.5
        assert abs(got.mutual_information - information) < 4.5 * error + bias
        error = (log_aggregate - log_prior).std().item() / num**0.5
        assert abs(got.aggregate_kl - divergence) < 4.5 * error + bias
        assert divergence > 0.05

    def test_terms_with_a_formula_are_exact(self) -> None:
        pair = factorised_posterior()
        x = pair.data(50)
        got = report_of(pair.model, pair.guide, x)
        loc, variance = x @ pair.encoder.T, pair.covariance.diagonal()
        kl = (variance + loc**2 - 1 - variance.log()) / 2
        torch.testing.assert_close(got.kl, kl.mean(0))
        torch.testing.assert_close(got.activity, loc.var(0))
        assert got.active.tolist() == [True, True]
        assert got.num_data == 50

    @pytest.mark.parametrize("is_joint", [False, True])
    def test_mean_kl_is_information_plus_aggregate_kl(self, is_joint: bool) -> None:
        """log q - log p of the samples has the mean KL as its mean, for any mixture."""
        pair = factorised_posterior()
        guide = pair.joint_guide if is_joint else pair.guide
        x = pair.data(400)
        got = report_of(pair.model, guide, x, num_samples=5, batch_size=64)
        exact = report_of(pair.model, pair.guide, x).kl.sum().item()
        q = poutine.trace(pair.guide).get_trace(x).nodes["z"]["fn"]
        z = q.sample((2000,))
        ratio = q.log_prob(z) - dist.Normal(0.0, 1.0).log_prob(z).sum(-1)
        error = ratio.var(0).mean().sqrt().item() / (5 * 400) ** 0.5
        assert abs(got.mutual_information + got.aggregate_kl - exact) < 4.5 * error
        assert abs(got.kl.sum().item() - exact) < 4.5 * error
        assert len(got.kl) == (1 if is_joint else 2)

    def test_joint_q_and_prior_have_an_exact_total_kl(self) -> None:
        pair = correlated_posterior()

        def model(x: Tensor) -> None:
            with pyro.plate("data", len(x)):
                z = pyro.sample("z", dist.MultivariateNormal(torch.zeros(2), torch.eye(2)))
                pyro.sample("x", dist.Normal(z @ pair.weight.T, 0.8).to_event(1), obs=x)

        x = pair.data(30)
        got = report_of(model, pair.joint_guide, x)
        q = dist.MultivariateNormal(x @ pair.encoder.T, pair.covariance)
        prior = dist.MultivariateNormal(torch.zeros(2), torch.eye(2))
        torch.testing.assert_close(got.kl, kl_divergence(q, prior).mean()[None])


class TestCollapse:
    def test_dimensions_equal_to_the_prior_hold_no_information(self) -> None:
        x = torch.randn(200, 3)
        mask = torch.tensor([1.0, 0.0, 0.0])
        model, guide = make_pair(lambda x: x * mask, 1 - 0.7 * mask)
        got = report_of(model, guide, x)
        assert got.kl[1:].tolist() == [0.0, 0.0]
        assert got.activity[1:].tolist() == [0.0, 0.0]
        assert got.active.tolist() == [True, False, False]
        assert got.num_active == 1
        assert not got.is_collapsed
        assert got.sentence.startswith("1 of 3 dimensions are active; z holds ")
        # The dimensions equal to the prior add no information to the first.
        model, guide = make_pair(lambda x: x[:, :1], 0.3)
        alone = report_of(model, guide, x, num_samples=50).mutual_information
        error = 1.0 / 200**0.5  # log q(z | x) - log q(z) has a deviation below one
        assert abs(got.mutual_information - alone) < 4.5 * error

    @pytest.mark.parametrize("loc", [0.0, 0.5])
    def test_the_sentence_reports_a_collapse_and_what_to_try(self, loc: float) -> None:
        model, guide = make_pair(lambda x: torch.full((len(x), 2), loc))
        got = report_of(model, guide, torch.randn(100, 3))
        assert got.mutual_information == pytest.approx(0, abs=1e-12)
        assert got.kl.sum().item() == pytest.approx(loc**2)
        assert got.is_collapsed
        assert got.sentence.startswith("the latents have collapsed: q(z | x) is nearly the same")
        for advice in ("beta", "annealing", "free bits", "weaker decoder", "smaller scale"):
            assert advice in got.sentence

    def test_two_clusters_hold_one_bit(self) -> None:
        x = torch.tensor([-8.0, 8.0]).repeat(50)[:, None]
        model, guide = make_pair(lambda x: x, 0.5)
        got = report_of(model, guide, x)
        assert got.mutual_information == pytest.approx(log(2), abs=1e-9)
        assert not got.is_at_limit

    def test_information_is_at_most_log_n(self) -> None:
        model, guide = make_pair(lambda x: x, 1e-3)
        got = report_of(model, guide, torch.randn(40, 2))
        assert got.mutual_information == pytest.approx(log(40), abs=0.05 * log(40))
        assert got.mutual_information <= log(40) + 1e-9
        assert got.is_at_limit
        assert "near log 40 = 3.69, the most that 40 data can show" in got.sentence


class TestFamilies:
    @pytest.mark.parametrize("labels", [2, 4])
    def test_discrete_latents(self, labels: int) -> None:
        """I(x; k) = H(mean of p) - mean of H(p)."""
        family = dist.Bernoulli if labels == 2 else dist.Categorical

        def parameters(x: Tensor) -> Tensor:
            return 2 * x[:, 0] if labels == 2 else 2 * x

        def model(x: Tensor) -> None:
            with pyro.plate("data", len(x)):
                k = pyro.sample("k", family(logits=torch.zeros(x.shape[1:]).squeeze()))
                pyro.sample("x", dist.Normal(k.to(x.dtype), 1.0), obs=x[:, 0])

        def guide(x: Tensor) -> None:
            with pyro.plate("data", len(x)):
                pyro.sample("k", family(logits=parameters(x)))

        x = torch.randn(1000, 1 if labels == 2 else labels)
        got = report_of(model, guide, x, num_samples=10)
        q = family(logits=parameters(x))
        p = torch.stack([1 - q.probs, q.probs], 1) if labels == 2 else q.probs
        ratio = (p / p.mean(0)).log()
        information = (p * ratio).sum(1)
        error = ((p * ratio**2).sum(1) - information**2).mean().sqrt().item() / 10_000**0.5
        assert abs(got.mutual_information - information.mean().item()) < 4.5 * error
        torch.testing.assert_close(got.kl, (p * (p * labels).log()).sum(1).mean()[None])
        torch.testing.assert_close(got.activity, (p @ torch.arange(labels).to(p)).var(0)[None])

    def test_a_flow_has_no_mean_and_one_kl(self) -> None:
        """An affine flow of a normal is a normal, for which all is known."""
        model, normal = make_pair(lambda x: 2 * x + 1, 0.6)

        def guide(x: Tensor) -> None:
            base = dist.Normal(x, 0.3).to_event(1)
            flow = dist.TransformedDistribution(base, [AffineTransform(1.0, 2.0, event_dim=1)])
            with pyro.plate("data", len(x)):
                pyro.sample("z", flow)

        x = torch.randn(500, 2)
        got, want = (report_of(model, each, x, num_samples=4) for each in (guide, normal))
        assert got.activity.isnan().all()
        assert not got.active.any()
        assert not got.is_collapsed
        assert got.sentence.startswith("z holds ")
        # The same noise gives the same samples, and so the same estimates.
        assert got.mutual_information == pytest.approx(want.mutual_information, abs=1e-9)
        assert got.kl.item() == pytest.approx(want.mutual_information + want.aggregate_kl, abs=1e-9)

    def test_a_second_plate_holds_dimensions(self) -> None:
        def model(x: Tensor) -> None:
            with pyro.plate("data", len(x), dim=-1):
                with pyro.plate("units", 3, dim=-2):
                    pyro.sample("z", dist.Normal(0.0, 1.0))
                pyro.sample("x", dist.Normal(0.0, 1.0), obs=x[:, 0])

        def guide(x: Tensor) -> None:
            with pyro.plate("data", len(x), dim=-1), pyro.plate("units", 3, dim=-2):
                pyro.sample("z", dist.Normal(x.T, 0.5))

        x = torch.randn(60, 3)
        got = report_of(model, guide, x, num_samples=100)
        want = report_of(*make_pair(lambda x: x, 0.5), x, num_samples=100)
        torch.testing.assert_close(got.kl, want.kl)
        torch.testing.assert_close(got.activity, want.activity)
        # In three dimensions log q(z | x) - log q(z) has a variance of 3/2 + 3/2 at most.
        error = (2 * 3 / 6000) ** 0.5
        assert abs(got.mutual_information - want.mutual_information) < 4.5 * error

    def test_each_site_has_a_report(self) -> None:
        def model(x: Tensor) -> None:
            with pyro.plate("data", len(x)):
                a = pyro.sample("a", dist.Normal(0.0, 1.0))
                b = pyro.sample("b", dist.Normal(a, 1.0))
                pyro.sample("x", dist.Normal(b, 1.0), obs=x)

        def guide(x: Tensor) -> None:
            with pyro.plate("data", len(x)):
                pyro.sample("a", dist.Normal(0.0, 1.0))
                pyro.sample("b", dist.Normal(x, 0.1))

        reports = latent_report(model, guide, torch.randn(100), progress=False)
        assert [report.site for report in reports] == ["a", "b"]
        assert [report.is_collapsed for report in reports] == [True, False]


class TestData:
    def test_a_vae_runs_in_eval_mode_on_data_from_any_source(self) -> None:
        torch.manual_seed(0)
        encoder = nn.Sequential(nn.Linear(4, 5), nn.BatchNorm1d(5), nn.Dropout(0.3))
        encoder.extend([nn.Linear(5, 4), nn.Unflatten(-1, (2, 2))])
        vae = VAE((4,), 2, "Normal", encoder=encoder)
        x = torch.randn(30, 4)
        before = {name: value.clone() for name, value in vae.state_dict().items()}
        state = torch.get_rng_state()
        annealed = poutine.scale(vae.model, 0.1)  # the scale does not change a KL divergence
        loader = DataLoader(TensorDataset(x), batch_size=10)
        got, again, loaded = (
            report_of(vae.model, vae.guide, x, batch_size=10),
            report_of(annealed, vae.guide, Batches(x, 10, shuffle=False)),
            report_of(vae.model, vae.guide, loader),  # a loader draws random numbers of its own
        )
        assert got.mutual_information == again.mutual_information
        for other in (again, loaded):
            torch.testing.assert_close(got.kl, other.kl, rtol=0, atol=0)
            torch.testing.assert_close(got.activity, other.activity, rtol=0, atol=0)
        assert vae.training
        torch.testing.assert_close(dict(vae.state_dict()), before, rtol=0, atol=0)
        assert all(p.grad is None for p in vae.parameters())
        assert torch.equal(torch.get_rng_state(), state)

    def test_max_data_are_chosen_at_random(self) -> None:
        model, guide = make_pair(lambda x: x)
        x = torch.arange(100.0)[:, None] / 100
        reports = [
            report_of(model, guide, x, max_data=20, batch_size=size, seed=seed)
            for size, seed in ((100, 1), (7, 1), (100, 2))
        ]
        assert [report.num_data for report in reports] == [20] * 3
        assert reports[0].activity == reports[1].activity
        assert reports[0].activity != reports[2].activity
