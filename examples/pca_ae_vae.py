"""From PCA to the VAE, on the 8 x 8 digits: what noise, networks and a prior each add.

    python examples/pca_ae_vae.py

Four models encode each digit as two numbers z:

 PCA          the plane with the least squared error: the limit of PPCA without noise
 PPCA         the same plane, with a prior p(z) and noise: a model of x with a known log p(x)
 autoencoder  a curved surface in place of the plane: networks, least squares, no p(z)
 VAE          a curved surface with a p(z): the VAE is to the autoencoder as PPCA is to PCA

A latent space is useful for generating data if it is *continuous* and *complete*. Continuous means
that nearby codes decode to similar images, and that a point between two digits decodes to a digit.
Complete means that every draw from p(z) decodes to a digit, and that the draws cover all classes.
The script measures both with a classifier trained on data.
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
class LatentSpace:
    """What the script needs of each model: embed, decode, and a density from which to draw z."""

    title: str
    embed: Callable[[Tensor], Tensor]
    decode: Callable[[Tensor], Tensor]
    prior: MultivariateNormal


@torch.no_grad()
def fit_models(x: Tensor, epochs: int) -> list[LatentSpace]:
    """Fit the four models to data x."""
    # PPCA and the VAE have p(z) = Normal(0, I). For the other two, draw z from a normal that is
    # fitted to the codes after training.
    standard = MultivariateNormal(torch.zeros(2), torch.eye(2))

    def fit_normal(z: Tensor) -> MultivariateNormal:
        return MultivariateNormal(z.mean(0), z.T.cov())

    # PCA: min ||x - mu - W W^T (x - mu)||^2 over orthonormal W
    pca = PCA(2).fit(x.flatten(1))

    def project(x: Tensor) -> Tensor:
        return torch.as_tensor(pca.transform(x.flatten(1))).float()

    def unproject(z: Tensor) -> Tensor:
        return torch.as_tensor(pca.inverse_transform(z)).float().view(-1, *x.shape[1:])

    # PPCA: z ~ Normal(0, I), x ~ Normal(W z + mu, sigma^2 I); max log p(x) in closed form
    ppca = ProbabilisticPCA(x.shape[1:], latent_dim=2)
    ppca.fit(x)

    # The autoencoder: min ||x - decoder(encoder(x))||^2
    body = partial(MLP, hidden=(256, 128))
    autoencoder = Autoencoder(
        x.shape[1:], 2, Likelihood("Normal", scale=1.0), encoder=body, decoder=body
    )
    # The VAE, with the same networks: max ELBO = E_q[log p(x | z)] - KL(q(z | x) || p(z)). It maps
    # each x to a distribution of z, not to a point.
    vae = VAE(x.shape[1:], 2, Likelihood("Normal", scale="shared"), encoder=body, decoder=body)
    for model in (autoencoder, vae):
        model.standardise(x)
        with torch.enable_grad():
            fit(model.model, model.guide, x, epochs=epochs, lr=2e-3, schedule="cosine")

    return [
        LatentSpace("PCA", project, unproject, fit_normal(project(x))),
        LatentSpace("PPCA", ppca.embed, ppca.decode_mean, standard),
        LatentSpace(
            "autoencoder",
            autoencoder.embed,
            autoencoder.decode_mean,
            fit_normal(autoencoder.embed(x)),
        ),
        LatentSpace("VAE", vae.embed, vae.decode_mean, standard),
    ]


class DigitClassifier:
    """A random forest. If it is confident about an image, the image looks like a digit."""

    def __init__(self, x: Tensor, y: Tensor) -> None:
        self.forest = RandomForestClassifier(200, random_state=0).fit(x.flatten(1), y)

    def probabilities(self, x: Tensor) -> Tensor:
        return torch.as_tensor(self.forest.predict_proba(x.flatten(1)))

    def confidence(self, x: Tensor) -> float:
        """Mean probability of the most likely class."""
        return self.probabilities(x).amax(1).mean().item()

    def num_classes(self, x: Tensor) -> float:
        """Effective number of classes: exp of the entropy of the mean class probabilities."""
        share = self.probabilities(x).mean(0)
        return torch.special.entr(share).sum().exp().item()


def interpolate(space: LatentSpace, start: Tensor, end: Tensor, steps: int) -> Tensor:
    """Decode points along the straight line between the codes of each pair of images."""
    weight = torch.linspace(0, 1, steps).view(-1, 1)
    z = torch.lerp(space.embed(start).unsqueeze(1), space.embed(end).unsqueeze(1), weight)
    return space.decode(z.flatten(0, 1)).unflatten(0, z.shape[:2])


def largest_jump(paths: Tensor) -> float:
    """Largest root-mean-square change between neighbouring images of a line, mean over lines."""
    return paths.diff(dim=1).square().mean((2, 3, 4)).sqrt().amax(1).mean().item()


@torch.no_grad()
def measure(
    space: LatentSpace, classifier: DigitClassifier, digits: Dataset, num: int
) -> list[float]:
    """Compute a row of the table on test data."""
    x, y = digits.test.x.float(), digits.test.y
    first, second = torch.randint(len(x), (2, 20 * num))
    same = y[first] == y[second]
    alike, unlike = (pairs.nonzero()[:num, 0] for pairs in (same & (first != second), ~same))
    error = (x - space.decode(space.embed(x))).square().mean().sqrt().item()
    within = interpolate(space, x[first[alike]], x[second[alike]], 11)
    between = interpolate(space, x[first[unlike]], x[second[unlike]], 11)
    samples = space.decode(space.prior.sample((4 * num,)))
    return [
        error,
        largest_jump(between),
        classifier.confidence(within.flatten(0, 1)),
        classifier.confidence(between.flatten(0, 1)),
        classifier.confidence(samples),
        classifier.num_classes(samples),
    ]


@torch.no_grad()
def draw_spaces(spaces: list[LatentSpace], digits: Dataset) -> Figure:
    """Draw a column of panels for each model."""
    x, y = digits.test.x.float(), digits.test.y
    one_of_each = torch.stack([(y == digit).nonzero()[0, 0] for digit in range(10)])
    shown, others = x[one_of_each], x[one_of_each.roll(-1)]
    figure = Figure(figsize=(14, 9), layout="constrained")
    grid = figure.subplots(4, 4, height_ratios=(2, 5, 10, 6))
    for column, space in zip(grid.T, spaces, strict=True):
        column[0].set_title(space.title, fontsize="x-large", pad=12)
        images = (
            torch.cat([shown, space.decode(space.embed(shown))]),
            space.decode(space.prior.sample((50,))),
            interpolate(space, shown[:6], others[:6], 10).flatten(0, 1),
        )
        for axes, each in zip(column[[0, 1, 3]], images, strict=True):
            axes.imshow(np.ma.masked_invalid(image_grid(each / 16, 10)), cmap="gray", clim=(0, 1))
            axes.set(xticks=[], yticks=[])
            axes.spines[:].set_visible(False)
        column[2].scatter(*space.prior.sample((500,)).T, c="0.85", s=5)
        codes = column[2].scatter(*space.embed(x).T, c=y, cmap="tab10", s=9)
    names = (
        "reconstructions",
        "samples",
        "codes by class; draws of z in grey",
        "lines between digits",
    )
    for axes, name in zip(grid[:, 0], names, strict=True):
        axes.set_ylabel(name)
    dots, _ = codes.legend_elements()
    grid[2, 3].legend(dots, range(10), bbox_to_anchor=(1, 0.5), loc="center left", frameon=False)
    return figure


def main(epochs: int = 100, num: int = 200, output: Path = Path("runs/pca_ae_vae.png")) -> None:
    """Fit the four models, print their scores and draw their latent spaces side by side.

    Arguments:
        epochs: passes of each network through the data.
        num: number of lines to measure; there are four times as many samples.
        output: path of the picture.
    """
    torch.manual_seed(0)
    digits = load("digits")
    spaces = fit_models(digits.train.x.float(), epochs)
    classifier = DigitClassifier(digits.train.x, digits.train.y)
    table = Table(title="two-dimensional codes: reconstruction, continuity, completeness")
    table.add_column("model", no_wrap=True)
    for head in ("error", "jump", "conf., same", "conf., two", "conf., samples", "classes"):
        table.add_column(head, justify="right")
    for space in spaces:
        row = measure(space, classifier, digits, num)
        table.add_row(space.title, *(f"{value:.2f}" for value in row))
    real = classifier.confidence(digits.test.x), classifier.num_classes(digits.test.x)
    table.add_row("(test data)", "", "", "", "", *(f"{value:.2f}" for value in real))
    Console().print(table)
    output.parent.mkdir(parents=True, exist_ok=True)
    draw_spaces(spaces, digits).savefig(output, dpi=100)
    print(
        "error: root-mean-square error of reconstructions of test data, in grey levels (0 to 16)\n"
        "jump: largest root-mean-square change in a tenth of a line between two classes, likewise\n"
        "conf.: confidence of a classifier (probability of the most likely class), on lines\n"
        "between digits of the same class, on lines between two classes, and on samples\n"
        "samples: decoded draws of p(z); PCA and the autoencoder have no p(z), so their z come\n"
        "from a normal fitted to their codes\n"
        f"classes: effective number of classes among the samples, out of ten\npicture in {output}"
    )


if __name__ == "__main__":
    run(main)
