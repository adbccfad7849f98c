"""Distributions of missing entries agree with conditionals computed independently."""

from typing import Any

import pyro.distributions as dist
import pytest
import torch
from torch import Tensor
from torch.distributions import MultivariateNormal

from pyrovae import InputError
from pyrovae.distributions import (
    Blocks,
    DirichletMultinomial,
    LowRankNormal,
    Multinomial,
    completed,
    expectation,
    features,
    marginal,
)
from tests.inverse.linear_gaussian import assert_draws_match_normal
from tests.pairs import assert_unbiased

pytestmark = pytest.mark.usefixtures("float64")

NAN = torch.nan


def low_rank(*batch: int) -> LowRankNormal:
    generator = torch.Generator().manual_seed(1)
    loc = torch.randn(*batch, 4, generator=generator)
    factor = torch.randn(*batch, 4, 2, generator=generator)
    return LowRankNormal(loc, factor, torch.rand(*batch, 4, generator=generator) + 0.1)


def conditional(p: Any, y: Tensor) -> tuple[Tensor, Tensor]:
    """Mean and covariance of the missing entries of one datum, from blocks of the covariance."""
    observed = ~y.isnan()
    observed_block = p.covariance_matrix[observed][:, observed]
    cross_block = p.covariance_matrix[~observed][:, observed]
    gain = cross_block @ torch.linalg.inv(observed_block)
    mean = p.loc[~observed] + gain @ (y[observed] - p.loc[observed])
    return mean, p.covariance_matrix[~observed][:, ~observed] - gain @ cross_block.mT


MASKS = [[0.3, NAN, -1.0, NAN], [NAN, NAN, NAN, 2.0], [NAN, 0.5, 0.1, 0.2]]


@pytest.mark.parametrize("entries", MASKS)
def test_normal_over_all_features_agrees_with_conditional(entries: list[float]) -> None:
    p, y = low_rank(), torch.tensor(entries)
    given = completed(p, y)
    mean, covariance = conditional(p, y)
    absent = y.isnan()
    torch.testing.assert_close(given.mean[absent], mean)
    x = completed(p, y.expand(4000, 4)).sample()
    assert_draws_match_normal(x[:, absent], mean, covariance)
    assert torch.equal(x[:, ~absent], y[~absent].expand(4000, -1))
    torch.testing.assert_close(
        given.log_prob(x[:9]), MultivariateNormal(mean, covariance).log_prob(x[:9, absent])
    )


def test_each_datum_of_a_batch_of_normals_has_its_own_conditional() -> None:
    p, y = low_rank(2, 3), torch.tensor(MASKS).expand(2, 3, 4)
    given = completed(p, y)
    assert given.sample().shape == (2, 3, 4)
    x = torch.where(y.isnan(), torch.randn(2, 3, 4), y)
    for i in range(2):
        for j in range(3):
            one = MultivariateNormal(p.loc[i, j], p.covariance_matrix[i, j])
            mean, covariance = conditional(one, y[i, j])
            absent = y[i, j].isnan()
            torch.testing.assert_close(given.mean[i, j, absent], mean)
            exact = MultivariateNormal(mean, covariance).log_prob(x[i, j, absent])
            torch.testing.assert_close(given.log_prob(x)[i, j], exact)


def test_marginal_of_a_normal() -> None:
    p, y = low_rank(), torch.tensor(MASKS[0])
    observed = ~y.isnan()
    exact = MultivariateNormal(p.loc[observed], p.covariance_matrix[observed][:, observed])
    log_prob = marginal(p, observed).log_prob(torch.where(observed, y, 0.0))
    torch.testing.assert_close(log_prob, exact.log_prob(y[observed]))


def independent_gammas(*batch: int) -> Any:
    return dist.Gamma(torch.full((*batch, 4), 2.0), torch.arange(1.0, 5)).to_event(1)


def normal_and_counts(*batch: int) -> Blocks:
    normal, counts = low_rank(*batch), dist.Poisson(torch.full((*batch, 2), 3.0)).to_event(1)
    return Blocks([normal, counts])


DISTRIBUTIONS = [(independent_gammas, 4), (low_rank, 4), (normal_and_counts, 6)]
"""Functions that build a distribution of a batch shape, and the sizes of their events."""


@pytest.mark.parametrize(("make", "size"), DISTRIBUTIONS)
@pytest.mark.parametrize("batch", [(), (3,), (2, 3)])
def test_nothing_or_everything_observed(make: Any, size: int, batch: tuple[int, ...]) -> None:
    p = make(*batch)
    x = p.sample()
    nothing = completed(p, torch.full((*batch, size), NAN))
    torch.testing.assert_close(nothing.log_prob(x), p.log_prob(x))
    torch.testing.assert_close(nothing.mean, p.mean)
    assert nothing.sample().shape == x.shape
    everything = completed(p, x)
    torch.testing.assert_close(everything.log_prob(x), torch.zeros(batch), atol=1e-9, rtol=0)
    assert torch.equal(everything.sample(), x)
    assert torch.equal(everything.mean, x)
    empty = marginal(p, torch.zeros(*batch, size, dtype=torch.bool))
    filled = torch.ones(*batch, size)
    filled[..., :4] = 0 if make is not independent_gammas else 1
    torch.testing.assert_close(empty.log_prob(filled), torch.zeros(batch), atol=1e-9, rtol=0)


@pytest.mark.parametrize(("make", "size"), DISTRIBUTIONS)
def test_one_distribution_for_many_data_gives_independent_samples(make: Any, size: int) -> None:
    y = torch.full((5, size), NAN)
    y[:, 0] = torch.arange(1.0, 6)
    given = completed(make(), y)
    assert given.batch_shape == (5,)
    x = given.sample()
    assert torch.equal(x[:, 0], y[:, 0])
    assert len(x[:, 1].unique()) == 5


def test_independent_features() -> None:
    p = independent_gammas(2)
    y = torch.tensor([[1.0, NAN, 2.0, NAN], [NAN, 3.0, NAN, 4.0]])
    x = p.sample()
    per_feature = p.base_dist.log_prob(x)
    log_missing = completed(p, y).log_prob(x)
    torch.testing.assert_close(log_missing, torch.where(y.isnan(), per_feature, 0.0).sum(-1))
    log_observed = marginal(p, ~y.isnan()).log_prob(x)
    torch.testing.assert_close(log_observed + log_missing, p.log_prob(x))
    torch.testing.assert_close(completed(p, y).mean, torch.where(y.isnan(), p.mean, y))


def test_blocks_are_completed_separately() -> None:
    p, y = normal_and_counts(), torch.tensor([0.3, NAN, -1.0, NAN, NAN, 2.0])
    given = completed(p, y)
    x = torch.where(y.isnan(), torch.ones(6), y)
    mean, covariance = conditional(p.parts[0], y[:4])
    exact = MultivariateNormal(mean, covariance).log_prob(torch.ones(2))
    counts = dist.Poisson(3.0).log_prob(torch.ones(()))
    torch.testing.assert_close(given.log_prob(x), exact + counts)
    assert given.mean[4:].tolist() == [3.0, 2.0]


@pytest.mark.parametrize("family", [Multinomial, DirichletMultinomial])
def test_observed_counts_given_their_total(family: Any) -> None:
    arguments = torch.tensor([0.5, 1.5, 2.5])
    p, observed = family(arguments, 7), torch.tensor([True, False, True])
    counts = torch.cartesian_prod(*[torch.arange(8.0)] * 3)
    counts = counts[counts.sum(-1) == 7]
    log_p = p.log_prob(counts)
    total = counts[:, observed].sum(-1)
    for x in counts[(total == 4) & (counts[:, 0] < 3)]:
        is_same = (counts[:, observed] == x[observed]).all(-1)
        exact = log_p[is_same].logsumexp(0) - log_p[total == 4].logsumexp(0)
        log_prob = marginal(p, observed).log_prob(torch.where(observed, x, 0.0))
        torch.testing.assert_close(log_prob, exact)
    with pytest.raises(InputError, match="joint distribution over all features of a datum"):
        completed(p, torch.tensor([1.0, NAN, 2.0]))


def test_expectation_agrees_with_samples() -> None:
    logits = torch.tensor([[0.3, -0.5, 1.0], [2.0, 0.0, 0.1]])
    classes = dist.Categorical(logits=logits)
    rates = torch.tensor([[1.0, 4.0], [2.0, 3.0]])
    counts = dist.MixtureSameFamily(dist.Categorical(logits=logits[:, :2]), dist.Poisson(rates))
    normal = LowRankNormal(torch.arange(2.0), torch.ones(2, 1), torch.ones(2))
    of_classes, of_counts = classes.to_event(1), counts.to_event(1)
    masked = of_counts.mask(torch.tensor(True))
    for p in (classes, of_classes, counts, masked, Blocks([of_classes, of_counts, normal])):
        assert_unbiased(p.sample((5000,)).double(), expectation(p))
    assert features(masked) is counts
    with pytest.raises(InputError, match="LowRankNormal is a joint distribution"):
        features(normal)
