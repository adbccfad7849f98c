"""The same digits under four likelihoods: one word changes, and everything follows.

What is compared is said first. A probability mass of grey levels, a density in units of grey
levels and a mass of black and white pixels are figures of three kinds: within a kind the higher
ELBO belongs to the better model, between kinds nothing follows.
"""

from functools import partial

import torch
from cyclopts import run
from rich.console import Console
from rich.table import Table
from torch import Tensor

from pyrovae import VAE, binarise, evaluate, fit, load

KINDS = {
    "log mass of 17 grey levels": [
        {"family": "Binomial", "total_count": 16},
        {"family": "Categorical", "num_classes": 17},
    ],
    "log density of grey levels": [{"family": "Normal"}],
    "log mass of binarised pixels": [{"family": "Bernoulli"}],
}


def main(epochs: int = 30) -> None:
    """Train four times and put held-out results in a table, kind by kind."""
    digits = load("digits")
    table = Table("what is measured", "likelihood", "test ELBO, nats a digit")
    for kind, likelihoods in KINDS.items():
        results = []
        for likelihood in likelihoods:
            torch.manual_seed(0)
            vae = VAE(digits.event_shape, latent_dim=20, likelihood=likelihood)
            binary = likelihood["family"] == "Bernoulli"
            to_data = partial(binarise, levels=16) if binary else Tensor.float
            vae.standardise(to_data(digits.train.x))
            fit(vae.model, vae.guide, digits.train.x, transform=to_data, epochs=epochs)
            elbo = evaluate(vae.model, vae.guide, digits.test.x, transform=to_data).elbo
            results.append((elbo.mean, str(elbo), likelihood["family"]))
        for _, elbo_text, family in sorted(results, reverse=True):
            table.add_row(kind, family, elbo_text)
        table.add_section()
    Console().print(table)
    print("Higher is better within a section; between sections nothing follows.")


if __name__ == "__main__":
    run(main)
