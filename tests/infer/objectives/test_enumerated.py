"""Enumerated latents against Pyro's TraceEnum_ELBO, closed forms and quadrature."""

from typing import Any

import pyro
import pyro.distributions as dist
import pytest
import torch
from pyro.infer import Trace_ELBO, TraceEnum_ELBO, config_enumerate
from torch import Tensor, nn
from torch.nn.functional import one_hot

from pyrovae.infer import EnumeratedELBO
from tests.infer.objectives.enumerable import PARALLEL, Discrete, Gaussians, X
from tests.pairs import assert_unbiased

pytestmark = pytest.mark.usefixtures("float64")
MANY = X.repeat(30)


class TestDiscreteLatentsAlone:
    @pytest.mark.parametrize("rows", [False, True])
    @pytest.mark.parametrize("num_particles", [1, 3])
    def test_value_and_gradients_match_pyro(self, rows: bool, num_particles: int) -> None:
        objective = EnumeratedELBO(num_particles)
        pair = Discrete(rows=rows)
        got = pair.step(objective, X)
        pyros = Discrete().step(TraceEnum_ELBO(max_plate_nesting=1), X)
        torch.testing.assert_close(got, pyros, rtol=0, atol=1e-12)
        particles = objective._particles
        assert particles is not None
        assert particles.layout.num == 6 * num_particles
        assert particles.layout.uses_plate is not rows

    def test_reported_terms_are_weighted_by_q(self) -> None:
        pair = Discrete()
        joint = torch.zeros(3, 2, len(X))
        log_q, log_prior, log_likelihood = joint.clone(), joint.clone(), joint.clone()
        q_of_y = (X[:, None] * pair.slope).log_softmax(-1)
        for y in range(3):
            for b in range(2):
                of_b = dist.Bernoulli(logits=pair.q_of_b[y] + X).log_prob(torch.tensor(float(b)))
                log_q[y, b] = q_of_y[:, y] + of_b
                prior_of_b = dist.Bernoulli(logits=pair.of_b[y]).log_prob(torch.tensor(float(b)))
                log_prior[y, b] = pair.logits.log_softmax(0)[y] + prior_of_b
                log_likelihood[y, b] = dist.Normal(pair.loc[y, b], 0.7).log_prob(X)
        reconstruction = -(log_q.exp() * log_likelihood).sum((0, 1)).mean()
        kl = (log_q.exp() * (log_q - log_prior)).sum((0, 1)).mean()
        for got in (
            EnumeratedELBO().loss(pair.model, pair.guide, X),
            EnumeratedELBO().loss_and_grads(pair.model, pair.guide, X),
        ):
            want = torch.stack([reconstruction + kl, reconstruction, kl]).detach()
            torch.testing.assert_close(torch.stack(got), want)

    def test_it_is_the_evidence_at_the_exact_posterior(self) -> None:
        loc, log_pi = torch.tensor([-1.0, 0.0, 2.0]), torch.tensor([0.2, 0.5, 0.3]).log()
        offset = nn.Parameter(torch.zeros(3))

        def joint(x: Tensor) -> Tensor:
            return log_pi + dist.Normal(loc, 0.5).log_prob(x[:, None])

        def model(x: Tensor) -> None:
            with pyro.plate("data", len(x)):
                y = pyro.sample("y", dist.Categorical(logits=log_pi))
                pyro.sample("x", dist.Normal(loc[y], 0.5), obs=x)

        def guide(x: Tensor) -> None:
            pyro.param("offset", offset)
            with pyro.plate("data", len(x)):
                q = dist.Categorical(logits=joint(x) + offset)
                pyro.sample("y", q, infer=PARALLEL)

        objective = EnumeratedELBO()
        values = objective.value(objective._terms(model, guide, (X,), {}))
        torch.testing.assert_close(values, joint(X).logsumexp(1), rtol=0, atol=1e-12)
        objective.loss_and_grads(model, guide, X)
        assert offset.grad is not None
        assert offset.grad.abs().max() < 1e-12

    def test_one_hot_latents_are_summed_over_classes(self) -> None:
        pair = Discrete()

        def model(x: Tensor) -> None:
            with pyro.plate("data", len(x)):
                y = pyro.sample("y", dist.OneHotCategorical(logits=pair.logits))
                pyro.sample("x", dist.Normal(y @ pair.loc[:, 0], 0.7), obs=x)

        def guide(x: Tensor) -> None:
            with pyro.plate("data", len(x)):
                q = dist.OneHotCategorical(logits=x[:, None] * pair.slope)
                pyro.sample("y", q, infer=PARALLEL)

        q = (X[:, None] * pair.slope).softmax(-1)
        log_p = pair.logits.log_softmax(0) + dist.Normal(pair.loc[:, 0], 0.7).log_prob(X[:, None])
        got = EnumeratedELBO().loss(model, guide, X).loss
        torch.testing.assert_close(got, (q * (q.log() - log_p)).sum(1).mean().detach())

    def test_a_value_of_probability_zero_contributes_nothing(self) -> None:
        logits = nn.Parameter(torch.tensor([0.3, -0.2, -torch.inf]))

        def model(x: Tensor) -> None:
            with pyro.plate("data", len(x)):
                y = pyro.sample("y", dist.Categorical(torch.ones(3)))
                pyro.sample("x", dist.Normal(y, 1.0), obs=x)

        def guide(x: Tensor) -> None:
            pyro.param("logits", logits)
            with pyro.plate("data", len(x)):
                pyro.sample("y", dist.Categorical(logits=logits.expand(len(x), 3)), infer=PARALLEL)

        got = EnumeratedELBO().loss_and_grads(model, guide, X).loss
        q = logits.detach()[:2].softmax(0)
        log_p = dist.Normal(torch.arange(2.0), 1.0).log_prob(X[:, None]) - torch.tensor(3.0).log()
        torch.testing.assert_close(got, (q * (q.log() - log_p)).sum(1).mean())
        assert logits.grad is not None
        assert logits.grad.isfinite().all()

    def test_a_subsampled_plate_gives_the_same_bound(self) -> None:
        x = torch.full((12,), 0.7)  # equal data, so any subsample will do
        got = Discrete(subsample=4).step(EnumeratedELBO(), x)
        torch.testing.assert_close(got, Discrete().step(EnumeratedELBO(), x), rtol=0, atol=1e-12)

    def test_config_enumerate_marks_sites(self) -> None:
        pair = Discrete()

        def guide(x: Tensor) -> None:
            with pyro.plate("data", len(x)):
                y = pyro.sample("y", dist.Categorical(logits=x[:, None] * pair.slope))
                pyro.sample("b", dist.Bernoulli(logits=pair.q_of_b[y] + x))

        got = EnumeratedELBO().loss(pair.model, config_enumerate(guide), X)
        torch.testing.assert_close(got, EnumeratedELBO().loss(pair.model, pair.guide, X))


class TestContinuousLatents:
    """Values and gradients against quadrature."""

    @pytest.mark.parametrize("before", [False, True])
    @pytest.mark.parametrize(("rows", "num_particles"), [(False, 1), (False, 3), (True, 2)])
    def test_continuous_latents_drawn_after_or_before(
        self, before: bool, rows: bool, num_particles: int
    ) -> None:
        pair = Gaussians(before, rows=rows)
        got = pair.estimates(EnumeratedELBO(num_particles), MANY)
        assert_unbiased(got, pair.truth(X))

    def test_pyro_has_the_same_mean(self) -> None:
        pair = Gaussians()
        got = pair.estimates(TraceEnum_ELBO(max_plate_nesting=1), MANY)
        assert_unbiased(got, pair.truth(X))

    def test_more_draws_lower_the_variance(self) -> None:
        pair = Gaussians()
        x = X[1].expand(2000)

        def variance(num: int) -> Tensor:
            objective = EnumeratedELBO(num)
            values = objective.value(objective._terms(pair.model, pair.guide, (x,), {}))
            return values.detach().var()

        # The variance of 2000 light-tailed values has a relative error of about 0.05.
        assert variance(1) / variance(8) == pytest.approx(8, rel=0.3)

    def test_values_share_the_draws_of_earlier_sites(self) -> None:
        """With p(y | z) itself, log p(x, y, z) - log q(y, z | x) does not depend on y."""
        pair = Gaussians(before=True, exact=True)
        terms = EnumeratedELBO(3)._terms(pair.model, pair.guide, (X,), {})
        by_value = terms.log_weight.unflatten(0, (3, 2))
        torch.testing.assert_close(by_value[:, 0], by_value[:, 1], rtol=0, atol=1e-12)
        assert (by_value[0, 0] != by_value[1, 0]).all()

    @pytest.mark.filterwarnings("ignore:y\n")  # Pyro warns that it does not enumerate here
    def test_gradients_vary_less_than_score_function_gradients(self) -> None:
        pair = Gaussians()
        ours, pyros = (pair.estimates(each, X).var(0) for each in (EnumeratedELBO(), Trace_ELBO()))
        assert (ours[5:7] < 0.2 * pyros[5:7]).all()  # the slope, the parameter of q(y | x)


@pytest.mark.parametrize("rows", [False, True])
def test_shared_latents_match_pyro(rows: bool) -> None:
    loc = nn.Parameter(torch.tensor(0.3))

    class Shared(Discrete):
        def __init__(self, **options: Any) -> None:
            super().__init__(**options)
            self.of_shift = loc

        def model(self, x: Tensor) -> None:
            shift = pyro.sample("shift", dist.Normal(0.0, 1.0))
            with self.plate(x):
                y = pyro.sample("y", dist.Categorical(logits=self.logits))
                self.check(y)
                pyro.sample("x", dist.Normal(self.loc[y, 0] + shift, 0.7), obs=x)

        def guide(self, x: Tensor) -> None:
            pyro.sample("shift", dist.Normal(self.of_shift, 0.5))
            with self.plate(x):
                q = dist.Categorical(logits=x[:, None] * self.slope)
                pyro.sample("y", q, infer=PARALLEL)

    pair = Shared(rows=rows)
    torch.manual_seed(1)
    loss = EnumeratedELBO().loss(pair.model, pair.guide, X)
    torch.manual_seed(1)
    shift = loc + 0.5 * torch.randn(1)
    log_q = (X[:, None] * pair.slope).log_softmax(1)
    log_p = pair.logits.log_softmax(0)
    log_likelihood = dist.Normal(pair.loc[:, 0] + shift, 0.7).log_prob(X[:, None])
    kl = (log_q.exp() * (log_q - log_p)).sum(1).mean()
    of_shift = dist.Normal(loc, 0.5).log_prob(shift) - dist.Normal(0.0, 1.0).log_prob(shift)
    kl = (kl + of_shift.squeeze() / len(X)).detach()
    reconstruction = -(log_q.exp() * log_likelihood).sum(1).mean().detach()
    torch.testing.assert_close(loss.kl, kl)
    torch.testing.assert_close(loss.reconstruction, reconstruction)
    torch.testing.assert_close(loss.loss, reconstruction + kl)

    got = pair.estimates(EnumeratedELBO(2), X)
    pyros = Shared().estimates(TraceEnum_ELBO(max_plate_nesting=1), X).flip(0)
    assert_unbiased(got - pyros, torch.zeros(got.shape[1]))


@pytest.mark.parametrize("rows", [False, True])
def test_partly_observed_labels(rows: bool) -> None:
    pair = Discrete(rows=rows)
    labels = torch.tensor([0, -1, 2, 1, -1, -1, 0])

    def model(x: Tensor, y: Tensor) -> None:
        with pyro.plate("data", len(x)):
            prior = dist.Categorical(logits=pair.logits)
            y = pyro.sample("y", prior, obs=y.clamp(min=0), obs_mask=y >= 0)
            pair.check(y)
            pyro.sample("x", dist.Normal(pair.loc[y, 0], 0.7), obs=x)

    def guide(x: Tensor, y: Tensor) -> None:
        q = dist.Categorical(logits=x[:, None] * pair.slope).mask(y < 0)
        with pyro.plate("data", len(x)):
            pyro.sample("y_unobserved", q, infer=PARALLEL)

    objective = EnumeratedELBO()
    values = objective.value(objective._terms(model, guide, (X, labels), {}))
    log_p = pair.logits.log_softmax(0) + dist.Normal(pair.loc[:, 0], 0.7).log_prob(X[:, None])
    q = (X[:, None] * pair.slope).softmax(1)
    unlabelled = (q * (log_p - q.log())).sum(1)
    labelled = (log_p * one_hot(labels.clamp(min=0), 3)).sum(1)
    want = torch.where(labels < 0, unlabelled, labelled)
    torch.testing.assert_close(values, want, rtol=0, atol=1e-12)
    got, exact = (torch.autograd.grad(v.sum(), pair.slope)[0] for v in (values, want))
    torch.testing.assert_close(got, exact, rtol=0, atol=1e-12)


def test_networks_that_take_only_rows() -> None:
    """Batch normalisation takes the second dimension for channels, so rows are repeated."""
    network = nn.Sequential(nn.Linear(3, 4), nn.BatchNorm1d(4), nn.Linear(4, 1)).eval()
    with torch.no_grad():
        network[1].running_mean.copy_(torch.randn(4))
    slope = torch.tensor([0.3, -1.0, 0.4])

    def model(x: Tensor) -> None:
        with pyro.plate("data", len(x)):
            y = pyro.sample("y", dist.OneHotCategorical(torch.ones(3)))
            pyro.sample("x", dist.Normal(network(y)[..., 0], 1.0), obs=x)

    def guide(x: Tensor) -> None:
        with pyro.plate("data", len(x)):
            pyro.sample("y", dist.OneHotCategorical(logits=x[:, None] * slope), infer=PARALLEL)

    objective = EnumeratedELBO()
    got = objective.loss(model, guide, X).loss
    assert objective._particles is not None
    assert not objective._particles.layout.uses_plate
    q = (X[:, None] * slope).softmax(1)
    log_p = dist.Normal(network(torch.eye(3))[:, 0], 1.0).log_prob(X[:, None])
    log_p = log_p - torch.tensor(3.0).log()
    torch.testing.assert_close(got, (q * (q.log() - log_p)).sum(1).mean().detach())
