"""Fit your own Pyro model and guide: linear regression with one extra latent z per datum.

    python examples/own_model_and_guide.py

The weights of the regression are global latents, which all data share. Each z is a local latent,
which belongs to one datum. ``fit`` knows how many data there are, so on minibatches it weights the
terms of both kinds correctly.
"""

import pyro
import pyro.distributions as dist
import torch
from cyclopts import run
from torch import Tensor, nn
from torch.distributions import constraints

from pyrovae import fit

NUM_DATA, NOISE = 2000, 0.5
TRUE_WEIGHTS = torch.tensor([1.0, -2.0, 0.5])

encoder = nn.Sequential(nn.Linear(4, 16), nn.Tanh(), nn.Linear(16, 2))


def model(x: Tensor, y: Tensor) -> None:
    """y = w . x + z + noise, with z ~ Normal(0, 1) for each datum."""
    weights = pyro.sample("weights", dist.Normal(torch.zeros(3), 10.0).to_event(1))
    with pyro.plate("data", len(x)):
        z = pyro.sample("z", dist.Normal(0.0, 1.0))
        pyro.sample("y", dist.Normal(x @ weights + z, NOISE), obs=y)


def guide(x: Tensor, y: Tensor) -> None:
    """Independent normals. A network computes the one of z from the datum."""
    pyro.module("encoder", encoder)
    loc = pyro.param("loc", torch.zeros(3))
    scale = pyro.param("scale", torch.full((3,), 0.1), constraint=constraints.positive)
    pyro.sample("weights", dist.Normal(loc, scale).to_event(1))
    z_loc, z_scale = encoder(torch.cat([x, y[:, None]], dim=1)).unbind(1)
    with pyro.plate("data", len(x)):
        pyro.sample("z", dist.Normal(z_loc, nn.functional.softplus(z_scale)))


def main(epochs: int = 40) -> None:
    """Simulate data with known weights, fit, and compare with the exact posterior."""
    torch.manual_seed(0)
    x = torch.randn(NUM_DATA, 3)
    y = x @ TRUE_WEIGHTS + torch.randn(NUM_DATA) + NOISE * torch.randn(NUM_DATA)

    history = fit(model, guide, (x, y), epochs=epochs, lr=5e-2, schedule="cosine")

    # The exact posterior of the weights. It is normal, because the model is linear and Gaussian.
    precision = x.T @ x / (1 + NOISE**2) + torch.eye(3) / 10.0**2
    exact_loc = torch.linalg.solve(precision, x.T @ y / (1 + NOISE**2))
    exact_scale = precision.inverse().diagonal().sqrt()
    loc, scale = (history.params[name] for name in ("loc", "scale"))
    for i in range(3):
        print(
            f"weight {i}: true {TRUE_WEIGHTS[i]:5.2f}, exact posterior {exact_loc[i]:.3f} ± "
            f"{exact_scale[i]:.3f}, variational {loc[i]:.3f} ± {scale[i]:.3f}"
        )


if __name__ == "__main__":
    run(main)
