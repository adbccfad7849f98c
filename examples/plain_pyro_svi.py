"""Train a VAE of this package with Pyro's own SVI and Trace_ELBO, without ``fit``.

python examples/plain_pyro_svi.py
"""

import torch
from cyclopts import run
from pyro.infer import SVI, Trace_ELBO
from pyro.optim import Adam
from torch.utils.data import DataLoader

from pyrovae import VAE, load


def main(epochs: int = 10) -> None:
    """Write the training loop as in Pyro's tutorials."""
    torch.manual_seed(0)
    digits = load("digits").train.x.float() / 16
    vae = VAE((1, 8, 8), latent_dim=10, likelihood={"family": "Normal", "scale": 0.1})
    svi = SVI(vae.model, vae.guide, Adam({"lr": 1e-3}), Trace_ELBO())

    for epoch in range(1, epochs + 1):
        loss = sum(svi.step(x) for x in DataLoader(digits, batch_size=128, shuffle=True))
        print(f"epoch {epoch}: loss {loss / len(digits):.2f} nats per digit")


if __name__ == "__main__":
    run(main)
