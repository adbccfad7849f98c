"""Enumerated latents against Pyro's TraceEnum_ELBO, closed forms and quadrature."""

import copy
from collections.abc import Callable
from contextlib import nullcontext
from functools import partial
from typing import Any

import pyro
import pyro.distributions as dist
import pytest
import torch
from numpy.polynomial.hermite_e import hermegauss
from pyro.infer import Trace_ELBO, TraceEnum_ELBO, config_enumerate
from torch import Tensor, nn
from torch.nn.functional import one_hot

from pyrovae import SVI, InputError, evaluate, fit
from pyrovae.infer import EnumeratedELBO, objective_of
from tests.pairs import assert_unbiased

pytestmark = pytest.mark.usefixtures("float64")

PARALLEL = {"enumerate": "parallel"}
X = torch.linspace(-2.0, 2.0, 7, dtype=torch.float64)
MANY = X.repeat(30)


class Pair(nn.Module):
    """What the pairs here have in common: a plate over data, and whether rows are expected."""

    def __init__(self, rows: bool = False, subsample: int | None = None) -> None:
        super().__init__()
        self.rows, self.subsample = rows, subsample

    def plate(self, x: Tensor) -> Any:
        return pyro.plate("data", len(x), subsample_size=self.subsample)

    def check(self, y: Tensor) -> None:
        if self.rows and y.dim() > 1:
            raise RuntimeError("rows are expected")

    def estimates(self, objective: Any, x: Tensor, num: int = 40) -> Tensor:
        """Rows of value and gradients, over seeds."""
        found = []
        for seed in range(num):
            torch.manual_seed(seed)
            found.append(self.step(objective, x))
        return torch.stack(found)

    def step(self, objective: Any, x: Tensor) -> Tensor:
        """The loss per datum, and its gradient in all parameters."""
        loss = objective.differentiable_loss(self.model, self.guide, x)
        if not isinstance(objective, EnumeratedELBO):
            loss = loss / len(x)
        gradients = torch.autograd.grad(loss, list(self.parameters()), materialize_grads=True)
        return torch.cat([loss.detach().reshape(1), *(each.flatten() for each in gradients)])


class Discrete(Pair):
    """y of three, b given y; x given both. q(y | x) q(b | x, y)."""

    def __init__(self, **options: Any) -> None:
        super().__init__(**options)
        generator = torch.Generator().manual_seed(5)
        self.logits = nn.Parameter(torch.randn(3, generator=generator))
        self.of_b = nn.Parameter(torch.randn(3, generator=generator))
        self.loc = nn.Parameter(torch.randn(3, 2, generator=generator))
        self.slope = nn.Parameter(torch.randn(3, generator=generator))
        self.q_of_b = nn.Parameter(torch.randn(3, generator=generator))

    def model(self, x: Tensor) -> None:
        with self.plate(x) as index:
            y = pyro.sample("y", dist.Categorical(logits=self.logits))
            self.check(y)
            b = pyro.sample("b", dist.Bernoulli(logits=self.of_b[y]))
            pyro.sample("x", dist.Normal(self.loc[y, b.long()], 0.7), obs=x[index])

    def guide(self, x: Tensor) -> None:
        with self.plate(x) as index:
            logits = x[index][:, None] * self.slope
            y = pyro.sample("y", dist.Categorical(logits=logits), infer=PARALLEL)
            b = dist.Bernoulli(logits=self.q_of_b[y] + x[index])
            pyro.sample("b", b, infer=PARALLEL)


class Gaussians(Pair):
    """y of two, z ~ N(mu_y, 1), x ~ N(z, 0.8); z is drawn after y, or before it."""

    def __init__(self, before: bool = False, exact: bool = False, **options: Any) -> None:
        super().__init__(**options)
        self.before, self.exact = before, exact
        self.mu = nn.Parameter(torch.tensor([-1.0, 1.5]))
        self.logits = nn.Parameter(torch.tensor([0.2, -0.3]))
        self.slope = nn.Parameter(torch.tensor([0.4, -0.5]))
        self.weight = nn.Parameter(torch.tensor([0.5, 0.7]))

    def model(self, x: Tensor) -> None:
        with self.plate(x):
            y = pyro.sample("y", dist.Categorical(logits=self.logits))
            self.check(y)
            z = pyro.sample("z", dist.Normal(self.mu[y], 1.0))
            pyro.sample("x", dist.Normal(z, 0.8), obs=x)

    def guide(self, x: Tensor) -> None:
        with self.plate(x):
            if self.before:
                z = pyro.sample("z", dist.Normal(self.weight[0] * x, 0.6))
                pyro.sample("y", self.q_given(z), infer=PARALLEL)
            else:
                y = pyro.sample("y", self.q_given(x), infer=PARALLEL)
                pyro.sample("z", dist.Normal(self.weight[y] * x, 0.6))

    def q_given(self, x: Tensor) -> Any:
        if self.exact:
            log_prob = dist.Normal(self.mu, 1.0).log_prob(x[..., None])
            return dist.Categorical(logits=self.logits + log_prob)
        return dist.Categorical(logits=x[..., None] * self.slope)

    def truth(self, x: Tensor) -> Tensor:
        """Minus the ELBO per datum and its gradient, by quadrature over z."""
        nodes, weights = (torch.from_numpy(each) for each in hermegauss(60))
        log_pi = self.logits.log_softmax(0)
        total = torch.zeros(())
        for y in range(2):
            q = dist.Normal(self.weight[0 if self.before else y] * x, 0.6)
            z = q.mean + q.stddev * nodes[:, None]
            log_q_of_y = self.q_given(z if self.before else x).logits.log_softmax(-1)[..., y]
            log_p = log_pi[y] + dist.Normal(self.mu[y], 1.0).log_prob(z)
            log_p = log_p + dist.Normal(z, 0.8).log_prob(x)
            of_nodes = log_q_of_y.exp() * (log_p - log_q_of_y - q.log_prob(z))
            total = total - (weights[:, None] * of_nodes).sum() / weights.sum() / len(x)
        gradients = torch.autograd.grad(total, list(self.parameters()))
        return torch.cat([total.detach().reshape(1), *(g.flatten() for g in gradients)])


class TestDiscreteLatentsAlone:
    @pytest.mark.parametrize("rows", [False, True])
    @pytest.mark.parametrize("num_particles", [1, 3])
    def test_value_and_gradients_are_those_of_pyro(self, rows: bool, num_particles: int) -> None:
        objective = EnumeratedELBO(num_particles)
        pair = Discrete(rows=rows)
        got = pair.step(objective, X)
        pyros = Discrete().step(TraceEnum_ELBO(max_plate_nesting=1), X)
        torch.testing.assert_close(got, pyros, rtol=0, atol=1e-12)
        particles = objective._particles
        assert particles is not None
        assert particles.layout.num == 6 * num_particles
        assert particles.layout.uses_plate is not rows

    def test_reported_terms_are_weighted(self) -> None:
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

    def test_with_the_posterior_it_is_the_evidence(self) -> None:
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

    def test_one_hot_values_are_classes(self) -> None:
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

    def test_a_value_without_probability_counts_nothing(self) -> None:
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

    def test_a_subsampled_plate(self) -> None:
        x = torch.full((12,), 0.7)  # whichever are drawn
        got = Discrete(subsample=4).step(EnumeratedELBO(), x)
        torch.testing.assert_close(got, Discrete().step(EnumeratedELBO(), x), rtol=0, atol=1e-12)

    def test_marks_of_pyros_decorator(self) -> None:
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
    def test_drawn_after_or_before(self, before: bool, rows: bool, num_particles: int) -> None:
        pair = Gaussians(before, rows=rows)
        got = pair.estimates(EnumeratedELBO(num_particles), MANY)
        assert_unbiased(got, pair.truth(X))

    def test_pyros_mean_is_the_same(self) -> None:
        pair = Gaussians()
        got = pair.estimates(TraceEnum_ELBO(max_plate_nesting=1), MANY)
        assert_unbiased(got, pair.truth(X))

    def test_more_draws_vary_less(self) -> None:
        pair = Gaussians()
        x = X[1].expand(2000)

        def variance(num: int) -> Tensor:
            objective = EnumeratedELBO(num)
            values = objective.value(objective._terms(pair.model, pair.guide, (x,), {}))
            return values.detach().var()

        # Of 2000 values a variance has a relative error of 0.05 or so, whose tails are light here.
        assert variance(1) / variance(8) == pytest.approx(8, rel=0.3)

    def test_what_is_drawn_before_is_shared_by_the_values(self) -> None:
        """With p(y | z) itself, log p(x, y, z) - log q(y, z | x) does not depend on y."""
        pair = Gaussians(before=True, exact=True)
        terms = EnumeratedELBO(3)._terms(pair.model, pair.guide, (X,), {})
        by_value = terms.log_weight.unflatten(0, (3, 2))
        torch.testing.assert_close(by_value[:, 0], by_value[:, 1], rtol=0, atol=1e-12)
        assert (by_value[0, 0] != by_value[1, 0]).all()

    @pytest.mark.filterwarnings("ignore:y\n")  # Pyro's, that it does not enumerate here
    def test_the_gradient_varies_less_than_that_of_the_score_function(self) -> None:
        pair = Gaussians()
        ours, pyros = (pair.estimates(each, X).var(0) for each in (EnumeratedELBO(), Trace_ELBO()))
        assert (ours[5:7] < 0.2 * pyros[5:7]).all()  # of the slope, the parameter of q(y | x)


@pytest.mark.parametrize("rows", [False, True])
def test_shared_latents(rows: bool) -> None:
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

    got = Shared(rows=rows).estimates(EnumeratedELBO(2), X)
    pyros = Shared().estimates(TraceEnum_ELBO(max_plate_nesting=1), X).flip(0)
    assert_unbiased(got - pyros, torch.zeros(got.shape[1]))


@pytest.mark.parametrize("rows", [False, True])
def test_labels_that_are_partly_observed(rows: bool) -> None:
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


def test_networks_that_take_rows_alone() -> None:
    """As batch normalisation does, whose layers take the second dimension for that of channels."""
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


class TestTraining:
    @pytest.mark.parametrize(
        ("make", "compiler"),
        [(Discrete, False), (partial(Gaussians, before=True), False), (Discrete, True)],
    )
    def test_recorded_and_compiled_steps(self, make: Callable[[], Pair], compiler: bool) -> None:
        ends = []
        for compile in (False, True):
            pair = make()
            adam = partial(torch.optim.Adam, lr=1e-2)
            svi = SVI(pair.model, pair.guide, adam, EnumeratedELBO(2), compile=compile)
            svi._gradients._can_compile = compiler
            torch.manual_seed(1)
            for _ in range(6):
                svi.step(torch.randn(9))
            held_out = svi.evaluate_loss(X)
            assert svi.num_graphs == ((1, int(compiler)) if compile else (0, 0))
            ends.append((dict(pair.named_parameters()), held_out))
        torch.testing.assert_close(*ends, rtol=1e-9, atol=1e-9)

    @pytest.mark.parametrize("rows", [False, True])
    def test_fit_finds_the_mixture(self, rows: bool) -> None:
        """q(y | x) is logistic in x, as the posterior is: the bound becomes log p(x)."""
        generator = torch.Generator().manual_seed(1)
        sides = torch.randint(2, (400,), generator=generator)
        x = 3.0 * sides - 1.5 + torch.randn(400, generator=generator)
        loc = nn.Parameter(torch.tensor([-0.3, 0.3]))
        q = nn.Linear(1, 1)

        def model(x: Tensor) -> None:
            pyro.param("loc", loc)
            with pyro.plate("data", len(x)):
                y = pyro.sample("y", dist.Bernoulli(0.5))
                if rows and y.dim() > 1:
                    raise RuntimeError("rows are expected")
                pyro.sample("x", dist.Normal(loc[y.long()], 1.0), obs=x)

        def guide(x: Tensor) -> None:
            pyro.module("q", q)
            with pyro.plate("data", len(x)):
                pyro.sample("y", dist.Bernoulli(logits=q(x[:, None])[:, 0]), infer=PARALLEL)

        history = fit(
            model,
            guide,
            x,
            validation=x,
            objective="enumerated",
            epochs=25,
            batch_size=150,
            lr=0.05,
            compile=False,
            progress=False,
        )
        with torch.no_grad():
            trained = history.params["loc"]
            joint = dist.Normal(trained, 1.0).log_prob(x[:, None]) - torch.tensor(2.0).log()
            gap = history["validation_loss"][-1] + joint.logsumexp(1).mean().item()
        assert 0 <= gap < 0.01
        assert trained.sort().values.tolist() == pytest.approx([-1.5, 1.5], abs=4.5 * 200**-0.5)
        # Drawn, not summed over: the same bound.
        drawn = evaluate(history.model, history.guide, x, num_particles=30).elbo.mean
        assert drawn == pytest.approx(-history["validation_loss"][-1], abs=0.05)

    def test_copies(self) -> None:
        pair, objective = Discrete(), objective_of({"name": "enumerated", "num_particles": 2})
        assert isinstance(objective, EnumeratedELBO)
        first = pair.step(objective, X)
        again, both = copy.deepcopy(pair), copy.deepcopy(objective)
        assert both.step == 1
        torch.testing.assert_close(again.step(both, X), first)
        other = Gaussians()
        torch.testing.assert_close(
            objective.loss(other.model, other.guide, X).reconstruction.shape, torch.Size([])
        )


def _guide(**sites: Any) -> Callable[[Tensor], None]:
    def guide(x: Tensor) -> None:
        plate = pyro.plate("data", len(x))
        for name, (fn, infer, inside) in sites.items():
            with plate if inside else nullcontext():
                pyro.sample(name, fn, infer=infer)

    return guide


_COIN = dist.Bernoulli(0.5)


@pytest.mark.parametrize(
    ("guide", "message"),
    [
        (_guide(y=(_COIN, {}, True)), "the guide marks none"),
        (_guide(y=(_COIN, PARALLEL, False)), "'y' .* outside of plate 'data'"),
        (_guide(y=(dist.Poisson(1.0), PARALLEL, True)), "support of Poisson is no list"),
        (_guide(y=(_COIN, PARALLEL, True), b=(_COIN, {}, True)), "'b' .* is not marked"),
        (_guide(**{f"y{i}": (_COIN, PARALLEL, True) for i in range(13)}), "8192 joint values"),
        (
            _guide(y=(dist.OneHotCategoricalStraightThrough(torch.ones(2)), PARALLEL, True)),
            "use OneHotCategorical",
        ),
        (_guide(y=(dist.Bernoulli(torch.ones(3) / 2).to_event(1), PARALLEL, False)), "outside"),
        (_guide(y=(_COIN, PARALLEL, True), more=(_COIN, PARALLEL, True)), "no latent of the model"),
    ],
)
def test_what_cannot_be_summed_over(guide: Any, message: str) -> None:
    def model(x: Tensor) -> None:
        with pyro.plate("data", len(x)):
            y = pyro.sample("y", _COIN)
            pyro.sample("x", dist.Normal(y, 1.0), obs=x)

    with pytest.raises(InputError, match=message):
        EnumeratedELBO().loss(model, guide, X)


def test_several_of_a_datum_are_refused() -> None:
    def guide(x: Tensor) -> None:
        with pyro.plate("data", len(x), dim=-1), pyro.plate("words", 3, dim=-2):
            pyro.sample("y", dist.Bernoulli(0.5), infer=PARALLEL)

    with pytest.raises(InputError, match=r"'y' .* in plate 'words' too"):
        EnumeratedELBO().loss(guide, guide, X)


def test_a_support_that_grows_is_refused() -> None:
    def model(x: Tensor, size: int) -> None:
        with pyro.plate("data", len(x)):
            y = pyro.sample("y", dist.Categorical(torch.ones(size)))
            pyro.sample("x", dist.Normal(y, 1.0), obs=x)

    def guide(x: Tensor, size: int) -> None:
        with pyro.plate("data", len(x)):
            pyro.sample("y", dist.Categorical(torch.ones(size)), infer=PARALLEL)

    objective = EnumeratedELBO()
    objective.loss(model, guide, X, 3)
    with pytest.raises(InputError, match="'y' of the guide has 5 values now"):
        objective.loss(model, guide, X, 5)
