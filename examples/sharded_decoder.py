"""A decoder that is split over two processes, each of which holds half of its parameters.

    torchrun --nproc-per-node 2 examples/sharded_decoder.py

``python examples/sharded_decoder.py`` trains the same in one process, to round-off.
"""

import os

import torch
import torch.distributed as dist
from cyclopts import run
from torch.distributed.fsdp import fully_shard
from torch.distributed.tensor import DTensor
from torch.nn import Linear

from pyrovae import VAE, evaluate, fit, load

NUM, BATCH = 1280, 64
"""Both are twice a whole number, so that the shards of each batch are of one size."""


def main(epochs: int = 5) -> None:
    """Train on digits, count what this process holds, and evaluate on test data."""
    group = None
    if "RANK" in os.environ:  # as torchrun sets it
        dist.init_process_group("gloo")
        group = dist.group.WORLD
    torch.manual_seed(0)
    digits = load("digits")
    vae = VAE(
        digits.event_shape, latent_dim=20, likelihood={"family": "Binomial", "total_count": 16}
    )
    for layer in vae.model.decoder.modules():
        if group is not None and isinstance(layer, Linear):
            fully_shard(layer)  # all of its weights are together only while it is used
    held = [p.to_local() if isinstance(p, DTensor) else p for p in vae.model.decoder.parameters()]
    num_held = sum(part.numel() for part in held)

    x = digits.train.x[:NUM]
    fit(
        vae.model,
        vae.guide,
        x,
        batch_size=BATCH,
        epochs=epochs,
        shards=2,
        group=group,
        progress=False,
    )

    test = evaluate(vae.model, vae.guide, digits.test.x)  # to which each process gives its part
    if group is None or dist.get_rank() == 0:
        print(f"{num_held:,} parameters of the decoder held; test ELBO {test.elbo} nats a digit")
    if group is not None:
        dist.destroy_process_group()


if __name__ == "__main__":
    run(main)
