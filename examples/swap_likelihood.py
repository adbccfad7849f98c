"""Train on the same digits with four likelihoods, by changing one argument.

    python examples/swap_likelihood.py

The ELBOs are of three kinds: a log probability mass of grey levels, a log density in units of grey
levels, and a log probability mass of black and white pixels. Within a kind, the higher ELBO belongs
to the better model. ELBOs of different kinds cannot be compared.
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
    """Train with each likelihood, and print a table of test results, grouped by kind."""
    digits = load("digits")
    table = Table("kind of ELBO", "likelihood", "test ELBO, nats per digit")
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
    print("Higher is better within a section. Sections cannot be compared with each other.")


if __name__ == "__main__":
    run(main)
