"""Importance weights: their diagnostics, and resampling in proportion to them."""

import pyro
import pyro.distributions as dist
import torch
from torch import Tensor

from pyrovae.inverse.methods.proposals import (
    _evidence_diagnostics,
    _weight_diagnostics,
    systematic_resample,
)
from pyrovae.inverse.observed_pair import compute_log_weights, draw_from_guide


def test_diagnostics_are_those_of_a_mean_of_weights() -> None:
    """log p(y) is the log of a mean; its error follows from that of the mean (delta method)."""
    log_weights = torch.randn(3, 40, dtype=torch.float64) - 5
    weights = log_weights.exp()
    found = _evidence_diagnostics(log_weights)
    torch.testing.assert_close(found["log_likelihood"], weights.mean(1).log())
    of_mean = weights.std(1, correction=1) / 40**0.5
    torch.testing.assert_close(found["standard_error"], of_mean / weights.mean(1))
    effective = weights.sum(1).square() / weights.square().sum(1)
    torch.testing.assert_close(_weight_diagnostics(log_weights)["effective_samples"], effective)


def test_equal_weights_have_no_error() -> None:
    log_weights = torch.full((2, 7), -3.0, dtype=torch.float64)
    assert _evidence_diagnostics(log_weights)["standard_error"].abs().max() < 1e-7
    effective = _weight_diagnostics(log_weights)["effective_samples"]
    torch.testing.assert_close(effective, torch.full((2,), 7.0, dtype=torch.float64))


def test_counts_of_systematic_resampling_are_within_one_of_their_expectation() -> None:
    log_weights = torch.randn(4, 9, dtype=torch.float64)
    log_weights[1, 3] = -torch.inf
    log_weights[2, 5] = torch.nan
    expected = 50 * log_weights.nan_to_num(-torch.inf).softmax(1)
    total, num_runs = torch.zeros(4, 9, dtype=torch.float64), 400
    for _ in range(num_runs):
        rows = systematic_resample(log_weights, 50).view(4, 50)
        of_datum = rows - 9 * torch.arange(4)[:, None]
        assert of_datum.min() >= 0
        assert of_datum.max() < 9
        counts = torch.nn.functional.one_hot(of_datum, 9).sum(1)
        assert ((counts - expected).abs() < 1 + 1e-9).all()
        total += counts
    # A count is one of two neighbouring numbers, so that its variance is at most 1/4.
    assert ((total / num_runs - expected).abs() <= 4.5 * 0.5 / num_runs**0.5).all()


def test_draws_of_resampling_are_in_random_order() -> None:
    log_weights = torch.zeros(1, 20)
    assert not systematic_resample(log_weights, 20).diff().ge(0).all()


def test_log_weights_are_those_of_the_densities() -> None:
    """log p(x, z) - log q(z | x) of each row, at latents drawn and at latents given."""

    def model(x: Tensor) -> None:
        with pyro.plate("data", len(x)):
            z = pyro.sample("z", dist.Normal(0.5, 1.0))
            pyro.sample("x", dist.Normal(z, 2.0), obs=x)

    def guide(x: Tensor) -> None:
        with pyro.plate("data", len(x)):
            pyro.sample("z", dist.Normal(x / 2, 0.7))

    def expected(z: Tensor) -> Tensor:
        log_joint = dist.Normal(0.5, 1.0).log_prob(z) + dist.Normal(z, 2.0).log_prob(x)
        return log_joint - dist.Normal(x / 2, 0.7).log_prob(z)

    x, z = torch.tensor([-1.0, 0.3, 2.0]), torch.tensor([0.2, -0.4, 1.0])
    found = compute_log_weights(model, guide, {"z": z}, (x,), "data")
    torch.testing.assert_close(found, expected(z))
    drawn, log_weights = draw_from_guide(model, guide, (x,), "data")
    torch.testing.assert_close(log_weights, expected(drawn["z"]))
