"""The Bayesian mixture in Pyro: its density, its transform, SVI and NUTS."""

import pyro
import pytest
import torch

from pyrovae import InputError
from pyrovae.gmm import (
    BayesianMixtureModel,
    Mixture,
    Prior,
    bayesian_svi,
    coordinate_ascent,
    nuts,
    record,
    toy,
)
from pyrovae.gmm.bayesian.program import BayesianGuide, _FromVector, make_mixture

from ..data import TYPES, start

X = toy(100)[0]


@pytest.mark.parametrize("kind", TYPES)
def test_model_has_the_likelihood_of_the_mixture_that_it_draws(kind):
    prior = Prior.of(X, 3, kind)
    model = BayesianMixtureModel(prior, 3, marginalised=True)
    trace = pyro.poutine.trace(model).get_trace(X)
    trace.compute_log_prob()
    values = {name: trace.nodes[name]["value"] for name in ("weights", "loc", "precision")}
    mixture = make_mixture(values["weights"], values["loc"], values["precision"], kind)
    torch.testing.assert_close(trace.nodes["x"]["log_prob_sum"], mixture.log_prob(X).sum())


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["full", "spherical"])
def test_svi_ends_near_coordinate_ascent(kind):
    """Both maximise the same bound, and SVI closes more than 95 % of the distance."""
    x, first = toy(400)[0], start("toy", kind)
    prior = Prior.of(x, 3, kind)
    best = record(coordinate_ascent(x, first, prior, max_iter=2000, tol=1e-12), x)
    climb = record(bayesian_svi(x, first, prior, num_steps=600), x)
    assert climb.elbo[-1] - best.elbo[-1] < 1e-9
    assert best.elbo[-1] - climb.elbo[-1] < 0.05 * (best.elbo[-1] - climb.elbo[0])
    assert not dict(pyro.get_param_store())


def test_transform_to_positive_definite_matrices_has_the_right_jacobian():
    transform = _FromVector()
    v = torch.randn(4, 6, generator=torch.Generator().manual_seed(0)).double()
    matrices = transform(v)
    assert (torch.linalg.eigvalsh(matrices) > 0).all()
    torch.testing.assert_close(transform.inv(matrices), v)
    rows, columns = torch.tril_indices(3, 3)
    for one in v:
        jacobian = torch.autograd.functional.jacobian(lambda u: transform(u)[rows, columns], one)
        log_det = transform.log_abs_det_jacobian(one, transform(one))
        torch.testing.assert_close(log_det, torch.linalg.slogdet(jacobian).logabsdet)


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["full", "spherical"])
def test_nuts_draws_from_the_exact_posterior_of_one_component(kind):
    prior = Prior.of(X, 1, kind)
    exact = record(coordinate_ascent(X, start("toy", kind, 1), prior), X).last.posterior
    steps = []
    draws = nuts(
        X,
        exact.mean,
        prior,
        num_draws=300,
        num_warmup=150,
        on_step=lambda: steps.append(1),
    )
    assert len(steps) == 450
    assert draws.num_divergent == 0
    locs = torch.stack([mixture.locs[0] for mixture in draws.mixtures])
    # Draws of NUTS are nearly uncorrelated here; counting half of them is conservative.
    error = locs.std(0) / 150**0.5
    assert ((locs.mean(0) - exact.locs[0]).abs() < 4.5 * error).all()
    log_det = torch.stack([-torch.logdet(mixture.matrices[0]) for mixture in draws.mixtures])
    error = log_det.std() / 150**0.5
    assert (log_det.mean() - exact.expected_log_det()[0]).abs() < 4.5 * error
    density = torch.stack([mixture.log_prob(X).exp() for mixture in draws.mixtures])
    error = density.std(0) / 150**0.5
    assert ((density.mean(0) - exact.predictive(X).exp()).abs() < 4.5 * error).all()


def test_nuts_repeats_with_the_seed_and_leaves_torch_state_unchanged():
    prior, first = Prior.of(X, 3, "spherical"), start("toy", "spherical")
    before = torch.get_rng_state()
    runs = [nuts(X, first, prior, num_draws=4, num_warmup=3, seed=s) for s in (0, 0, 1)]
    assert torch.equal(before, torch.get_rng_state())
    locs = [run.mixtures[-1].locs for run in runs]
    assert torch.equal(locs[0], locs[1])
    assert not torch.equal(locs[0], locs[2])


@pytest.mark.slow
def test_nuts_and_variational_bayes_have_the_same_predictive_density():
    """If components are far apart, q(z) q(theta) is nearly the posterior."""
    truth = Mixture.of([0.4, 0.6], [[0.0, 0.0], [12.0, 0.0]], [[1.0, 2.0], [0.5, 1.0]], "diag")
    x = truth.sample(150, torch.Generator().manual_seed(0))[0]
    held_out = truth.sample(300, torch.Generator().manual_seed(1))[0]
    prior = Prior.of(x, 2, "diag")
    climb = record(coordinate_ascent(x, truth, prior), x)
    draws = nuts(x, climb.last.mixture, prior, num_draws=200, num_warmup=100)
    assert draws.num_divergent == 0
    drawn = torch.stack([mixture.log_prob(held_out).exp() for mixture in draws.mixtures])
    ours = climb.last.posterior.predictive(held_out).exp()
    error = drawn.std(0) / 50**0.5  # counting a quarter of the draws
    assert ((drawn.mean(0) - ours).abs() < 4.5 * error).all()
    assert draws.predictive(held_out).isfinite().all()


def test_a_chain_without_draws_is_refused():
    with pytest.raises(InputError, match="num_draws is 0; it must be 4 or more"):
        nuts(X, start("toy", "full"), Prior.of(X, 3), num_draws=0)


@pytest.mark.parametrize("kind", TYPES)
def test_the_guide_starts_at_the_posterior_that_it_is_given(kind):
    climb = coordinate_ascent(X, start("toy", kind), Prior.of(X, 3, kind))
    state = [state for _, state in zip(range(3), climb, strict=False)][-1]
    guide = BayesianGuide(state.posterior, state.log_q)
    for name in ("concentration", "locs", "precision", "df", "scatter"):
        torch.testing.assert_close(
            getattr(guide.posterior(), name).detach(), getattr(state.posterior, name)
        )
    torch.testing.assert_close(guide.log_q().detach(), state.log_q)


def test_one_component_is_a_normal_with_its_prior():
    model = BayesianMixtureModel(Prior.of(X, 1, "full"), 1, marginalised=True)
    trace = pyro.poutine.trace(model).get_trace(X)
    trace.compute_log_prob()
    assert trace.log_prob_sum().isfinite()


@pytest.mark.parametrize("kind", ["full", "tied"])
def test_degrees_of_freedom_stay_above_their_limit(kind):
    """However far an optimiser goes: a Wishart variable needs df > d - 1."""
    climb = coordinate_ascent(X, start("toy", kind), Prior.of(X, 3, kind))
    posterior = record(climb, X).last.posterior
    guide = BayesianGuide(posterior, torch.zeros(len(X), 3))
    with torch.no_grad():
        guide.log_df.fill_(-30.0)
    assert bool((guide.posterior().df >= X.shape[1] - 1).all())
