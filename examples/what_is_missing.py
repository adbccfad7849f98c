"""Reconstruct x from an observation y: inpainting, denoising and super-resolution by one VAE.

    python examples/what_is_missing.py

A VAE p(z) p(x | z) is trained on whole digits. An observation y is computed from x by an operator:
half of the pixels, the digit with noise, or the means of 2 x 2 blocks. So y has the same latents,
with another likelihood, p(y | z), which the operator derives from p(x | z). If you can draw from
p(z | y), you can draw from p(x | y).

The script compares methods of drawing from p(z | y) by log p(hidden pixels | observed pixels),
evaluated at the true pixels. At the end it trains a second VAE on digits that each have half of
their pixels missing.
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
    "amortised": "the encoder, on the digit filled in",
    "refined": "gradient steps on q(z | y) of each digit",
    "importance": "draws of the refined q, reweighted and resampled",
    "pseudo_gibbs": "alternate z | x from the encoder and x | y, z",
    "metropolis_within_gibbs": "the same, with accept or reject of z",
}


def train(x: Tensor, epochs: int, *, missing: bool = False) -> VAE:
    """Train a VAE by maximising the ELBO.

    If pixels are missing, maximise an importance-weighted bound on the log-likelihood of the
    observed pixels instead (Mattei and Frellsen 2019). The encoder then also gets the mask.
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
    """log p(hidden pixels | observed pixels) of each digit, in nats."""
    return vae.posterior(y, method=method, progress=False).log_prob(x)


def make_table(title: str, log_ps: dict[str, Tensor], seconds: dict[str, float]) -> Table:
    """Table of means over digits, and of mean differences to the first row, paired by digit."""
    table = Table(title, "log p(hidden | observed)", "− first row", "seconds", box=SIMPLE)
    first, *_ = log_ps.values()
    for name, log_p in log_ps.items():
        cells = [Estimate.of(log_p), Estimate.of(log_p - first)]
        words = [f"{cell.mean:.2f} ± {cell.standard_error:.2f}" for cell in cells]
        table.add_row(name, *words, f"{seconds[name]:.1f}" if name in seconds else "")
    return table


def draw_tasks(tasks: dict[str, tuple[Tensor, Posterior]], x: Tensor) -> Figure:
    """Draw, for each task, the digits x, the observations y, E[x | y], 2 sd of x | y, and draws."""
    figure = Figure(figsize=(10, 7), layout="constrained")
    names = ["x", "y", "E[x | y]", "2 sd", "draws", "", ""]
    panels = figure.subplots(2, 2).flat
    for axes, (title, (y, result)) in zip(panels, tasks.items(), strict=True):
        # Enlarge y to the size of x
        y = y.repeat_interleave(8 // y.shape[-1], -2).repeat_interleave(8 // y.shape[-1], -1)
        rows = [x, y, result.mean, 2 * result.sd, *result.x[:3]]
        grid = image_grid(torch.cat(rows) / 16, len(x))
        axes.imshow(np.ma.masked_invalid(grid), cmap="gray", clim=(0, 1))
        axes.set_facecolor("tab:blue")  # the colour of hidden pixels
        axes.set(title=title, xticks=[])
        axes.set_yticks([9 * row + 4.5 for row in range(len(names))], names)
        axes.tick_params(length=0)
    return figure


def main(
    epochs: int = 100, num_tested: int = 100, output: Path = Path("what_is_missing.png")
) -> None:
    """Train, compare the methods, draw the tasks, and train on incomplete digits.

    Arguments:
        epochs: passes through the training data.
        num_tested: number of test digits on which the methods are compared.
        output: path of the picture.
    """
    torch.manual_seed(0)
    digits = load("digits")
    whole, x = digits.train.x.float(), digits.test.x.float()
    vae = train(whole, epochs)

    # Compare the methods on digits with the lower half hidden.
    hidden = torch.zeros(1, 8, 8, dtype=torch.bool)
    hidden[:, 4:] = True
    upper_half = Mask(~hidden)
    y = upper_half.observe(x)[:num_tested]
    log_ps, seconds = {}, {}
    for method, name in METHODS.items():
        start = perf_counter()
        log_ps[name] = log_p_hidden(vae, x[:num_tested], y, method)
        seconds[name] = perf_counter() - start
    console = Console()
    console.print(make_table("lower half hidden, nats", log_ps, seconds))

    # Four tasks with the same VAE: you only change the operator.
    half = Mask(torch.rand(1, 8, 8, generator=torch.Generator().manual_seed(0)) < 0.5)
    operators: dict[str, Operator] = {
        "half of the pixels": half,
        "the upper half": upper_half,
        "noise of sd 4": Noise(4.0),
        "means of 2 x 2 blocks": Downsample(2, noise=0.5, of="mean"),
    }
    tasks = {}
    for name, operator in operators.items():
        y_task = operator.observe(x[:10])
        tasks[name] = y_task, vae.posterior(y_task, operator=operator, progress=False)
    draw_tasks(tasks, x[:10]).savefig(output, dpi=120)
    console.print(f"{len(tasks)} tasks in {output}")

    # Train without a single whole digit, and compare with the VAE above.
    y = half.observe(x)[:num_tested]
    is_missing = torch.rand(whole.shape) < 0.5
    incomplete_vae = train(whole.masked_fill(is_missing, torch.nan), epochs, missing=True)
    models = {"trained on whole digits": vae, "on half of the pixels of each": incomplete_vae}
    log_ps = {
        name: log_p_hidden(model, x[:num_tested], y, "importance") for name, model in models.items()
    }
    console.print(make_table("half of the pixels hidden, nats", log_ps, {}))


if __name__ == "__main__":
    run(main)
