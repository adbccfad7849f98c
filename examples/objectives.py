"""Train the same VAE with several objectives, and compare the results by log p(x).

    python examples/objectives.py

You choose an objective by name, or by a dict with a name and settings. The losses of different
objectives cannot be compared with each other. So the script estimates log p(x) of test data for
every model by importance sampling, with its Monte Carlo error, and counts the active latents.
"""

import torch
from cyclopts import run
from rich.console import Console
from rich.table import Table

from pyrovae import VAE, fit, importance_sample, load
from pyrovae.infer import Linear, latent_report

OBJECTIVES = {
    "ELBO": "elbo",
    "beta = 4": {"name": "beta", "beta": 4.0},
    "ELBO, KL warmed up": {"name": "beta", "beta": Linear(steps=200)},
    "free bits": {"name": "free_bits", "free": 0.5},
    "IWAE, 10 samples": {"name": "iwae", "num_particles": 10},
    "the same, DReG gradient": {"name": "dreg", "num_particles": 10},
}


def main(epochs: int = 30, num_samples: int = 1000) -> None:
    """Train a VAE on the digits with each objective, and print a table of test results."""
    digits = load("digits")
    x, test = digits.train.x.float(), digits.test.x.float()
    table = Table("objective", "log p(x), nats", "Monte Carlo error", "ELBO", "active of 20")
    for title, objective in OBJECTIVES.items():
        torch.manual_seed(0)
        vae = VAE(
            digits.event_shape, latent_dim=20, likelihood={"family": "Binomial", "total_count": 16}
        )
        vae.standardise(x)
        fit(vae.model, vae.guide, x, epochs=epochs, objective=objective)
        estimate = importance_sample(vae.model, vae.guide, test, num_samples=num_samples)
        (latents,) = latent_report(vae.model, vae.guide, test)
        table.add_row(
            title,
            str(estimate.mean),
            f"{estimate.monte_carlo_error:.2f}",
            f"{estimate.elbo.mean():.2f}",
            str(latents.num_active),
        )
    Console().print(table)


if __name__ == "__main__":
    run(main)
