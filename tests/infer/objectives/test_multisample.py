"""Multisample objectives against closed forms, formulas written out by hand, and Pyro."""

from collections.abc import Callable
from math import log
from typing import Any

import pyro
import pyro.distributions as dist
import pytest
import torch
from pyro.distributions.testing.fakes import NonreparameterizedNormal
from pyro.infer import RenyiELBO
from torch import Tensor
from torch.nn.functional import softplus

from pyrovae import InputError
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
from pyrovae.infer.objectives.weighted import (
    BetaELBO,
)
from tests.infer.objectives.linear_gaussian import (
    NOISE,
    LinearGaussian,
    estimates,
    gradients_of,
    named_parameters,
)
from tests.pairs import assert_unbiased

pytestmark = pytest.mark.usefixtures("float64")


def log_mean(log_weights: Tensor) -> Tensor:
    return log_weights.logsumexp(0) - log(len(log_weights))


BOUNDS: dict[str, tuple[Objective, Callable[[Tensor], Tensor]]] = {
    "iwae": (IWAE(6), log_mean),
    "renyi": (Renyi(0.3, 6), lambda w: log_mean(0.7 * w) / 0.7),
    "miwae": (
        MIWAE(6, 3),
        lambda w: w.view(3, 2, -1).transpose(0, 1).logsumexp(0).mean(0) - log(2),
    ),
    "ciwae": (CIWAE(0.25, 6), lambda w: 0.25 * w.mean(0) + 0.75 * log_mean(w)),
    "stl": (StickingTheLanding(6), log_mean),
    "dreg": (DReG(6), log_mean),
    "piwae": (PIWAE(6, 3), log_mean),
    "rws": (RWS(6), log_mean),
}


class TestBounds:
    @pytest.mark.parametrize("name", BOUNDS)
    def test_each_bound_is_the_evidence_at_the_exact_posterior(self, name: str) -> None:
        pair = LinearGaussian().with_exact_posterior()
        x = pair.data(7)
        loss = BOUNDS[name][0].loss(pair.model, pair.guide, x).loss
        torch.testing.assert_close(-loss, pair.log_marginal(x).mean().detach(), rtol=0, atol=1e-9)

    @pytest.mark.parametrize("name", BOUNDS)
    def test_values_match_the_formula_on_the_same_noise(self, name: str) -> None:
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
    def test_gradients_match_the_formula(self, name: str) -> None:
        objective, formula = BOUNDS[name]
        pair = LinearGaussian()
        x = pair.data(5)
        got = gradients_of(pair, objective, x)
        torch.manual_seed(1)
        log_likelihood, log_prior, log_q = pair.terms(x, 6)
        loss = -formula(log_likelihood + log_prior - log_q).mean()
        want = torch.autograd.grad(loss, [p for _, p in named_parameters(pair)])
        for (parameter, _), each in zip(named_parameters(pair), want, strict=True):
            torch.testing.assert_close(got[parameter], each, rtol=0, atol=1e-9)

    def test_iwae_rises_with_samples_and_stays_below_the_evidence(self) -> None:
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
    def test_path_gradients_vanish_at_the_exact_posterior(self) -> None:
        pair = LinearGaussian().with_exact_posterior()
        x = pair.data(6)
        for objective in (StickingTheLanding(), StickingTheLanding(5), DReG(5)):
            got = gradients_of(pair, objective, x)
            for name in ("slope", "offset", "raw"):
                assert got[name].abs().max() < 1e-12
        assert gradients_of(pair, IWAE(5), x)["offset"].abs().max() > 1e-3

    @pytest.mark.parametrize("objective", [StickingTheLanding(), DReG(8)])
    def test_path_gradients_are_unbiased(self, objective: Objective) -> None:
        reference = IWAE(objective.num_particles)
        got, want = estimates(objective), estimates(reference)
        assert_unbiased(got - want, torch.zeros(4))
        near = LinearGaussian().with_exact_posterior()
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

    def test_piwae_trains_model_and_guide_on_two_bounds(self) -> None:
        pair = LinearGaussian()
        x = pair.data(5)
        got = gradients_of(pair, PIWAE(6, 3), x)
        for names, objective in (
            (("weight", "bias", "centre"), IWAE(6)),
            (("slope", "offset", "raw"), MIWAE(6, 3)),
        ):
            want = gradients_of(pair, objective, x)
            for name in names:
                torch.testing.assert_close(got[name], want[name], rtol=0, atol=1e-9)

    def test_rws_gradients_match_the_formula(self) -> None:
        pair = LinearGaussian()
        x = pair.data(5)
        got = gradients_of(pair, RWS(6), x)
        want = gradients_of(pair, IWAE(6), x)
        for name in ("weight", "bias", "centre"):
            torch.testing.assert_close(got[name], want[name], rtol=0, atol=1e-9)
        torch.manual_seed(1)
        loc, scale = x @ pair.slope.T + pair.offset, softplus(pair.raw)
        with torch.no_grad():
            z = loc + scale * torch.randn(6, 5, 2)
        torch.manual_seed(1)
        weights = sum(t * s for t, s in zip(pair.terms(x, 6), (1, 1, -1), strict=True)).softmax(0)
        log_q = dist.Normal(loc, scale).log_prob(z).sum(-1)
        (want_raw,) = torch.autograd.grad(-(weights.detach() * log_q).sum(0).mean(), pair.raw)
        torch.testing.assert_close(got["raw"], want_raw, rtol=0, atol=1e-9)

    def test_wake_sleep_gradients_match_the_formula(self) -> None:
        pair = LinearGaussian()
        x = pair.data(5)
        got = gradients_of(pair, WakeSleep(), x)
        torch.manual_seed(1)
        loc, scale = x @ pair.slope.T + pair.offset, softplus(pair.raw)
        z = (loc + scale * torch.randn(5, 2)).detach()
        wake = dist.Normal(z @ pair.weight.T + pair.bias, NOISE).log_prob(x).sum(-1).mean()
        wake = wake + dist.Normal(pair.centre, 1.0).log_prob(z).sum(-1).mean()
        latents = (pair.centre + torch.randn(5, 2)).detach()
        data = (latents @ pair.weight.T + pair.bias + NOISE * torch.randn(5, 4)).detach()
        q = dist.Normal(data @ pair.slope.T + pair.offset, softplus(pair.raw))
        sleep = q.log_prob(latents).sum(-1).mean()
        parameters = [p for _, p in named_parameters(pair)]
        want = torch.autograd.grad(-wake - sleep, parameters)
        for (name, _), each in zip(named_parameters(pair), want, strict=True):
            torch.testing.assert_close(got[name], each, rtol=0, atol=1e-9)
        with pytest.raises(InputError, match="at 'x' a value that is none of its arguments"):
            WakeSleep().loss_and_grads(lambda x: pair.model(x + 0), pair.guide, x)

    def test_differentiable_loss_has_the_value_and_the_gradient(self) -> None:
        pair = LinearGaussian()
        x = pair.data(5)
        for objective in (DReG(4), RWS(4), BetaELBO(2.0)):
            want = gradients_of(pair, objective, x)
            torch.manual_seed(1)
            loss = objective.differentiable_loss(pair.model, pair.guide, x)
            pair.zero_grad()
            loss.backward()
            for name, parameter in named_parameters(pair):
                torch.testing.assert_close(parameter.grad, want[name])


def sum_of_bounds(model: Any, guide: Any, x: Tensor) -> tuple[float, float]:
    """The bound of 2,000 samples, summed over the batch, and its standard error."""
    objective = IWAE(2000)
    terms = objective._terms(model, guide, (x,), {})
    variance = (terms.log_weight.softmax(0).square().sum(0) - 1 / 2000).sum()
    return float(objective.value(terms).sum().detach()), float(variance.detach().sqrt())


class TestWherePyroIsWrong:
    """Pairs for which Pyro's ``RenyiELBO`` is not the importance-weighted bound, but IWAE is."""

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
