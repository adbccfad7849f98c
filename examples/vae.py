"""Train the ready-made VAE on scikit-learn's 8 x 8 digits.

python examples/vae.py
"""

import torch
from cyclopts import run

from pyrovae import VAE, Likelihood, evaluate, fit, load


def main(epochs: int = 30) -> None:
    """Train, evaluate on test data, and print a sample."""
    torch.manual_seed(0)
    digits = load("digits")  # grey levels 0, ..., 16
    vae = VAE(digits.event_shape, latent_dim=20, likelihood=Likelihood("Binomial", total_count=16))
    vae.standardise(digits.train.x)

    fit(
        vae.model,
        vae.guide,
        digits.train.x,
        validation=digits.validation.x,
        epochs=epochs,
    )

    test = evaluate(vae.model, vae.guide, digits.test.x)
    print(f"test ELBO {test.elbo} nats per digit (KL {test.kl})")
    print("a sample from the prior:")
    for row in vae.sample(1, mean=True)[0, 0]:
        print("".join(" .:-=+*#%@"[int(level / 16 * 9)] * 2 for level in row))


if __name__ == "__main__":
    run(main)
