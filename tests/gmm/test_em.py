"""EM against scikit-learn, and its guarantees."""

import warnings

import numpy as np
import pytest
import torch
from sklearn.mixture import GaussianMixture as Theirs
from torch.utils._python_dispatch import TorchDispatchMode

from pyrovae import InputError
from pyrovae.gmm import (
    Mixture,
    Prior,
    amortised_vi,
    bayesian_svi,
    bound_terms,
    coordinate_ascent,
    em,
    floor_of,
    free_vi,
    k_means_plus_plus,
    monte_carlo_em,
    record,
    toy,
)
from pyrovae.gmm.em import iterations, maximisation
from pyrovae.gmm.moments import expectation, summarise

from .data import NAMES, TYPES, points, random_mixture, start


def run_em(rounds: int, x: torch.Tensor, first: Mixture, floor: torch.Tensor) -> Mixture:
    """theta after ``rounds`` rounds of EM."""
    return next(
        step.before for number, step in enumerate(iterations(x, first, floor)) if number == rounds
    )


@pytest.mark.parametrize("kind", TYPES)
@pytest.mark.parametrize("name", NAMES)
def test_em_agrees_with_scikit_learn(name, kind):
    x, first, rounds = points(name), start(name, kind), 40
    covariances = first.covariances.numpy()
    inverse = np.linalg.inv(covariances) if kind in ("full", "tied") else 1 / covariances
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        theirs = Theirs(
            3,
            covariance_type=kind,
            reg_covar=0.0,
            tol=0.0,
            max_iter=rounds,
            weights_init=first.weights.numpy(),
            means_init=first.locs.numpy(),
            precisions_init=inverse,
        ).fit(x.numpy())
    ours = run_em(rounds, x, first, floor_of(x, 1e-9))
    assert abs(ours.log_prob(x).mean().item() - theirs.score(x.numpy())) < 1e-9
    for mine, other in (
        (ours.weights, theirs.weights_),
        (ours.locs, theirs.means_),
        (ours.covariances, theirs.covariances_),
    ):
        np.testing.assert_allclose(mine, other, rtol=1e-6, atol=1e-9 * np.abs(other).max())


@pytest.mark.slow
@pytest.mark.parametrize("kind", TYPES)
@pytest.mark.parametrize("name", NAMES)
def test_likelihood_is_bound_plus_gap_and_never_falls(name, kind):
    x = points(name)
    climb = record(em(x, start(name, kind), floor_of(x, 1e-6)), x)
    log_likelihood, elbo, kl = map(np.array, (climb.log_likelihood, climb.elbo, climb.kl))
    np.testing.assert_allclose(log_likelihood, elbo + kl, rtol=0, atol=1e-9)
    scale = 1e-13 * np.abs(log_likelihood).max()
    assert (np.diff(log_likelihood) > -scale).all()
    assert (np.diff(elbo) > -scale).all()
    phases = np.array(climb.phases)
    assert phases[0] == phases[-1] == "E"
    assert set(phases) == {"E", "M"}
    assert (np.abs(kl[phases == "E"]) < 1e-12).all()
    assert (kl[phases == "M"] > -1e-12).all()
    assert kl[1] > 1e-6
    assert len(phases) < 401


def test_likelihood_is_bound_plus_gap_at_any_q():
    x = points("toy")
    log_q = torch.randn(len(x), 3, generator=torch.Generator().manual_seed(0)).double()
    log_q[0] = torch.tensor([0.0, -torch.inf, -torch.inf])
    log_joint = random_mixture("full").log_joint(x)
    log_likelihood, elbo, kl = bound_terms(log_q.log_softmax(1), log_joint).tolist()
    assert abs(log_likelihood - elbo - kl) < 1e-12
    assert kl > 0.1


@pytest.mark.parametrize("kind", TYPES)
def test_m_step_is_a_maximum(kind):
    """The gradient of the expected log joint with respect to theta is zero there."""
    x, first = points("iris"), start("iris", kind)
    log_q = first.log_responsibilities(x)
    best, _ = maximisation(summarise(x, log_q, kind), floor_of(x, 1e-9))
    leaves = [t.clone().requires_grad_() for t in (best.log_weights, best.locs, best.scales)]
    logits, locs, scales = leaves
    scales = scales.tril() if kind in ("full", "tied") else scales
    mixture = Mixture(logits.log_softmax(0), locs, scales, kind)
    (log_q.exp() * mixture.log_joint(x)).sum().backward()
    for leaf in leaves:
        assert leaf.grad.abs().max() < 1e-8 * len(x)


@pytest.mark.parametrize("kind", TYPES)
def test_m_step_at_the_floor_is_the_constrained_maximum(kind):
    """No covariance above the floor is better, for data that hardly vary in one direction."""
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(60, 2, generator=generator).double() * torch.tensor([1.0, 1e-3])
    rotation = torch.tensor([[0.6, -0.8], [0.8, 0.6]]).double()
    x = x @ rotation.T if kind in ("full", "tied") else x
    floor = torch.tensor([0.02, 0.05]).double()
    log_q = torch.zeros(len(x), 1).double()
    best, degenerate = maximisation(summarise(x, log_q, kind), floor)
    if kind == "spherical":
        floor = floor * 30
        best, degenerate = maximisation(summarise(x, log_q, kind), floor)
    assert degenerate == (0,)

    unit = floor.sqrt()
    least = torch.linalg.eigvalsh(best.matrices[0] / torch.outer(unit, unit)).min()
    assert abs(least - 1) < 1e-9
    highest = best.log_prob(x).mean()
    for _ in range(200):
        noise = 0.1 * torch.randn(2, 2, generator=generator).double()
        other = best.matrices[0] + floor.max() * (noise @ noise.T)
        if kind == "spherical":
            other = other.diagonal().mean() * torch.eye(2).double()
        elif kind == "diag":
            other = other.diagonal().diag()
        rival = Mixture.of([1.0], best.locs, [other.tolist()], "full")
        assert rival.log_prob(x).mean() <= highest + 1e-12


def test_em_survives_and_reports_a_component_that_collapses():
    x = torch.cat([points("toy"), torch.full((3, 2), 20.0).double()])
    first = Mixture.of([0.9, 0.1], [[0.0, 1.0], [20.0, 20.0]], [[2.0, 2.0], [0.1, 0.1]], "diag")
    climb = record(em(x, first, floor_of(x, 1e-6)), x)
    assert climb.last.degenerate == (1,)
    floor = floor_of(x, 1e-6)
    torch.testing.assert_close(climb.last.mixture.covariances[1], floor)
    assert np.isfinite(climb.log_likelihood).all()
    assert (np.diff(climb.log_likelihood) > -1e-12).all()


@pytest.mark.parametrize("kind", TYPES)
def test_em_survives_and_reports_a_component_without_data(kind):
    x, good = points("toy"), start("toy", kind)
    locs = good.locs.clone()
    locs[2] = 1e4
    first = Mixture(good.log_weights, locs, good.scales, kind)
    climb = record(em(x, first, floor_of(x, 1e-6)), x)
    assert climb.last.degenerate == (2,)
    assert climb.last.mixture.weights[2] == 0
    torch.testing.assert_close(climb.last.mixture.locs[2], locs[2])
    assert np.isfinite(climb.log_likelihood).all()
    assert np.isfinite(climb.elbo).all()


@pytest.mark.parametrize("kind", TYPES)
def test_statistics_do_not_depend_on_chunks(kind):
    mixture = random_mixture(kind, k=5, d=3)
    x = mixture.sample(2 * mixture.chunk_size + 100, torch.Generator().manual_seed(0))[0]
    streamed = expectation(x, mixture)
    q = mixture.log_responsibilities(x).exp()
    counts = q.sum(0)
    means = (q.T @ x) / counts.unsqueeze(1)
    centred = x.unsqueeze(1) - means
    full = torch.einsum("nk,nki,nkj->kij", q, centred, centred)
    diagonal = full.diagonal(dim1=1, dim2=2)
    scatters = {
        "full": full,
        "tied": full.sum(0),
        "diag": diagonal,
        "spherical": diagonal.sum(1),
    }[kind]
    torch.testing.assert_close(streamed.counts, counts)
    torch.testing.assert_close(streamed.means, means)
    torch.testing.assert_close(streamed.scatters, scatters)
    torch.testing.assert_close(streamed.log_normaliser, mixture.log_prob(x).sum())
    again = summarise(x, q.log(), kind)
    torch.testing.assert_close(again.scatters, scatters)


class LargestTensor(TorchDispatchMode):
    """Records the size of the largest tensor that any operation returns within the context."""

    size = 0

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        result = function(*args, **(kwargs or {}))
        for tensor in result if isinstance(result, tuple | list) else (result,):
            if isinstance(tensor, torch.Tensor):
                self.size = max(self.size, tensor.numel())
        return result


@pytest.mark.parametrize("kind", TYPES)
def test_a_round_allocates_no_array_of_data_times_components(kind):
    mixture = random_mixture(kind, k=32, d=4)
    x = mixture.sample(20_000, torch.Generator().manual_seed(0))[0]
    with LargestTensor() as largest:
        maximisation(expectation(x, mixture), torch.ones(4).double(), mixture)
        mixture.log_prob(x)
    assert largest.size <= max(x.numel(), 2**17)
    assert largest.size < x.shape[0] * 32 / 4


def test_a_start_allocates_no_array_of_data_times_components():
    x = random_mixture("full", k=32, d=4).sample(20_000, torch.Generator().manual_seed(0))[0]
    with LargestTensor() as largest:
        k_means_plus_plus(x, 32, "full", floor_of(x, 1e-6))
    assert largest.size <= max(x.numel(), 2**17)
    assert largest.size < x.shape[0] * 32 / 4


@pytest.mark.parametrize("kind", TYPES)
def test_every_method_accepts_single_precision(kind):
    x = points("toy")[:60].float()
    first, floor, prior = start("toy", kind), floor_of(x, 1e-6), Prior.of(x, 3, kind)
    for states in (
        em(x, first, floor, max_iter=2),
        monte_carlo_em(x, first, floor, max_iter=2),
        free_vi(x, first, floor, num_steps=2),
        amortised_vi(x, first, floor, num_steps=2),
        coordinate_ascent(x, first, prior, max_iter=2),
        bayesian_svi(x, first, prior, num_steps=2),
    ):
        assert np.isfinite(record(states, x).elbo).all()


def test_single_precision_data_are_summed_in_double():
    x = points("iris")
    first, floor = start("iris", "full"), floor_of(x, 1e-6)
    double = run_em(20, x.float().double(), first, floor)
    single = run_em(20, x.float(), first, floor)
    torch.testing.assert_close(single.locs, double.locs)
    torch.testing.assert_close(single.scales, double.scales)


@pytest.mark.slow
def test_monte_carlo_em_approaches_em_with_more_samples():
    x = toy(200)[0]
    first, floor = start("toy", "full"), floor_of(x, 1e-6)
    best = record(em(x, first, floor, max_iter=1000), x).log_likelihood[-1]
    gaps = []
    for num_samples in (1, 10, 1000):
        climb = record(monte_carlo_em(x, first, floor, num_samples=num_samples), x)
        log_likelihood, elbo, kl = map(np.array, (climb.log_likelihood, climb.elbo, climb.kl))
        np.testing.assert_allclose(log_likelihood, elbo + kl, rtol=0, atol=1e-9)
        gaps.append(kl[-40:].mean())
        assert (log_likelihood < best + 1e-9).all() or num_samples == 1
    # The expected KL of an empirical distribution of S draws from p is near (K - 1) / (2 S).
    assert gaps[0] > 3 * gaps[1] > 30 * gaps[2]
    assert best - np.mean(climb.log_likelihood[-40:]) < 1e-3


def test_monte_carlo_em_repeats_with_the_seed():
    x = points("toy")
    runs = [
        record(monte_carlo_em(x, start("toy", "diag"), floor_of(x, 1e-6), max_iter=3, seed=s), x)
        for s in (0, 0, 1)
    ]
    assert runs[0].elbo == runs[1].elbo != runs[2].elbo


def test_fewest_rounds():
    x, first = points("toy"), start("toy", "full")
    floor = floor_of(x, 1e-6)
    (state,) = em(x, first, floor, max_iter=0)
    assert state.mixture is first
    log_p = first.log_responsibilities(x)
    torch.testing.assert_close(state.log_q, log_p)
    one, many = (
        list(monte_carlo_em(x, first, floor, num_samples=num, max_iter=1)) for num in (1, 4)
    )
    assert [each.phase for each in one] == [each.phase for each in many] == ["E", "M"]
    assert set(one[0].log_q.exp().unique().tolist()) == {0.0, 1.0}
    for name in ("num_samples", "max_iter"):
        with pytest.raises(InputError, match=f"{name} is 0; it must be 1 or more"):
            monte_carlo_em(x, first, floor, **{name: 0})
