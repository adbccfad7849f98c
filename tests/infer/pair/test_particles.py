"""Several samples of each datum: by a plate where networks take it, else by repeated rows."""

from typing import Any

import pyro
import pyro.distributions as dist
import pytest
import torch
from torch import Tensor, nn

from pyrovae import VAE, InputError
from pyrovae.infer.pair.particles import Particles
from pyrovae.infer.pair.terms import evaluate_terms
from pyrovae.nn import ConvDecoder, ConvEncoder

pytestmark = pytest.mark.usefixtures("float64")


class Pair:
    """A pair whose decoder is any network from rows of two numbers to rows of three."""

    def __init__(self, decoder: Any) -> None:
        self.decoder = decoder
        self.calls: list[torch.Size] = []

    def model(self, x: Tensor) -> None:
        with pyro.plate("data", len(x)):
            z = pyro.sample("z", dist.Normal(torch.zeros(2), 1.0).to_event(1))
            pyro.sample("x", dist.Normal(self.decoder(z), 1.0).to_event(1), obs=x)

    def guide(self, x: Tensor) -> None:
        self.calls.append(x.shape)
        with pyro.plate("data", len(x)):
            pyro.sample("z", dist.Normal(x[:, :2], 0.5).to_event(1))


def particles_of(pair: Any, x: Tensor, num: int = 4) -> Particles:
    return Particles(pair.model, pair.guide, num, "data", (x,), {})


def of_rows(z: Tensor) -> Tensor:
    """Right for rows alone: with a further dimension it mixes the samples up."""
    return torch.tanh(z.reshape(-1, 2).cumsum(0)[:, :1].expand(-1, 3).reshape(*z.shape[:-1], 3))


def strictly_of_rows(z: Tensor) -> Tensor:
    if z.dim() != 2:
        raise RuntimeError("rows are expected")
    return torch.cat([z, z[:, :1]], 1).tanh()


def test_networks_that_take_it_have_a_plate_and_one_run_of_the_encoder() -> None:
    pair = Pair(nn.Linear(2, 3))
    x = torch.randn(5, 3)
    particles = particles_of(pair, x)
    assert particles.layout.uses_plate
    pair.calls.clear()
    terms = evaluate_terms(particles, (x,), {})
    assert pair.calls == [(5, 3)]
    assert terms.log_weight.shape == (4, 5)


@pytest.mark.parametrize("decoder", [strictly_of_rows, of_rows])
def test_others_have_repeated_rows(decoder: Any) -> None:
    pair = Pair(decoder)
    x = torch.randn(5, 3)
    particles = particles_of(pair, x)
    assert not particles.layout.uses_plate
    terms = evaluate_terms(particles, (x,), {})
    assert terms.log_weight.shape == (4, 5)


def test_both_ways_give_the_densities_of_the_samples() -> None:
    x = torch.randn(5, 3)
    network = nn.Linear(2, 3)
    for decoder in (network, lambda z: strictly_of_rows(z) * 0 + network(z)):
        particles = particles_of(Pair(decoder), x)
        terms = evaluate_terms(particles, (x,), {})
        (latent,) = terms.latents
        z = latent.rows(latent.value)
        assert z.shape == (4, 5, 2)
        likelihood = dist.Normal(network(z), 1.0).log_prob(x).sum(-1)
        torch.testing.assert_close(terms.log_likelihood, likelihood)
        log_q = dist.Normal(x[:, :2], 0.5).log_prob(z).sum(-1)
        torch.testing.assert_close(terms.log_q, log_q)
        torch.testing.assert_close(latent.kl_of_dimensions().sum(-1), latent.kl())
        kl = torch.distributions.kl_divergence(
            dist.Normal(x[:, :2], 0.5), dist.Normal(torch.zeros(2), 1.0)
        )
        torch.testing.assert_close(latent.kl_of_dimensions(), kl.expand(4, 5, 2))


def test_our_networks_take_it() -> None:
    for vae in (
        VAE((1, 28, 28), 3, "Bernoulli", encoder=ConvEncoder, decoder=ConvDecoder),
        VAE((6,), 3, "Normal"),
    ):
        x = torch.rand(4, *vae.event_shape).round()
        particles = Particles(vae.model, vae.guide, 3, "data", (x,), {})
        assert particles.layout.uses_plate


def test_a_trial_leaves_no_trace() -> None:
    norm = nn.BatchNorm1d(2)
    pair = Pair(nn.Sequential(norm, nn.Linear(2, 3)))
    x = torch.randn(5, 3)
    before, state = norm.running_mean, torch.get_rng_state()
    assert before is not None
    kept = before.clone()
    assert not particles_of(pair, x).layout.uses_plate
    assert torch.equal(kept, before)
    assert norm.training
    assert torch.equal(torch.get_rng_state(), state)


def test_neither_way_is_refused() -> None:
    """Rows that are not arguments, and a network of rows alone."""
    x = torch.randn(5, 3)
    pair = Pair(strictly_of_rows)
    with pytest.raises(InputError, match="cannot be given several samples of each datum"):
        Particles(lambda: pair.model(x), lambda: pair.guide(x), 4, "data", (), {})
