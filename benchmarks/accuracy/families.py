"""``python -m benchmarks.accuracy.families``: compare priors, posteriors and hierarchies on MNIST.

All models have the same data, epochs and seed, and hidden layers of the same width. The script
estimates log p(x) of the test images, binarised once, by importance sampling, and its difference
to the plain VAE, paired by image.
"""

import json
from functools import partial
from pathlib import Path
from time import perf_counter
from typing import Any

import torch
from cyclopts import run
from rich.console import Console
from rich.table import Table

from pyrovae import binarise, evaluate, fit, importance_sample
from pyrovae.infer import Estimate
from pyrovae.models.catalogue import build_model
from pyrovae.nn import MLP

from ..data import images, test_images

FAMILIES: dict[str, dict[str, Any]] = {
    "plain": {},
    "learned normal prior": {"prior": "learned"},
    "mixture prior, 100": {"prior": {"name": "mixture", "num_components": 100}},
    "VampPrior, 500": {"prior": {"name": "vamp", "num_components": 500}},
    "flow prior": {"prior": "flow"},
    "full-rank posterior": {"posterior": "full_rank"},
    "inverse-autoregressive posterior": {"posterior": "iaf"},
    "spline-flow posterior": {"posterior": "spline"},
    "hierarchy, bottom up": {"model": {"guide": "bottom_up"}},
    "hierarchy, top down": {"model": {"guide": "top_down"}},
    "hierarchy, top down, KL warmed up": {
        "model": {"guide": "top_down"},
        "objective": {"name": "beta", "beta": {"steps": 4690}},
    },
    "semi-amortised": {"inference": "semi_amortised"},
}
"""The settings in which each model differs from the plain VAE."""


def main(
    *names: str,
    epochs: int = 30,
    num_samples: int = 500,
    latent_dim: int = 40,
    hidden: int = 400,
    seed: int = 0,
    output: Path = Path("families.json"),
) -> None:
    """Train, evaluate, print a table and write it as JSON.

    Args:
        names: models to compare with the plain VAE; all by default.
        epochs: passes through the 60,000 training images.
        num_samples: importance samples per image for log p(x).
        latent_dim: number of latents; a hierarchy has this number below, and half of it above.
        hidden: width of the hidden layer.
        seed: seed of parameters, batches and noise.
        output: path of the JSON file.
    """
    x = binarise(test_images(), 255, torch.Generator().manual_seed(0))
    chosen = {name: FAMILIES[name] for name in ("plain", *(names or list(FAMILIES)[1:]))}
    table = Table(title=f"MNIST test images, nats per image; {epochs} epochs, K = {num_samples}")
    columns = ("parameters", "s per epoch", "ELBO", "log p(x)", "± s.e.", "− plain", "± s.e.")
    for column in ("", *columns):
        table.add_column(column, justify="left" if not column else "right")
    record: dict[str, Any] = {"epochs": epochs, "num_samples": num_samples, "seed": seed}
    plain = torch.zeros(len(x))
    for name, parts in chosen.items():
        torch.manual_seed(seed)
        parts = dict(parts)
        model = parts.pop("model", None)
        objective = parts.pop("objective", "elbo")
        dims = [latent_dim, latent_dim // 2]
        body = partial(MLP, hidden=(hidden,))
        family = build_model(
            "vae"
            if model is None
            else {"name": "hierarchical", "latent_dims": dims, "hidden": [hidden], **model},
            event_shape=(784,),
            latent_dim=latent_dim,
            likelihood="Bernoulli",
            encoder=body,
            decoder=body,
            missing=False,
            **parts,
        )
        transform = partial(binarise, levels=255)
        family.standardise(transform(images()))
        start = perf_counter()
        fit(
            family.model,
            family.guide,
            images(),
            epochs=epochs,
            transform=transform,
            objective=objective,
        )
        seconds = (perf_counter() - start) / epochs
        elbo = evaluate(family.model, family.guide, x).elbo
        estimate = importance_sample(family.model, family.guide, x, num_samples=num_samples)
        if name == "plain":
            plain = estimate.log_likelihood
        gain = Estimate.of(estimate.log_likelihood - plain)
        figures: dict[str, Any] = {
            "parameters": sum(p.numel() for p in family.parameters()),
            "seconds an epoch": seconds,
            "ELBO": elbo.mean,
            "log p(x)": estimate.mean.mean,
            "standard error": estimate.mean.standard_error,
            "Monte Carlo error": estimate.monte_carlo_error,
            "above plain": gain.mean,
            "its standard error": gain.standard_error,
        }
        record[name] = figures
        print(name, figures, flush=True)
        table.add_row(
            name,
            f"{figures['parameters']:,}",
            f"{seconds:.1f}",
            f"{elbo.mean:.2f}",
            f"{estimate.mean.mean:.2f}",
            f"{estimate.mean.standard_error:.2f}",
            *(("", "") if name == "plain" else (f"{gain.mean:+.2f}", f"{gain.standard_error:.2f}")),
        )
        output.write_text(json.dumps(record, indent=2) + "\n")
    Console().print(table)


if __name__ == "__main__":
    run(main)
