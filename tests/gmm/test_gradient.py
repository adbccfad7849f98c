"""VI by gradients: the identity at every step, the optimum, and the variance of gradients."""

from functools import cache

import numpy as np
import pyro
import pytest
import torch
from pyro.infer import SVI, TraceEnum_ELBO
from pyro.poutine import block

from pyrovae import InputError
from pyrovae.gmm import (
    AmortisedGuide,
    Climb,
    FreeGuide,
    MixtureModel,
    amortised_vi,
    em,
    floor_of,
    free_vi,
    record,
    toy,
)
from pyrovae.gmm.gradient import Program

from .data import TYPES, points, random_mixture, start

X = toy(150)[0]
FLOOR = floor_of(X, 1e-6)


@cache
def em_climb() -> Climb:
    """EM on X from the shared start, run to convergence."""
    return record(em(X, start("toy", "full"), FLOOR, max_iter=2000, tol=1e-12), X)


def assert_identity(climb: Climb) -> None:
    total = np.array(climb.elbo) + np.array(climb.kl)
    np.testing.assert_allclose(climb.log_likelihood, total, rtol=0, atol=1e-9)
    assert min(climb.kl) > -1e-12


@pytest.mark.slow
def test_free_vi_ends_at_the_optimum_of_em():
    climb = record(free_vi(X, start("toy", "full"), FLOOR), X)
    assert_identity(climb)
    assert climb.kl[0] < 1e-9
    assert em_climb().log_likelihood[-1] - climb.elbo[-1] < 1e-6
    ours, theirs = climb.last.mixture, em_climb().last.mixture
    # The bound is flat at its maximum: 1e-6 below it, parameters are within 1e-3.
    for mine, other in ((ours.weights, theirs.weights), (ours.locs, theirs.locs)):
        assert (mine - other).abs().max() < 1e-3
    assert (ours.covariances - theirs.covariances).abs().max() < 1e-3


@pytest.mark.slow
def test_gap_of_amortised_vi_shrinks_as_the_network_grows():
    """The best of three networks of each size, since a small one may end in a poor optimum."""
    final, below = [], []
    for hidden in ((), (4,), (16, 16)):
        climbs = []
        for seed in range(3):
            states = amortised_vi(
                X, start("toy", "full"), FLOOR, hidden=hidden, num_steps=600, seed=seed
            )
            climbs.append(record(states, X))
            assert_identity(climbs[-1])
        climb = max(climbs, key=lambda climb: climb.elbo[-1])
        final.append(climb.kl[-1])
        below.append(em_climb().log_likelihood[-1] - climb.elbo[-1])
    assert final[0] > 2 * final[1] > 4 * final[2] > 0
    assert below[0] > below[1] > below[2] > 0


@pytest.mark.slow
def test_a_linear_network_is_exact_for_tied_covariances():
    """log p(z = k | x) is then linear in x, so the amortisation gap is zero."""
    climb = record(amortised_vi(X, start("toy", "tied"), FLOOR, hidden=(), num_steps=2000), X)
    assert_identity(climb)
    exact = record(em(X, start("toy", "tied"), FLOOR, max_iter=2000, tol=1e-12), X)
    assert exact.log_likelihood[-1] - climb.elbo[-1] < 1e-9
    assert climb.kl[-1] < 1e-9


@pytest.mark.parametrize("kind", TYPES)
def test_pyro_model_has_the_likelihood_of_the_mixture(kind):
    """Enumeration by Pyro, the marginalised model and the closed form agree."""
    mixture = random_mixture(kind)
    model = MixtureModel(mixture, FLOOR)
    torch.testing.assert_close(model.mixture().covariances, mixture.covariances)
    torch.testing.assert_close(model.mixture().weights, mixture.weights)
    summed_out = MixtureModel(mixture, FLOOR, marginalised=True)
    expected = mixture.log_prob(X).sum().item()
    elbo = TraceEnum_ELBO(max_plate_nesting=1)
    for program in (model, summed_out):
        assert abs(-elbo.loss(program, lambda x: None, X) - expected) < 1e-8


@pytest.mark.parametrize("kind", TYPES)
def test_bound_of_pyro_equals_the_closed_form(kind):
    mixture = random_mixture(kind)
    log_q = torch.randn(len(X), 3, generator=torch.Generator().manual_seed(0)).double()
    guide = FreeGuide(log_q)
    bound = -TraceEnum_ELBO(max_plate_nesting=1).loss(MixtureModel(mixture, FLOOR), guide, X)
    q = guide.log_q(X).exp()
    expected = (q * (mixture.log_joint(X) - q.log())).sum().item()
    assert abs(bound - expected) < 1e-8


@pytest.mark.slow
def test_plain_pyro_trains_the_pair_and_leaves_the_param_store_empty():
    model = MixtureModel(start("toy", "full"), FLOOR)
    guide = AmortisedGuide(X, 3, hidden=(8,))
    optimiser = pyro.optim.Adam({"lr": 0.02})
    svi = SVI(model, guide, optimiser, TraceEnum_ELBO(max_plate_nesting=1))
    losses = [svi.step(X) for _ in range(200)]
    assert losses[-1] < losses[0] - 10
    assert not dict(pyro.get_param_store())


@pytest.mark.slow
@pytest.mark.parametrize("gradient", ["score", "score with baseline"])
def test_score_function_gradients_are_unbiased(gradient):
    model = MixtureModel(start("toy", "full"), FLOOR)
    guide = AmortisedGuide(X, 3, hidden=(4,))
    exact, none = Program(model, guide, X).estimate_gradient_moments(2)
    assert none.abs().max() == 0
    guide.gradient = gradient
    num_draws = 1000
    mean, variance = Program(model, guide, X).estimate_gradient_moments(num_draws)
    error = (variance / num_draws).sqrt()
    assert ((mean - exact).abs() < 4.5 * error + 1e-12).all()
    assert error.max() < 0.1 * exact.abs().max()


@pytest.mark.slow
def test_a_baseline_reduces_the_variance():
    runs = {
        gradient: record(
            amortised_vi(
                X,
                start("toy", "full"),
                FLOOR,
                hidden=(8,),
                gradient=gradient,
                num_steps=151,
                measure_every=50,
            ),
            X,
        )
        for gradient in ("enumerated", "score", "score with baseline")
    }
    measured = {
        name: np.array([v for v in climb.gradient_variance if not np.isnan(v)])
        for name, climb in runs.items()
    }
    for climb in runs.values():
        assert_identity(climb)
    assert (measured["enumerated"] < 1e-25).all()
    # At its first step the baseline is still zero.
    assert (measured["score"][1:] > 3 * measured["score with baseline"][1:]).all()


def test_the_variance_can_be_measured_at_each_step():
    methods = amortised_vi(X, start("toy", "full"), FLOOR, num_steps=3, measure_every=1)
    assert record(methods, X).elbo


@pytest.mark.slow
def test_draws_repeat_with_the_seed_and_leave_torch_state_unchanged():
    """Measuring the variance does not change later draws either."""

    def run(seed):
        methods = amortised_vi(
            X,
            start("toy", "full"),
            FLOOR,
            gradient="score",
            num_steps=5,
            seed=seed,
            measure_every=2,
        )
        return record(methods, X).elbo

    torch.manual_seed(5)
    before = torch.get_rng_state()
    first = run(0)
    assert torch.equal(before, torch.get_rng_state())
    torch.manual_seed(6)
    assert run(0) == first != run(1)
    unmeasured = amortised_vi(X, start("toy", "full"), FLOOR, gradient="score", num_steps=5, seed=0)
    assert record(unmeasured, X).elbo == first
    assert not dict(pyro.get_param_store())


@pytest.mark.slow
def test_variances_stay_above_the_floor_if_a_component_collapses():
    x = torch.cat([X, torch.full((3, 2), 20.0).double()])
    floor = floor_of(x, 1e-4)
    first = type(start("toy", "diag")).of(
        [0.9, 0.1], [[0.0, 1.0], [20.0, 20.0]], [[2.0, 2.0], [0.1, 0.1]], "diag"
    )
    climb = record(free_vi(x, first, floor, num_steps=400), x)
    assert (climb.last.mixture.covariances[1] > 0.99 * floor).all()
    assert np.isfinite(climb.elbo).all()


@pytest.mark.parametrize(("lr", "num_steps"), [(0.0, 10), (float("nan"), 10), (0.1, 0)])
def test_bad_learning_rates_and_step_counts_are_refused(lr, num_steps):
    with pytest.raises(InputError, match=r"(lr|num_steps) is (0|0\.0|nan); it must be"):
        free_vi(X, start("toy", "full"), FLOOR, lr=lr, num_steps=num_steps)


def test_guides_work_under_pyros_handlers():
    guide = FreeGuide(torch.zeros(len(points("toy")), 3).double())
    trace = pyro.poutine.trace(block(guide, expose=["z"])).get_trace(points("toy"))
    assert list(trace.stochastic_nodes) == ["z"]
