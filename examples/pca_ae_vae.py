"""From PCA to the VAE, on the 8 x 8 digits: what noise, networks and a prior each add.

    python examples/pca_ae_vae.py

Four models say each digit in two numbers z. Each is one step from the one before:

 PCA          the plane of least squared error: the limit of PPCA without noise
 PPCA         the same plane with a p(z) and noise: a model of x, whose log p(x) is known
 autoencoder  curved where PCA is flat: networks, least squares, no p(z)
 VAE          curved, with a p(z): what PPCA is to PCA, it is to the autoencoder

A latent space is of use for making data if it is *continuous*, so that near codes mean near data
and what lies between two digits is a digit, and *complete*, so that any draw of p(z) is a digit,
of any class. Both are measured here, by a classifier that has learned from data.
"""

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import numpy as np
import torch
from cyclopts import run
from matplotlib.figure import Figure
from rich.console import Console
from rich.table import Table
from sklearn.decomposition import PCA
from sklearn.ensemble import RandomForestClassifier
from torch import Tensor
from torch.distributions import MultivariateNormal

from pyrovae import VAE, Dataset, Likelihood, fit, load
from pyrovae.models.autoencoder import Autoencoder
from pyrovae.models.pca import ProbabilisticPCA
from pyrovae.nn import MLP
from pyrovae.runs.plots import image_grid


@dataclass
class Latent:
    """A model as what it makes of data and codes: embed, decode, and a density to draw z from."""

    title: str
    embed: Callable[[Tensor], Tensor]
    decode: Callable[[Tensor], Tensor]
    prior: MultivariateNormal


@torch.no_grad()
def models(x: Tensor, epochs: int) -> list[Latent]:
    """The four, fitted to data x."""
    # p(z) = Normal(0, I), where there is one; else a normal fitted to the codes, after the fact
    standard = MultivariateNormal(torch.zeros(2), torch.eye(2))

    def fitted(z: Tensor) -> MultivariateNormal:
        return MultivariateNormal(z.mean(0), z.T.cov())

    # PCA: min ||x - mu - W W^T (x - mu)||^2 over orthonormal W
    pca = PCA(2).fit(x.flatten(1))

    def project(x: Tensor) -> Tensor:
        return torch.as_tensor(pca.transform(x.flatten(1))).float()

    def unproject(z: Tensor) -> Tensor:
        return torch.as_tensor(pca.inverse_transform(z)).float().view(-1, *x.shape[1:])

    # PPCA: z ~ Normal(0, I), x ~ Normal(W z + mu, sigma^2 I); max log p(x), in closed form
    ppca = ProbabilisticPCA(x.shape[1:], latent_dim=2)
    ppca.fit(x)

    # The same networks twice: first min ||x - decoder(encoder(x))||^2, without a p(z)
    body = partial(MLP, hidden=(256, 128))
    autoencoder = Autoencoder(
        x.shape[1:], 2, Likelihood("Normal", scale=1.0), encoder=body, decoder=body
    )
    # then max ELBO = E_q[log p(x | z)] - KL(q(z | x) || p(z)): a cloud for each x, not a point
    vae = VAE(x.shape[1:], 2, Likelihood("Normal", scale="shared"), encoder=body, decoder=body)
    for model in (autoencoder, vae):
        model.standardise(x)
        with torch.enable_grad():
            fit(model.model, model.guide, x, epochs=epochs, lr=2e-3, schedule="cosine")

    return [
        Latent("PCA", project, unproject, fitted(project(x))),
        Latent("PPCA", ppca.embed, ppca.decode_mean, standard),
        Latent(
            "autoencoder",
            autoencoder.embed,
            autoencoder.decode_mean,
            fitted(autoencoder.embed(x)),
        ),
        Latent("VAE", vae.embed, vae.decode_mean, standard),
    ]


class Judge:
    """A classifier of digits; how sure it is of an image says how much of a digit that is."""

    def __init__(self, x: Tensor, y: Tensor) -> None:
        self.forest = RandomForestClassifier(200, random_state=0).fit(x.flatten(1), y)

    def probabilities(self, x: Tensor) -> Tensor:
        return torch.as_tensor(self.forest.predict_proba(x.flatten(1)))

    def sureness(self, x: Tensor) -> float:
        """The probability of the likeliest class, on average."""
        return self.probabilities(x).amax(1).mean().item()

    def classes(self, x: Tensor) -> float:
        """How many classes the images are of: exp of the entropy of their mean probabilities."""
        share = self.probabilities(x).mean(0)
        return torch.special.entr(share).sum().exp().item()


def lines(latent: Latent, start: Tensor, end: Tensor, steps: int) -> Tensor:
    """Images decoded along the straight line between the codes of each two data."""
    weight = torch.linspace(0, 1, steps).view(-1, 1)
    z = torch.lerp(latent.embed(start).unsqueeze(1), latent.embed(end).unsqueeze(1), weight)
    return latent.decode(z.flatten(0, 1)).unflatten(0, z.shape[:2])


def jump(paths: Tensor) -> float:
    """The largest change of an image from one step of a line to the next, root mean square."""
    return paths.diff(dim=1).square().mean((2, 3, 4)).sqrt().amax(1).mean().item()


@torch.no_grad()
def measured(latent: Latent, judge: Judge, digits: Dataset, num: int) -> list[float]:
    """A row of the table, all on test data."""
    x, y = digits.test.x.float(), digits.test.y
    first, second = torch.randint(len(x), (2, 20 * num))
    same = y[first] == y[second]
    alike, unlike = (pairs.nonzero()[:num, 0] for pairs in (same & (first != second), ~same))
    error = (x - latent.decode(latent.embed(x))).square().mean().sqrt().item()
    within = lines(latent, x[first[alike]], x[second[alike]], 11)
    between = lines(latent, x[first[unlike]], x[second[unlike]], 11)
    drawn = latent.decode(latent.prior.sample((4 * num,)))
    return [
        error,
        jump(between),
        judge.sureness(within.flatten(0, 1)),
        judge.sureness(between.flatten(0, 1)),
        judge.sureness(drawn),
        judge.classes(drawn),
    ]


@torch.no_grad()
def picture(latents: list[Latent], digits: Dataset) -> Figure:
    """A column for each model."""
    x, y = digits.test.x.float(), digits.test.y
    one_of_each = torch.stack([(y == digit).nonzero()[0, 0] for digit in range(10)])
    shown, others = x[one_of_each], x[one_of_each.roll(-1)]
    figure = Figure(figsize=(14, 9), layout="constrained")
    grid = figure.subplots(4, 4, height_ratios=(2, 5, 10, 6))
    for column, latent in zip(grid.T, latents, strict=True):
        column[0].set_title(latent.title, fontsize="x-large", pad=12)
        images = (
            torch.cat([shown, latent.decode(latent.embed(shown))]),
            latent.decode(latent.prior.sample((50,))),
            lines(latent, shown[:6], others[:6], 10).flatten(0, 1),
        )
        for axes, each in zip(column[[0, 1, 3]], images, strict=True):
            axes.imshow(np.ma.masked_invalid(image_grid(each / 16, 10)), cmap="gray", clim=(0, 1))
            axes.set(xticks=[], yticks=[])
            axes.spines[:].set_visible(False)
        column[2].scatter(*latent.prior.sample((500,)).T, c="0.85", s=5)
        codes = column[2].scatter(*latent.embed(x).T, c=y, cmap="tab10", s=9)
    names = ("decoded", "draws", "codes by class; draws in grey", "lines between digits")
    for axes, name in zip(grid[:, 0], names, strict=True):
        axes.set_ylabel(name)
    dots, _ = codes.legend_elements()
    grid[2, 3].legend(dots, range(10), bbox_to_anchor=(1, 0.5), loc="center left", frameon=False)
    return figure


def main(epochs: int = 100, num: int = 200, output: Path = Path("runs/pca_ae_vae.png")) -> None:
    """Fit the four, put figures in a table, and draw them side by side.

    Arguments:
        epochs: passes of each network through the data.
        num: lines to measure; draws are four times as many.
        output: the picture.
    """
    torch.manual_seed(0)
    digits = load("digits")
    latents = models(digits.train.x.float(), epochs)
    judge = Judge(digits.train.x, digits.train.y)
    table = Table(title="two numbers a digit: reconstruction, continuity, completeness")
    table.add_column("model", no_wrap=True)
    for head in ("error", "jump", "sure, same", "sure, two", "sure, draws", "classes"):
        table.add_column(head, justify="right")
    for latent in latents:
        row = measured(latent, judge, digits, num)
        table.add_row(latent.title, *(f"{value:.2f}" for value in row))
    real = judge.sureness(digits.test.x), judge.classes(digits.test.x)
    table.add_row("(test data)", "", "", "", "", *(f"{value:.2f}" for value in real))
    Console().print(table)
    output.parent.mkdir(parents=True, exist_ok=True)
    picture(latents, digits).savefig(output, dpi=100)
    print(
        "error: of reconstructions of test data, root mean square in grey levels of 16\n"
        "jump: the largest change in a step of a tenth of a line between two classes, likewise\n"
        "sure: how likely a classifier finds the likeliest class, on lines between digits of the\n"
        "same class and of two, and of draws of p(z); PCA and the autoencoder have no p(z), and\n"
        "draw from a normal fitted to their codes\n"
        f"classes: how many of the ten the draws are of\npicture in {output}"
    )


if __name__ == "__main__":
    run(main)
