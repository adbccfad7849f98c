"""The learned normal prior against closed forms."""

import pytest
import torch

from pyrovae.priors import LearnedNormal, StandardNormal


def test_starts_as_the_standard_normal() -> None:
    z = torch.randn(4, 5, 3)
    torch.testing.assert_close(LearnedNormal(3)().log_prob(z), StandardNormal(3)().log_prob(z))
    assert torch.equal(LearnedNormal(3)().stddev, torch.ones(3))


@pytest.mark.usefixtures("float64")
def test_maximum_likelihood_is_the_mean_and_standard_deviation() -> None:
    z = torch.tensor([2.0, -1.0]) + torch.tensor([0.1, 3.0]) * torch.randn(50, 2)
    prior = LearnedNormal(2)
    optimiser = torch.optim.LBFGS(prior.parameters(), max_iter=200, line_search_fn="strong_wolfe")

    def loss() -> torch.Tensor:
        optimiser.zero_grad()
        value = -prior().log_prob(z).mean()
        value.backward()
        return value

    optimiser.step(loss)
    torch.testing.assert_close(prior().mean, z.mean(0), rtol=1e-4, atol=1e-4)
    torch.testing.assert_close(prior().stddev, z.std(0, correction=0), rtol=1e-4, atol=1e-4)
