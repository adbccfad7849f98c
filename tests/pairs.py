"""Model and guide pairs that several tests train and score."""

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial

import pyro
import pyro.distributions as dist
import torch
from torch import Tensor, nn
from torch.distributions import MultivariateNormal, constraints, kl_divergence

from pyrovae import VAE
from pyrovae.nn import MLP

NUM_DATA = 12


def pop_gradients(parameters: dict[str, Tensor]) -> dict[str, Tensor]:
    """Return the gradients by name, and clear them from the parameters."""
    gradients = {}
    for name, parameter in parameters.items():
        assert parameter.grad is not None, name
        gradients[name], parameter.grad = parameter.grad.clone(), None
    return gradients


def assert_unbiased(estimates: Tensor, exact: Tensor, sigmas: float = 4.5) -> None:
    """Check that the mean over the rows of estimates equals the exact value, to Monte Carlo error.

    With a random seed, a number would exceed 4.5 standard errors with probability 1 in 150,000.
    Numbers without variance must agree to round-off.
    """
    error = estimates.std(0) / len(estimates) ** 0.5
    assert error.shape == exact.shape
    difference = (estimates.mean(0) - exact).abs()
    tolerance = sigmas * error + 1e-9 * exact.abs().clamp(min=1)
    assert (difference <= tolerance).all(), difference / error


@dataclass
class UserPair:
    """A model and guide as a user writes them, with global and local latents, one of them discrete.

    All data share ``weights`` (reparameterised). Each datum has a discrete latent ``k``, without a
    reparameterised gradient, and a continuous latent ``z`` given k.
    """

    encoder: nn.Module
    decoder: nn.Module
    plate_size: Callable[[Tensor], dict[str, object]]

    def model(self, x: Tensor) -> None:
        pyro.module("decoder", self.decoder)
        noise = pyro.param("noise", torch.tensor(0.7), constraint=constraints.positive)
        weights = pyro.sample("weights", dist.Normal(torch.zeros(2), 1.0).to_event(1))
        with pyro.plate("data", **self.plate_size(x)):
            k = pyro.sample("k", dist.Bernoulli(0.4))
            z = pyro.sample("z", dist.Normal(k[:, None] * weights, 1.0).to_event(1))
            pyro.sample("x", dist.Normal(self.decoder(z), noise).to_event(1), obs=x)

    def guide(self, x: Tensor) -> None:
        pyro.module("encoder", self.encoder)
        loc = pyro.param("loc", torch.tensor([0.3, -0.2]))
        scale = pyro.param("scale", torch.tensor([0.5, 0.8]), constraint=constraints.positive)
        pyro.sample("weights", dist.Normal(loc, scale).to_event(1))
        h = self.encoder(x)
        with pyro.plate("data", **self.plate_size(x)):
            pyro.sample("k", dist.Bernoulli(logits=h[:, 0]))
            pyro.sample("z", dist.Normal(h[:, 1:3], h[:, 3:].exp()).to_event(1))


def user_pair(plate_size: Callable[[Tensor], dict[str, object]] | None = None) -> UserPair:
    """Make a user's pair for data of shape (num, 3), always with the same weights."""
    torch.manual_seed(1)
    return UserPair(
        nn.Sequential(nn.Linear(3, 4), nn.Tanh(), nn.Linear(4, 5)),
        nn.Sequential(nn.Linear(2, 4), nn.Tanh(), nn.Linear(4, 3)),
        plate_size or (lambda x: {"size": len(x)}),
    )


def linear_gaussian_vae(scale: float = 0.6) -> VAE:
    """Make a VAE with linear networks, so that all its quantities have a closed form."""
    body = partial(MLP, hidden=())
    likelihood = {"family": "Normal", "scale": scale}
    return VAE((3,), latent_dim=2, likelihood=likelihood, encoder=body, decoder=body)


def exact_log_evidence(vae: VAE, x: Tensor, scale: float = 0.6) -> Tensor:
    """log p(x) = log Normal(x; b, W W' + s^2 I), of probabilistic PCA (Tipping and Bishop 1999)."""
    linear = vae.model.decoder.layers[0]
    covariance = linear.weight @ linear.weight.T + scale**2 * torch.eye(3)
    return MultivariateNormal(linear.bias, covariance).log_prob(x)


def exact_kl_to_posterior(vae: VAE, x: Tensor, scale: float = 0.6) -> Tensor:
    """KL(q(z|x) || p(z|x)), with p(z|x) = Normal(M^-1 W'(x - b) / s^2, M^-1), M = I + W'W / s^2."""
    linear = vae.model.decoder.layers[0]
    precision = torch.eye(2) + linear.weight.T @ linear.weight / scale**2
    covariance = precision.inverse()
    loc = (x - linear.bias) @ linear.weight @ covariance / scale**2
    q = vae.q(x).base_dist
    q = MultivariateNormal(q.loc, torch.diag_embed(q.scale**2))
    return kl_divergence(q, MultivariateNormal(loc, covariance))
