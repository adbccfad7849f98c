"""Tight components far apart, and data far from the origin, against exact rational arithmetic."""

from fractions import Fraction
from math import log, pi

import numpy as np
import pytest
import torch
from scipy import stats
from torch import Tensor

from pyrovae.gmm import Mixture, Prior, em, floor_of, k_means_plus_plus, record
from pyrovae.gmm.bayesian.coordinate_ascent import update
from pyrovae.gmm.em import maximisation
from pyrovae.gmm.moments import Statistics, expectation, summarise

from .data import TYPES, random_mixture

TIGHT = 1e-4


def far_apart(kind: str, far: float = 1e5, origin: float = 0.0) -> Mixture:
    """A tight component, and two wide ones of which one is far away; if tied, all are tight."""
    locs = origin + torch.tensor([[0.0, 0.0], [far, -far], [1.0, 2.0]]).double()
    full = torch.tensor([[[4.0, 1.9], [1.9, 1.0]], [[1.0, 0.3], [0.3, 2.0]], [[1.0, 0], [0, 1]]])
    full = full.double()
    full[0] *= TIGHT**2
    covariances = {
        "full": full,
        "tied": full[0],
        "diag": full.diagonal(dim1=1, dim2=2),
        "spherical": full[:, 0, 0],
    }[kind]
    return Mixture.of([0.3, 0.3, 0.4], locs, covariances, kind)


def exact_log_density(mixture: Mixture, x: Tensor) -> Tensor:
    """log Normal(x; locs_k, Sigma_k) at the same numbers, with squared distances as fractions."""
    k, d = mixture.locs.shape
    factors = mixture.scales
    if mixture.covariance_type == "diag":
        factors = factors.diag_embed()
    elif mixture.covariance_type == "spherical":
        factors = factors.view(-1, 1, 1) * torch.eye(d).double()
    factors = factors.expand(k, d, d)
    values = torch.empty(len(x), k).double()
    for i, point in enumerate(x.tolist()):
        for j, (loc, factor) in enumerate(
            zip(mixture.locs.tolist(), factors.tolist(), strict=True)
        ):
            solved: list[Fraction] = []
            for row in range(d):
                rest = Fraction(point[row]) - Fraction(loc[row])
                rest -= sum(Fraction(factor[row][c]) * solved[c] for c in range(row))
                solved.append(rest / Fraction(factor[row][row]))
            square = float(sum(value * value for value in solved))
            log_det = sum(log(factor[row][row]) for row in range(d))
            values[i, j] = -log_det - 0.5 * square - 0.5 * d * log(2 * pi)
    return values


def points_near(mixture: Mixture, num: int = 30) -> Tensor:
    return mixture.sample(num, torch.Generator().manual_seed(0))[0]


@pytest.mark.parametrize("origin", [0.0, 1e6])
@pytest.mark.parametrize("far", [3.0, 1e5])
@pytest.mark.parametrize("kind", TYPES)
def test_densities_and_responsibilities_are_exact(kind, far, origin):
    mixture = far_apart(kind, far, origin)
    x = points_near(mixture)
    exact = exact_log_density(mixture, x)
    # Rounding the difference and the factors leaves a relative error of a few eps, times the
    # condition of the factors.
    error = (mixture.log_density(x) - exact).abs() / exact.abs().clamp_min(1.0)
    assert error.max() < 1e-11
    joint = exact + mixture.log_weights
    torch.testing.assert_close(mixture.log_prob(x), joint.logsumexp(1), rtol=1e-11, atol=1e-11)
    torch.testing.assert_close(
        mixture.log_responsibilities(x).exp(), joint.softmax(1), rtol=0, atol=1e-10
    )


def test_density_of_a_tight_component_agrees_with_scipy():
    mixture = Mixture.of([0.5, 0.5], [[0.0], [1e5]], [[1e-8], [1.0]], "diag")
    x = np.linspace(-3e-4, 3e-4, 7)
    expected = np.log(0.5) + stats.norm.logpdf(x, 0.0, 1e-4)
    np.testing.assert_allclose(mixture.log_prob(x.reshape(-1, 1)), expected, rtol=1e-13)


@pytest.mark.parametrize("kind", TYPES)
def test_the_expanded_and_the_differenced_squares_agree(kind, monkeypatch):
    """Both formulas, and their gradients, on a mixture for which either is accurate."""
    mixture = random_mixture(kind)
    assert mixture.is_compact
    x = points_near(mixture)
    expanded = mixture.squared_distances(x)
    monkeypatch.setattr(Mixture, "is_compact", False)
    other = random_mixture(kind)
    torch.testing.assert_close(expanded, other.squared_distances(x), rtol=1e-12, atol=1e-12)
    parts = (other.log_weights, other.locs, other.scales)

    def log_joint(log_weights, locs, scales):
        scales = scales.tril() if kind in ("full", "tied") else scales
        return Mixture(log_weights, locs, scales, kind).log_joint(x[:3])

    leaves = [part.clone().requires_grad_() for part in parts]
    assert torch.autograd.gradcheck(log_joint, leaves)


def exact_statistics(x: Tensor, q: Tensor, kind: str) -> Statistics:
    """Moments by differences from the mean, in extended precision."""
    long_x, long_q = (np.asarray(part.numpy(), dtype=np.longdouble) for part in (x, q))
    counts = long_q.sum(0)
    means = (long_q.T @ long_x) / counts[:, None]
    centred = long_x[:, None] - means
    full = np.einsum("nk,nki,nkj->kij", long_q, centred, centred)
    diagonal = np.diagonal(full, axis1=1, axis2=2)
    scatters = {
        "full": full,
        "tied": full.sum(0),
        "diag": diagonal,
        "spherical": diagonal.sum(1),
    }[kind]
    parts = (counts, means, np.array(scatters))
    counts, means, scatters = (torch.from_numpy(part.astype(np.float64)) for part in parts)
    return Statistics(counts, means, scatters, torch.zeros(()).double(), kind)


@pytest.mark.parametrize("origin", [0.0, 1e6])
@pytest.mark.parametrize("kind", TYPES)
def test_moments_are_exact(kind, origin):
    mixture = far_apart(kind, origin=origin)
    x = points_near(mixture, 300)
    log_q = mixture.log_responsibilities(x)
    exact = exact_statistics(x, log_q.exp(), kind)
    for found in (expectation(x, mixture), summarise(x, log_q, kind)):
        torch.testing.assert_close(found.means, exact.means, rtol=1e-15, atol=0)
        torch.testing.assert_close(found.scatters, exact.scatters, rtol=1e-9, atol=0)


@pytest.mark.parametrize("kind", TYPES)
def test_moments_are_exact_when_components_shrink_in_one_round(kind):
    """The mixture is wide, so the expanded moments look safe until they are summed."""
    tight = far_apart("diag", far=1e3)
    x = torch.cat([tight.locs[:1] + TIGHT * points_near(far_apart("diag", 0.1), 100), tight.locs])
    wide = Mixture.of([0.5, 0.5], [[0.0, 0.0], [1e3, -1e3]], [300.0**2, 300.0**2], "spherical")
    scales = {
        "full": wide.matrices.sqrt(),
        "tied": wide.matrices[0].sqrt(),
        "diag": wide.scales.unsqueeze(1).expand(2, 2),
        "spherical": wide.scales,
    }[kind]
    wide = Mixture(wide.log_weights, wide.locs, scales, kind)
    assert wide.is_compact
    q = wide.log_responsibilities(x).exp()
    exact, found = exact_statistics(x, q, kind), expectation(x, wide)
    torch.testing.assert_close(found.scatters, exact.scatters, rtol=1e-9, atol=0)


@pytest.mark.parametrize("kind", TYPES)
def test_em_finds_tight_clusters_far_apart(kind):
    """The fit to data with known groups is the mean and covariance of each group."""
    mixture = far_apart(kind)
    x, z = mixture.sample(400, torch.Generator().manual_seed(1))
    x, z = x[z != 2], z[z != 2]
    floor = torch.full((2,), 1e-12).double()
    start = k_means_plus_plus(x, 2, kind, floor)
    fitted = record(em(x, start, floor), x).last.mixture
    if fitted.locs[0, 0] > 1:
        order = [1, 0]
        scales = fitted.scales if kind == "tied" else fitted.scales[order]
        fitted = Mixture(fitted.log_weights[order], fitted.locs[order], scales, kind)
    q = torch.stack([(z == k).double() for k in (0, 1)], 1)
    best, _ = maximisation(exact_statistics(x, q, kind), floor)
    torch.testing.assert_close(fitted.locs, best.locs, rtol=1e-12, atol=1e-12)
    torch.testing.assert_close(fitted.covariances, best.covariances, rtol=1e-8, atol=0)


@pytest.mark.parametrize("kind", TYPES)
def test_starts_of_tight_clusters_have_their_pooled_covariance(kind):
    generator = torch.Generator().manual_seed(0)
    noise = TIGHT * torch.randn(200, 2, generator=generator).double()
    x = noise + 1e4 * (torch.arange(200) % 2).double().unsqueeze(1)
    first = k_means_plus_plus(x, 2, kind, torch.full((2,), 1e-30).double())
    groups = [x[::2], x[1::2]]
    pooled = sum((g - g.mean(0)).mT @ (g - g.mean(0)) for g in groups) / 200
    expected = {
        "full": pooled,
        "tied": pooled,
        "diag": pooled.diagonal(),
        "spherical": pooled.diagonal().mean(),
    }[kind]
    got = first.covariances[0] if kind != "tied" else first.covariances
    torch.testing.assert_close(got, expected, rtol=1e-6, atol=0)


@pytest.mark.parametrize("kind", TYPES)
def test_the_variational_e_step_is_exact(kind):
    mixture = far_apart(kind)
    x = points_near(mixture, 300)
    q = mixture.log_responsibilities(x).exp()
    posterior = update(exact_statistics(x, q, kind), Prior.of(x, 3, kind))
    expected = posterior.expected_log_joint()
    wanted = exact_log_density(expected, x) + expected.log_weights
    error = (expected.log_joint(x) - wanted).abs() / wanted.abs().clamp_min(1.0)
    assert error.max() < 1e-11


def test_data_in_single_precision_are_differenced_in_double():
    mixture = far_apart("diag", origin=1e3)
    single = points_near(mixture).float()
    exact = exact_log_density(mixture, single.double()) + mixture.log_weights
    torch.testing.assert_close(mixture.log_joint(single), exact, rtol=1e-12, atol=1e-12)
    parts = (mixture.log_weights, mixture.locs, mixture.scales)
    narrow = Mixture(*(part.float() for part in parts), "diag")
    exact = exact_log_density(narrow, points_near(mixture)) + narrow.log_weights
    assert narrow.locs.dtype == torch.float64
    torch.testing.assert_close(
        narrow.log_joint(points_near(mixture)), exact, rtol=1e-12, atol=1e-12
    )


def test_floors_and_priors_do_not_depend_on_the_origin():
    x = torch.randn(100, 2, generator=torch.Generator().manual_seed(0)).double()
    moved = (x + 1e6) - 1e6  # as rounded there
    torch.testing.assert_close(floor_of(x + 1e6, 1e-6), floor_of(moved, 1e-6), rtol=1e-12, atol=0)
    here, there = Prior.of(moved, 2), Prior.of(x + 1e6, 2)
    torch.testing.assert_close(there.scatter, here.scatter, rtol=1e-12, atol=1e-14)
