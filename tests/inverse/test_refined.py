"""The refined q(z | y) against the exact p(z | y) of a linear-Gaussian model."""

from typing import Any

import pytest
import torch
from torch import Tensor
from torch.distributions import MultivariateNormal

from pyrovae.inverse.methods.refined import Refinement

from .linear_gaussian import model
from .test_methods import remove_entries, sample_data

pytestmark = pytest.mark.usefixtures("float64")


def exact_log_evidence(ppca: Any, y: Tensor) -> Tensor:
    """log p of the entries that are not NaN, for each datum."""
    loc, weight = ppca.loc.detach(), ppca.loadings.detach()
    covariance = weight @ weight.mT + ppca.scale.detach() ** 2 * torch.eye(len(weight))
    seen = ~y.isnan()
    return torch.stack(
        [
            MultivariateNormal(loc[s], covariance[s][:, s]).log_prob(row[s])
            for row, s in zip(y, seen, strict=True)
        ]
    )


@pytest.mark.parametrize("missing", [False, True])
def test_a_full_rank_q_reaches_the_evidence(missing: bool) -> None:
    """For log weights with a small variance v, num / effective_samples is near 1 + v, and the gap
    near v / 2."""
    ppca = model(missing=missing)
    y = remove_entries(sample_data(ppca, 3))
    settings = {"name": "refined", "num_steps": 100, "lr": 0.5, "num_particles": 8}
    found = ppca.posterior(y, method=settings, num_samples=2).diagnostics
    variance = 500 / found["effective_samples"] - 1
    assert variance.max() < 0.05
    gap = exact_log_evidence(ppca, y) - found["elbo"]
    assert ((gap - variance / 2).abs() <= 4.5 * (variance / 500).sqrt() + variance).all()
    if not missing:  # the guide of complete data starts far from the posterior
        assert (found["elbo"] - found["elbo_start"])[:2].min() > 1


def test_mean_and_standard_deviation_of_q_place_its_next_family(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    moments: list[tuple[Tensor, ...]] = []
    original = Refinement.with_posterior

    def spy(self: Refinement, posterior: Any) -> Refinement:
        changed = original(self, posterior)
        draws = self.sample(20_000)[0].view(self.num_data, 20_000, -1)
        moments.append((draws.mean(1), draws.std(1), changed._loc[:, 0], changed._scale[:, 0]))
        return changed

    monkeypatch.setattr(Refinement, "with_posterior", spy)
    ppca = model(missing=False)
    y = remove_entries(sample_data(ppca, 2))
    settings = {"name": "refined", "num_steps": 60, "lr": 0.5, "num_particles": 8}
    ppca.posterior(y, method=settings, num_samples=2)
    ((mean, sd, loc, scale),) = moments
    assert sd.amax() / sd.amin() > 1.5
    assert ((mean - loc).abs() <= 4.5 * scale / 20_000**0.5).all()
    # The standard deviation of n normal draws has the standard error sd / (2 n)^(1/2).
    assert ((sd - scale).abs() <= 4.5 * scale / 40_000**0.5).all()
