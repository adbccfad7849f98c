"""Tensors given with each datum: exposures and numbers of trials."""

import pytest
import torch

from pyrovae import VAE, InputError, Likelihood, fit


def test_number_of_trials_through_a_model() -> None:
    trials = torch.randint(1, 20, (64, 3)).float()
    x = torch.distributions.Binomial(trials, torch.tensor(0.7)).sample()
    vae = VAE((3,), latent_dim=2, likelihood=Likelihood("Binomial", total_count="data"))
    vae.standardise(x, trials)
    fit(vae.model, vae.guide, (x, trials), epochs=2, progress=False)
    with pytest.raises(InputError, match="Binomial cannot have produced"):
        fit(vae.model, vae.guide, (x + 20, trials), epochs=1, progress=False)
    with pytest.raises(InputError, match="takes x and total_count; got 0"):
        fit(vae.model, vae.guide, x, epochs=1, progress=False)


def test_exposures_are_positive() -> None:
    vae = VAE((3,), latent_dim=2, likelihood=Likelihood("Poisson", exposure=True))
    for wrong in (0.0, -1.0, float("inf"), float("nan")):
        exposure = torch.tensor([1.0, wrong])
        with pytest.raises(InputError, match="exposures must be positive"):
            fit(vae.model, vae.guide, (torch.ones(2, 3), exposure), epochs=1, progress=False)


def test_number_of_trials_from_the_data() -> None:
    likelihood = Likelihood("Binomial", total_count="data")
    layer = likelihood.build((3,))
    eta, n = torch.randn(2, *layer.in_shape), torch.tensor([[5.0, 6, 7], [1, 2, 3]])
    expected = torch.distributions.Binomial(n, logits=eta[:, 0]).log_prob(torch.ones(2, 3)).sum(-1)
    given = layer.given_with(torch.ones(2, 3), n)
    torch.testing.assert_close(layer(eta, given).log_prob(torch.ones(2, 3)), expected)
