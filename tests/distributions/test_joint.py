"""Joint distributions: marginals by integration and enumeration, conditionals by Bayes' rule."""

from typing import Any

import pytest
import torch
from torch import Tensor

from pyrovae.distributions import (
    Dirichlet,
    MultivariateNormal,
    OneHotCategorical,
    completed,
    marginal,
)
from pyrovae.links import link_to

pytestmark = pytest.mark.usefixtures("float64")

NAN = torch.nan


def lower(num: int, *batch: int) -> Tensor:
    generator = torch.Generator().manual_seed(2)
    square = torch.randn(*batch, num, num, generator=generator).tril()
    return square + torch.diag_embed(2.0 - square.diagonal(dim1=-2, dim2=-1) + 0.1)


def test_shares_that_are_missing_are_integrated_out() -> None:
    """Over a grid of the simplex of four shares, of which two, one or none are missing."""
    p = Dirichlet(torch.tensor([1.5, 2.0, 3.0, 2.5]))
    observed = torch.tensor([True, True, False, False])
    x = torch.tensor([0.2, 0.3, NAN, NAN])
    steps = (torch.arange(4000) + 0.5) / 4000 * 0.5
    points = torch.stack([0.2 + 0 * steps, 0.3 + 0 * steps, steps, 0.5 - steps], -1)
    integral = p.log_prob(points).exp().mean() * 0.5
    of_two = marginal(p, observed).log_prob(torch.where(observed, x, 0.25))
    torch.testing.assert_close(of_two.exp(), integral, rtol=1e-5, atol=0)
    full = torch.tensor([0.2, 0.3, 0.1, 0.4])
    one = torch.tensor([True, True, True, False])
    for mask in (one, torch.ones(4, dtype=torch.bool)):
        filled = torch.where(mask, full, 0.25)
        torch.testing.assert_close(marginal(p, mask).log_prob(filled), p.log_prob(full))
    batch = p.expand((3,))
    masks = torch.stack([observed, one, torch.zeros(4, dtype=torch.bool)])
    found = marginal(batch, masks).log_prob(torch.where(masks, full, 0.25))
    of_same = marginal(p, observed).log_prob(torch.where(observed, full, 0.25))
    torch.testing.assert_close(found, torch.stack([of_same, p.log_prob(full), torch.zeros(())]))
    expanded = marginal(p, observed).expand((2,)).log_prob(torch.where(observed, full, 0.25))
    torch.testing.assert_close(expanded, of_same.expand(2))


def test_shares_are_divided_by_their_sum() -> None:
    p, x = Dirichlet(torch.tensor([300.0, 200.0])), torch.tensor([0.6, 0.4])
    rounded = Dirichlet(torch.tensor([300.0, 200.0]), validate_args=False).log_prob(x * 1.00009)
    torch.testing.assert_close(rounded, p.log_prob(x))


def test_missing_shares_divide_what_is_left() -> None:
    a = torch.tensor([1.5, 2.0, 3.0, 2.5])
    y = torch.tensor([0.2, NAN, NAN, 0.3]).expand(20_000, 4)
    given = completed(Dirichlet(a), y)
    torch.testing.assert_close(given.mean[0], torch.tensor([0.2, 0.2, 0.3, 0.3]))
    x = given.sample()
    torch.testing.assert_close(x.sum(-1), torch.ones(20_000))
    share = x[:, 1] / 0.5  # Beta(2, 3)
    assert share.mean().item() == pytest.approx(0.4, abs=5 * (0.04 / 20_000) ** 0.5)
    assert share.var().item() == pytest.approx(0.04, rel=0.05)
    # p(x_1 | x_0, x_3), from Beta(2, 3) over half of the unit interval
    beta = torch.distributions.Beta(2.0, 3.0).log_prob(share[:5]) + torch.tensor(2.0).log()
    torch.testing.assert_close(completed(Dirichlet(a), y[:5]).log_prob(x[:5]), beta)


@pytest.mark.parametrize("entries", [[0.0, NAN, 0.0, NAN], [NAN, 1.0, NAN, NAN], [NAN] * 4])
def test_classes_that_observed_entries_leave_possible(entries: list[float]) -> None:
    logits, y = torch.tensor([0.5, -1.0, 2.0, 0.1]), torch.tensor(entries)
    p, observed = OneHotCategorical(logits=logits), ~y.isnan()
    classes = torch.eye(4)
    is_same = ((classes == y) | ~observed).all(-1)
    expected = logits.softmax(-1)[is_same].sum().log()
    found = marginal(p, observed).log_prob(torch.where(observed, y, classes[0]))
    torch.testing.assert_close(found, expected)
    given = completed(p, y)
    weights = torch.where(is_same, logits, -torch.inf).softmax(-1)
    torch.testing.assert_close(given.mean, weights)
    x = completed(p, y.expand(5000, 4)).sample()
    assert (x.sum(-1) == 1).all()
    assert (x.mean(0) - weights).abs().max() < 5 * 0.5 / 5000**0.5
    torch.testing.assert_close(
        given.log_prob(classes[is_same]), logits.softmax(-1)[is_same].log() - expected
    )


@pytest.mark.parametrize("mask", [[True, False, True, False], [False] * 4, [True] * 4])
def test_normal_of_observed_entries(mask: list[bool]) -> None:
    observed = torch.tensor(mask)
    p: Any = MultivariateNormal(torch.arange(4.0), lower(4))
    x = torch.tensor([0.3, -0.1, 1.5, 2.0])
    found = marginal(p, observed)
    block = p.covariance_matrix[observed][:, observed]
    expected = torch.zeros(())
    if observed.any():
        exact = torch.distributions.MultivariateNormal(p.loc[observed], block)
        expected = exact.log_prob(x[observed])
    for filled in (torch.where(observed, x, 0.0), torch.where(observed, x, 7.0)):
        torch.testing.assert_close(found.log_prob(filled), expected)
        torch.testing.assert_close(found.expand((2,)).log_prob(filled), expected.expand(2))


def test_normal_of_nearly_dependent_entries_in_single_precision() -> None:
    """A Cholesky factor of the product would have no digits left, or not exist."""
    factor = torch.tensor([[1.0, 0.0, 0.0], [1.0, 1e-5, 0.0], [0.3, 0.2, 1.0]])
    observed = torch.tensor([True, True, False])
    x = torch.tensor([0.5, 0.5 + 2e-5, 0.0])
    exact = torch.distributions.MultivariateNormal(torch.zeros(2), scale_tril=factor[:2, :2])
    found = marginal(MultivariateNormal(torch.zeros(3), factor.float()), observed)
    # x[1] is rounded by 3e-8, which is 3e-3 of the conditional scale.
    single = found.log_prob(x.float()).double()
    torch.testing.assert_close(single, exact.log_prob(x.float().double()[:2]), rtol=0, atol=2e-2)


@pytest.mark.parametrize("num", [1, 2, 3, 4, 5])
def test_triangular_link(num: int) -> None:
    """Every triangular matrix has numbers, as many as it has entries, and they give it back."""
    link = link_to(torch.distributions.constraints.lower_cholesky)
    factor = lower(num, 6)
    packed = link.inv(factor)
    assert packed.shape == (6, num, (num + 2) // 2)
    torch.testing.assert_close(link(packed), factor)
    count = num * (num + 1) // 2
    jacobian = torch.autograd.functional.jacobian(link, packed[0])
    rank = torch.linalg.matrix_rank(jacobian.reshape(num * num, -1))
    assert rank == count
