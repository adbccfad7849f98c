"""Convergence diagnostics of chains, by hand."""

import pytest
import torch
from torch import Tensor

from pyrovae.inverse.methods.chains import diagnose_chains

pytestmark = pytest.mark.usefixtures("float64")

KEPT, CHAINS = 20, 3


def drawn(seed: int) -> Tensor:
    """Independent draws of one latent of one datum."""
    return torch.randn(KEPT, 1, CHAINS, 1, generator=torch.Generator().manual_seed(seed)).double()


def split_r_hat(draws: Tensor) -> float:
    """By Gelman et al. (2013, section 11.4), of the halves of all chains."""
    halves = draws[:, 0, :, 0].T.reshape(2 * CHAINS, KEPT // 2)
    n = KEPT // 2
    within, between = halves.var(1).mean(), n * halves.mean(1).var()
    return (((n - 1) / n * within + between / n) / within).sqrt().item()


def test_r_hat_is_that_of_the_book() -> None:
    found = diagnose_chains(drawn(0))
    assert found["r_hat"].item() == pytest.approx(split_r_hat(drawn(0)), rel=1e-12)
    assert 1 <= found["effective_samples"] <= KEPT * CHAINS


def test_the_worst_latent_of_each_datum_counts() -> None:
    shifted = drawn(1) + 10 * torch.arange(CHAINS)[:, None]
    constant = torch.full_like(shifted, 2.0)
    good = torch.cat([drawn(0), constant], 3)
    bad = torch.cat([drawn(0), shifted], 3)
    found = diagnose_chains(torch.cat([good, bad, torch.cat([constant] * 2, 3)], 1))
    expected = torch.tensor([split_r_hat(drawn(0)), split_r_hat(shifted), 1.0])
    torch.testing.assert_close(found["r_hat"], expected)
    effective = found["effective_samples"]
    assert effective[1] < effective[0] <= effective[2] == KEPT * CHAINS


def test_chains_that_stay_at_different_values_have_not_converged() -> None:
    stuck = torch.zeros(KEPT, 1, CHAINS, 1) + torch.arange(CHAINS)[:, None]
    found = diagnose_chains(stuck)
    assert found["r_hat"].item() == torch.inf
    assert found["effective_samples"].item() < CHAINS


def test_chains_of_three_draws_cannot_be_judged() -> None:
    found = diagnose_chains(drawn(0)[:3])
    assert all(value.isnan().all() for value in found.values())
    assert diagnose_chains(drawn(0)[:4])["r_hat"].isfinite().all()
