"""The evidence against a sum over all assignments, and what its errors are worth."""

import warnings
from itertools import permutations

import pytest
import torch

from pyrovae.gmm import Prior, coordinate_ascent, floor_of, k_means_plus_plus, log_evidence, toy
from pyrovae.gmm.bayesian.evidence import _log_permanent
from pyrovae.gmm.climb import record
from pyrovae.infer import HeavyTailWarning

from ..data import TYPES
from .enumeration import exact_log_evidence


def small_problem(kind, num_components, n=7):
    """Points, their prior, and the posterior that coordinate ascent ends at."""
    x = toy(n, seed=3)[0]
    prior = Prior.of(x, num_components, kind)
    start = k_means_plus_plus(x, num_components, kind, floor_of(x, 1e-6))
    return x, prior, record(coordinate_ascent(x, start, prior), x).last.posterior


@pytest.mark.slow
@pytest.mark.parametrize("kind", TYPES)
def test_intervals_hold_the_evidence_as_often_as_they_say(kind):
    """The number of intervals of 95 percent that hold it is binomial."""
    x, prior, posterior = small_problem(kind, 2)
    exact = exact_log_evidence(x, prior, 2)
    num = 100
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", HeavyTailWarning)
        found = [log_evidence(x, posterior, seed=seed) for seed in range(num)]
    log_p = torch.tensor([each.log_evidence for each in found]).double()
    error = torch.tensor([each.standard_error for each in found]).double()
    covered = ((log_p - exact).abs() < 1.96 * error).double().mean().item()
    assert abs(covered - 0.95) < 3 * (0.95 * 0.05 / num) ** 0.5
    ratio = (log_p - exact).exp()  # of which the mean is one
    assert abs(ratio.mean() - 1) < 4.5 * ratio.std() / num**0.5
    assert abs(log_p.std() / error.square().mean().sqrt() - 1) < 0.3
    assert log_p.std() < 0.1


@pytest.mark.parametrize("kind", TYPES)
def test_one_component_has_the_evidence_of_the_closed_form(kind):
    x, prior, posterior = small_problem(kind, 1)
    exact = exact_log_evidence(x, prior, 1)
    found = log_evidence(x, posterior, num_samples=4000)
    assert abs(found.log_evidence - exact) < 4.5 * found.standard_error
    assert found.is_reliable


@pytest.mark.parametrize("kind", TYPES)
def test_two_components_have_the_evidence_of_the_sum_over_assignments(kind):
    x, prior, posterior = small_problem(kind, 2)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", HeavyTailWarning)
        found = log_evidence(x, posterior, num_samples=2000)
    # The error is small enough to notice one order of the components too few, which is log 2.
    assert 4.5 * found.standard_error < 0.5
    assert abs(found.log_evidence - exact_log_evidence(x, prior, 2)) < 4.5 * found.standard_error


def test_the_sum_over_orders_is_a_permanent():
    entries = torch.randn(5, 4, 4, generator=torch.Generator().manual_seed(0)).double()
    orders = list(permutations(range(4)))
    expected = torch.stack(
        [entries[:, range(4), list(order)].sum(1) for order in orders]
    ).logsumexp(0)
    torch.testing.assert_close(_log_permanent(entries), expected)


def test_draws_that_are_too_few_are_said():
    x, _, posterior = small_problem("full", 3, n=60)
    with pytest.warns(HeavyTailWarning, match=r"standard error of log p\(x\) is too small.*draw"):
        found = log_evidence(x, posterior, num_samples=100)
    assert not found.is_reliable
    with pytest.warns(HeavyTailWarning, match="Pareto k of nan"):
        found = log_evidence(x, posterior, num_samples=20)
    assert not found.is_reliable
