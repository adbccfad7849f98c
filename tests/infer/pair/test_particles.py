"""Several samples of each datum: in a plate if networks take it, else in repeated rows."""

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


def make_particles(pair: Any, x: Tensor, num: int = 4) -> Particles:
    return Particles(pair.model, pair.guide, num, "data", (x,), {})


def mix_rows(z: Tensor) -> Tensor:
    """Correct for rows only: with a further dimension it mixes up the samples."""
    return torch.tanh(z.reshape(-1, 2).cumsum(0)[:, :1].expand(-1, 3).reshape(*z.shape[:-1], 3))


def refuse_plates(z: Tensor) -> Tensor:
    if z.dim() != 2:
        raise RuntimeError("rows are expected")
    return torch.cat([z, z[:, :1]], 1).tanh()


def test_networks_that_take_further_dimensions_run_once_in_a_plate() -> None:
    pair = Pair(nn.Linear(2, 3))
    x = torch.randn(5, 3)
    particles = make_particles(pair, x)
    assert particles.layout.uses_plate
    pair.calls.clear()
    terms = evaluate_terms(particles, (x,), {})
    assert pair.calls == [(5, 3)]
    assert terms.log_weight.shape == (4, 5)


@pytest.mark.parametrize("decoder", [refuse_plates, mix_rows])
def test_other_networks_have_repeated_rows(decoder: Any) -> None:
    pair = Pair(decoder)
    x = torch.randn(5, 3)
    particles = make_particles(pair, x)
    assert not particles.layout.uses_plate
    terms = evaluate_terms(particles, (x,), {})
    assert terms.log_weight.shape == (4, 5)


def test_both_layouts_give_the_densities_of_the_samples() -> None:
    x = torch.randn(5, 3)
    network = nn.Linear(2, 3)
    for decoder in (network, lambda z: refuse_plates(z) * 0 + network(z)):
        particles = make_particles(Pair(decoder), x)
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


def test_networks_of_the_package_run_in_a_plate() -> None:
    for vae in (
        VAE((1, 28, 28), 3, "Bernoulli", encoder=ConvEncoder, decoder=ConvDecoder),
        VAE((6,), 3, "Normal"),
    ):
        x = torch.rand(4, *vae.event_shape).round()
        particles = Particles(vae.model, vae.guide, 3, "data", (x,), {})
        assert particles.layout.uses_plate


def test_the_trial_changes_no_state() -> None:
    norm = nn.BatchNorm1d(2)
    pair = Pair(nn.Sequential(norm, nn.Linear(2, 3)))
    x = torch.randn(5, 3)
    before, state = norm.running_mean, torch.get_rng_state()
    assert before is not None
    kept = before.clone()
    assert not make_particles(pair, x).layout.uses_plate
    assert torch.equal(kept, before)
    assert norm.training
    assert torch.equal(torch.get_rng_state(), state)


def test_pairs_without_a_layout_are_refused() -> None:
    """The data are no argument, and the network takes only rows."""
    x = torch.randn(5, 3)
    pair = Pair(refuse_plates)
    with pytest.raises(InputError, match="cannot be given several samples of each datum"):
        Particles(lambda: pair.model(x), lambda: pair.guide(x), 4, "data", (), {})


def test_a_first_argument_that_is_not_the_batch_is_refused() -> None:
    """Repeating its rows does not repeat the data."""
    x = torch.randn(5, 3)
    pair = Pair(refuse_plates)
    args = (torch.ones(2),)
    with pytest.raises(InputError, match="its first argument is not the batch of data"):
        Particles(lambda w: pair.model(x), lambda w: pair.guide(x), 4, "data", args, {})
