"""The VAE: its methods, its parts, and training by Pyro."""

import copy
from functools import partial
from typing import Any

import pyro
import pytest
import torch
from pyro.infer import SVI, Trace_ELBO, TraceMeanField_ELBO
from torch import nn

from pyrovae import VAE, InputError, Likelihood, fit
from pyrovae.nn import MLP, ConvDecoder, ConvEncoder
from pyrovae.posteriors import DiagonalNormal
from pyrovae.priors import StandardNormal

X = (torch.rand(10, 1, 8, 8, generator=torch.Generator().manual_seed(0)) > 0.5).float()


def test_methods_return_the_right_shapes() -> None:
    vae = VAE((1, 8, 8), latent_dim=3)
    assert vae.q(X).event_shape == (3,)
    assert vae.q(X).batch_shape == (10,)
    assert vae.decode(torch.zeros(5, 2, 3)).batch_shape == (5, 2)
    assert vae.decode_mean(torch.zeros(5, 2, 3)).shape == (5, 2, 1, 8, 8)
    assert vae.reconstruct(X, num_samples=0).shape == X.shape
    assert vae.sample(4).shape == (4, 1, 8, 8)
    assert vae.interpolate(X[0], X[1], 7).shape == (7, 1, 8, 8)


def test_reconstruct_sample_and_interpolate_match_their_definitions() -> None:
    vae = VAE((1, 8, 8), latent_dim=3)
    z = vae.q(X).mean
    torch.testing.assert_close(vae.reconstruct(X, num_samples=0), vae.decode_mean(z))
    path = vae.interpolate(X[0], X[1], 5)
    torch.testing.assert_close(path[0], vae.decode_mean(z[0]), rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(path[-1], vae.decode_mean(z[1]), rtol=1e-4, atol=1e-5)
    halfway = vae.decode_mean((z[0] + z[1]) / 2)
    torch.testing.assert_close(path[2], halfway, rtol=1e-4, atol=1e-5)
    assert set(vae.sample(4).unique().tolist()) == {0.0, 1.0}
    means = vae.sample(4, mean=True)
    assert ((means > 0) & (means < 1)).all()
    assert not any(t.requires_grad for t in (path, means, vae.reconstruct(X, num_samples=0)))


@pytest.mark.parametrize(
    "networks", [{}, {"encoder": ConvEncoder, "decoder": ConvDecoder}], ids=["mlp", "conv"]
)
def test_pyro_svi_trains_a_vae(networks: dict[str, Any]) -> None:
    vae = VAE((1, 8, 8), latent_dim=3, **networks)
    svi = SVI(vae.model, vae.guide, pyro.optim.Adam({"lr": 1e-2}), Trace_ELBO())
    losses = [svi.step(X) for _ in range(80)]
    assert sum(losses[-5:]) < 0.8 * sum(losses[:5])


@pytest.mark.parametrize("objective", [Trace_ELBO, TraceMeanField_ELBO])
def test_a_torch_optimiser_on_pyros_elbo_module_trains_a_vae(objective: Any) -> None:
    vae = VAE((1, 8, 8), latent_dim=3)
    elbo = objective()(vae.model, vae.guide)
    assert {id(p) for p in elbo.parameters()} == {id(p) for p in vae.parameters()}
    optimiser = torch.optim.Adam(elbo.parameters(), lr=1e-2)
    losses = []
    for _ in range(80):
        optimiser.zero_grad()
        loss = elbo(X)
        loss.backward()
        optimiser.step()
        losses.append(loss.item())
    assert sum(losses[-5:]) < 0.8 * sum(losses[:5])


def test_pyros_vectorised_particles_give_the_same_mean_loss() -> None:
    """Networks accept the new dimension on the left; the loss has the same mean and less noise."""
    vae = VAE((1, 8, 8), latent_dim=3)
    objective = Trace_ELBO(num_particles=200, vectorize_particles=True, max_plate_nesting=1)
    singles = torch.tensor([Trace_ELBO().loss(vae.model, vae.guide, X) for _ in range(200)])
    error = singles.std().item() * (2 / 200) ** 0.5
    both = objective.loss(vae.model, vae.guide, X), singles.mean().item()
    assert both[0] == pytest.approx(both[1], abs=4.5 * error)


def test_frozen_parameters_stay_unchanged() -> None:
    vae = VAE((1, 8, 8), latent_dim=3)
    vae.model.requires_grad_(False)
    before = copy.deepcopy(vae.state_dict())
    fit(vae.model, vae.guide, X, epochs=2, lr=0.1, progress=False)
    SVI(vae.model, vae.guide, pyro.optim.Adam({"lr": 0.1}), Trace_ELBO()).step(X)
    for name, value in vae.named_parameters():
        assert torch.equal(value, before[name]) is name.startswith("model.")


def test_given_parts_are_used() -> None:
    class Tanh(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.layers = nn.Sequential(nn.Flatten(), nn.Linear(64, 6), nn.Tanh())

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return self.layers(x).unflatten(-1, (2, 3))

    prior, posterior = StandardNormal(3), DiagonalNormal(3)
    vae = VAE(
        (1, 8, 8),
        3,
        Likelihood("Bernoulli"),
        prior,
        posterior,
        encoder=Tanh(),
        decoder=partial(MLP, hidden=(7,)),
    )
    assert vae.model.prior is prior
    assert vae.guide.posterior is posterior
    assert vae.q(X).mean.abs().max() <= 1
    fit(vae.model, vae.guide, X, epochs=1, progress=False)


def test_standardising_tables_works_column_by_column() -> None:
    x = torch.tensor([3.0, -50.0, 7.0]) + torch.tensor([0.1, 20.0, 0.0]) * torch.randn(500, 3)
    vae = VAE((3,), 2, "Normal")
    vae.standardise(x)
    standardised = vae.guide.standardise(x)
    torch.testing.assert_close(standardised.mean(0), torch.zeros(3), atol=1e-3, rtol=0)
    torch.testing.assert_close(standardised[:, :2].std(0, correction=0), torch.ones(2))
    assert standardised[:, 2].abs().max() < 1e-5  # a constant column stays near zero
    with torch.no_grad():
        p = vae.decode(torch.zeros(2))
    assert p.base_dist.scale[1] == pytest.approx(20.0, rel=0.2)
    assert p.mean[1] == pytest.approx(-50.0, abs=20.0)


def test_standardising_images_uses_one_scale_and_keeps_binary_images() -> None:
    grey = 16 * torch.rand(50, 1, 4, 4)
    vae = VAE((1, 4, 4), 2, "Normal")
    vae.standardise(grey)
    standardised = vae.guide.standardise(grey)
    assert standardised.mean().item() == pytest.approx(0, abs=1e-5)
    assert standardised.std(correction=0).item() == pytest.approx(1)
    assert vae.guide.standardise.scale.unique().numel() == 1
    binary = VAE((1, 8, 8), 2)
    binary.standardise(X)
    assert torch.equal(binary.guide.standardise(X), X)


def test_pyro_svi_refuses_data_outside_the_support() -> None:
    vae = VAE((1, 8, 8), 2)
    svi = SVI(vae.model, vae.guide, pyro.optim.Adam({}), Trace_ELBO())
    with pytest.raises(InputError, match="Bernoulli is of whole numbers"):
        svi.step(X / 2)
    with pytest.raises(InputError, match="NaN"):
        svi.step(X * float("nan"))


def test_invalid_arguments_are_refused() -> None:
    with pytest.raises(InputError, match="latent_dim is 0"):
        VAE((3,), 0)
    with pytest.raises(InputError, match="multiples of 4"):
        VAE((1, 9, 9), 2, encoder=ConvEncoder)
    with pytest.raises(InputError, match="unknown likelihood"):
        VAE((3,), 2, "Bernouilly")
