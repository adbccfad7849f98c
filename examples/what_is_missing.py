"""Infer x from part of x: inpainting, denoising and super-resolution by one model of digits.

    python examples/what_is_missing.py

A VAE is trained on whole digits, p(z) p(x | z). What is seen of a digit, y, depends on x alone:
half of its pixels, the digit under noise, the means of its 2 x 2 blocks. So y has the same latents
and another likelihood, p(y | z), which an operator makes of p(x | z); and whoever can draw from
p(z | y) can draw from p(x | y). How to draw is judged by log p(hidden pixels | seen pixels), at the
digits as they were. Last, the model learns from digits of which half of the pixels were never seen.
"""

from pathlib import Path
from time import perf_counter

import numpy as np
import torch
from cyclopts import run
from matplotlib.figure import Figure
from rich.box import SIMPLE
from rich.console import Console
from rich.table import Table
from torch import Tensor

from pyrovae import VAE, fit, load
from pyrovae.infer import Estimate
from pyrovae.inverse import Downsample, Mask, Noise, Operator, Posterior
from pyrovae.runs.plots import image_grid

LATENT_DIM = 8
COUNTS = {"family": "Binomial", "total_count": 16}
METHODS = {
    "amortised": "the encoder, shown the digit filled in",
    "refined": "gradient steps on q(z | y) of each digit",
    "importance": "draws of the refined q, weighed and drawn again",
    "pseudo_gibbs": "z | x from the encoder, x | y, z, and again",
    "metropolis_within_gibbs": "the same, but z accepted or not",
}


def train(x: Tensor, epochs: int, *, missing: bool = False) -> VAE:
    """Maximise the ELBO; or, where pixels are missing, an importance-weighted bound on log p of
    those that are not (Mattei and Frellsen 2019), the encoder being shown which they are.
    """
    vae = VAE((1, 8, 8), LATENT_DIM, COUNTS, missing=missing)
    vae.standardise(x)
    objective = {"name": "iwae", "num_particles": 10} if missing else "elbo"
    fit(
        vae.model,
        vae.guide,
        x,
        epochs=epochs,
        lr=2e-3,
        schedule="cosine",
        objective=objective,
        progress=False,
    )
    return vae.eval()


def log_p_hidden(vae: VAE, x: Tensor, y: Tensor, method: str) -> Tensor:
    """log p(x hidden | x seen) of each digit, in nats."""
    return vae.posterior(y, method=method, progress=False).log_prob(x)


def compare(title: str, of_each: dict[str, Tensor], seconds: dict[str, float]) -> Table:
    """Means over digits, and how far they are above the first, digit by digit."""
    table = Table(title, "log p(hidden | seen)", "above the first", "seconds", box=SIMPLE)
    first, *_ = of_each.values()
    for name, log_p in of_each.items():
        cells = [Estimate.of(log_p), Estimate.of(log_p - first)]
        words = [f"{cell.mean:.2f} ± {cell.standard_error:.2f}" for cell in cells]
        table.add_row(name, *words, f"{seconds[name]:.1f}" if name in seconds else "")
    return table


def picture(tasks: dict[str, tuple[Tensor, Posterior]], x: Tensor) -> Figure:
    """For each task: digits, what was seen of them, E[x | y], its standard deviation, draws."""
    figure = Figure(figsize=(10, 7), layout="constrained")
    names = ["x", "y", "E[x | y]", "2 sd", "draws", "", ""]
    panels = figure.subplots(2, 2).flat
    for axes, (title, (y, result)) in zip(panels, tasks.items(), strict=True):
        seen = y.repeat_interleave(8 // y.shape[-1], -2).repeat_interleave(8 // y.shape[-1], -1)
        rows = [x, seen, result.mean, 2 * result.sd, *result.x[:3]]
        grid = image_grid(torch.cat(rows) / 16, len(x))
        axes.imshow(np.ma.masked_invalid(grid), cmap="gray", clim=(0, 1))
        axes.set_facecolor("tab:blue")  # which hidden pixels show
        places = [9 * row + 4.5 for row in range(len(names))]
        axes.set(title=title, xticks=[])
        axes.set_yticks(places, names)
        axes.tick_params(length=0)
    return figure


def main(
    epochs: int = 100, num_tested: int = 100, output: Path = Path("what_is_missing.png")
) -> None:
    """Train, compare the methods, draw the tasks, and train on incomplete digits.

    Arguments:
        epochs: passes through the training data.
        num_tested: test digits by which methods are judged.
        output: path of the picture.
    """
    torch.manual_seed(0)
    digits = load("digits")
    whole, x = digits.train.x.float(), digits.test.x.float()
    vae = train(whole, epochs)

    # p(x hidden | x seen), by each way to draw from p(z | x seen)
    hidden = torch.zeros(1, 8, 8, dtype=torch.bool)
    hidden[:, 4:] = True
    lower = Mask(~hidden)
    y = lower.observe(x)[:num_tested]
    of_each, seconds = {}, {}
    for method, name in METHODS.items():
        start = perf_counter()
        of_each[name] = log_p_hidden(vae, x[:num_tested], y, method)
        seconds[name] = perf_counter() - start
    console = Console()
    console.print(compare("lower half hidden, nats", of_each, seconds))

    # The same model, other likelihoods: one line each
    half = Mask(torch.rand(1, 8, 8, generator=torch.Generator().manual_seed(0)) < 0.5)
    operators: dict[str, Operator] = {
        "half of the pixels": half,
        "the upper half": lower,
        "under noise of sd 4": Noise(4.0),
        "means of 2 x 2 blocks": Downsample(2, noise=0.5, of="mean"),
    }
    tasks = {}
    for name, operator in operators.items():
        seen = operator.observe(x[:10])
        tasks[name] = seen, vae.posterior(seen, operator=operator, progress=False)
    picture(tasks, x[:10]).savefig(output, dpi=120)
    console.print(f"{len(tasks)} tasks in {output}")

    # Learning without ever seeing a whole digit
    y = half.observe(x)[:num_tested]
    gone = torch.rand(whole.shape) < 0.5
    of_parts = train(whole.masked_fill(gone, torch.nan), epochs, missing=True)
    models = {"trained on whole digits": vae, "on half of the pixels of each": of_parts}
    of_each = {
        name: log_p_hidden(model, x[:num_tested], y, "importance") for name, model in models.items()
    }
    console.print(compare("half of the pixels hidden, nats", of_each, {}))


if __name__ == "__main__":
    run(main)
