"""The full-rank proposal of log p(x), on a pair whose posterior is a correlated normal."""

from typing import Any

import pyro.distributions as dist
import pytest
import torch
from torch import Tensor

from pyrovae.infer.estimators.full_rank import FullRankProposal

from .linear_gaussian import LinearGaussian

pytestmark = pytest.mark.usefixtures("float64")

SPREAD = 1e-3


def make_proposal(pair: LinearGaussian, x: Tensor) -> FullRankProposal:
    """A proposal whose normal is the posterior, up to the Monte Carlo error of its mean."""
    guide = pair.guide(lambda x: dist.Normal(pair.loc(x), SPREAD).to_event(1))
    return FullRankProposal(pair.model, guide, [x], "data")


def test_it_starts_at_the_posterior_where_that_is_normal() -> None:
    pair = LinearGaussian()
    x = pair.data(5)
    proposal = make_proposal(pair, x)
    off = (proposal._loc - pair.loc(x)).abs()
    assert off.max() < 4.5 * SPREAD / 8  # the mean of 64 draws
    covariance = proposal._factor @ proposal._factor.mT
    torch.testing.assert_close(covariance, pair.precision.inverse().expand(5, 2, 2))


@pytest.mark.parametrize("num_samples", [400, 3])
def test_weights_have_the_evidence_as_their_mean_and_state_their_error(num_samples: int) -> None:
    """Of three samples two come from the heavier tail."""
    pair = LinearGaussian()
    x = pair.data(1).expand(20_000 // num_samples, -1).contiguous()
    found = make_proposal(pair, x).estimate(num_samples)
    ratio = (found.log_likelihood - pair.marginal.log_prob(x)).exp()  # of which the mean is one
    error = ratio.std() / len(x) ** 0.5
    assert (ratio.mean() - 1).abs() < 4.5 * error
    # An estimate of variance from so many normal numbers, at 4.5 standard deviations.
    assert error < 0.01
    if num_samples > 3:
        stated = found.standard_error.square().mean().sqrt()
        assert (stated / ratio.std() - 1).abs() < 4.5 / (2 * len(x)) ** 0.5


def test_a_datum_without_a_gradient_stays_where_it_is(monkeypatch: pytest.MonkeyPatch) -> None:
    pair = LinearGaussian()
    proposal = make_proposal(pair, pair.data(3))
    log_joint = FullRankProposal._log_joint

    def overflowing(self: FullRankProposal, num: int) -> Any:
        function = log_joint(self, num)

        def of(z: Tensor) -> Tensor:
            value = function(z)
            return torch.cat([value[:1] * torch.nan, value[1:]])

        return of

    monkeypatch.setattr(FullRankProposal, "_log_joint", overflowing)
    before = proposal._loc.clone()
    proposal.fit(20, lr=0.1)
    torch.testing.assert_close(proposal._loc[0], before[0])
    assert bool((proposal._loc[1:] != before[1:]).all())


def test_fitting_moves_it_to_the_posterior() -> None:
    """From a mean that is off by a standard deviation, as the gradient vanishes only there."""
    pair = LinearGaussian()
    x = pair.data(3)
    guide = pair.guide(lambda x: dist.Normal(pair.loc(x) + 0.5, SPREAD).to_event(1))
    proposal = FullRankProposal(pair.model, guide, [x], "data")
    before = (proposal._loc - pair.loc(x)).abs().min()
    proposal.fit(100, lr=0.1)
    assert (proposal._loc - pair.loc(x)).abs().max() < 0.02 * before
    covariance = proposal._factor @ proposal._factor.mT
    torch.testing.assert_close(
        covariance, pair.precision.inverse().expand(3, 2, 2), rtol=0, atol=0.01
    )
