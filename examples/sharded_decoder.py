"""Train a VAE with a decoder that is split over two processes; each holds half of its parameters.

    torchrun --nproc-per-node 2 examples/sharded_decoder.py

``python examples/sharded_decoder.py`` trains the same model in one process, and gives the same
results to round-off.
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
"""Both are even, so that the two shards of every batch have the same size."""


def main(epochs: int = 5) -> None:
    """Train on digits, count the parameters in this process, and evaluate on test data."""
    group = None
    if "RANK" in os.environ:  # set by torchrun
        dist.init_process_group("gloo")
        group = dist.group.WORLD
    torch.manual_seed(0)
    digits = load("digits")
    vae = VAE(
        digits.event_shape, latent_dim=20, likelihood={"family": "Binomial", "total_count": 16}
    )
    for layer in vae.model.decoder.modules():
        if group is not None and isinstance(layer, Linear):
            fully_shard(layer)  # gathers all weights of the layer only while the layer is used
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

    test = evaluate(vae.model, vae.guide, digits.test.x)  # both processes take part
    if group is None or dist.get_rank() == 0:
        print(f"{num_held:,} parameters of the decoder held; test ELBO {test.elbo} nats per digit")
    if group is not None:
        dist.barrier()  # without it, threads of gloo may still hold tensors as Python exits
        dist.destroy_process_group()


if __name__ == "__main__":
    run(main)
