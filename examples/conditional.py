"""The conditional VAE: digits given their class, and lower halves of digits given the upper half.

    python examples/conditional.py

A VAE is a model p(x) of data. A conditional VAE (Sohn et al. 2015) is a model p(x | y) of data
given a known variable y. It consists of p(z) p(x | z, y) and q(z | x, y). Its z encodes what y does
not: if y is the class of a digit, z is the style of the writing, and you can decode one z with any
y. By Bayes' rule, p(x | y) for every class y is also a classifier. Here it is no better than
logistic regression, which is trained for classification alone.
"""

from math import log
from pathlib import Path

import numpy as np
import torch
from cyclopts import run
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from rich.box import SIMPLE
from rich.console import Console
from rich.table import Table
from sklearn.linear_model import LogisticRegression
from torch import Tensor

from pyrovae import VAE, fit, importance_sample, load
from pyrovae.infer import Estimate, ImportanceEstimate
from pyrovae.models.base import LatentVariableModel
from pyrovae.models.conditional import ConditionalVAE
from pyrovae.runs.plots import image_grid

LATENT_DIM = 8
COUNTS = {"family": "Binomial", "total_count": 16}
DIGIT = (1, 8, 8)
HALF = (1, 4, 8)


def split_halves(x: Tensor) -> tuple[Tensor, Tensor]:
    """Return the lower and the upper half of each digit."""
    return x[..., 4:, :], x[..., :4, :]


def train(vae: LatentVariableModel, data: tuple[Tensor, ...], epochs: int) -> None:
    """Maximise the ELBO, a lower bound on log p(x) for data (x,), on log p(x | y) for (x, y)."""
    vae.standardise(*data)
    fit(vae.model, vae.guide, data, epochs=epochs, lr=2e-3, schedule="cosine", progress=False)
    vae.eval()


def estimate_log_p(
    vae: LatentVariableModel, data: tuple[Tensor, ...], num_samples: int
) -> ImportanceEstimate:
    """log p(x | y) ~ log (1/K) sum_k p(z_k) p(x | z_k, y) / q(z_k | x, y); log p(x) without y."""
    return importance_sample(vae.model, vae.guide, data, num_samples=num_samples, progress=False)


def show_images(axes: Axes, images: Tensor, columns: int, title: str, gap_after: int = 0) -> None:
    """Draw a grid of images, with a gap after the columns that show data."""
    grid = np.ma.masked_invalid(image_grid(images.float() / 16, columns))
    if gap_after:
        edge = gap_after * (images.shape[-1] + 1)
        grid = np.ma.concatenate(
            [grid[:, :edge], np.ma.masked_all((len(grid), 4)), grid[:, edge:]], 1
        )
    axes.imshow(grid, cmap="gray", clim=(0, 1))
    axes.set(xticks=[], yticks=[])
    axes.set_title(title, fontsize="medium")
    axes.spines[:].set_visible(False)


@torch.no_grad()
def draw_samples(
    given_class: ConditionalVAE, given_upper: ConditionalVAE, x: Tensor, y: Tensor
) -> Figure:
    """Draw samples of each class, analogies, and completions of test digits x, one per class."""
    figure = Figure(figsize=(14, 5), layout="constrained")
    left, middle, right = figure.subplots(1, 3, width_ratios=(91, 104, 95))
    # z ~ p(z), then E[x | z, y]: new digits of a class of your choice
    classes = torch.arange(10).repeat_interleave(10)
    show_images(
        left,
        given_class.sample(100, classes, mean=True),
        10,
        "E[x | z, y] with z ~ p(z): one class per row",
    )
    # Encode x with its own class y, then decode z with another class: another digit, same style
    other = given_class.transfer(x, y, torch.arange(10).unsqueeze(1)).transpose(0, 1)
    rows = torch.cat([x.unsqueeze(1), other], 1).flatten(0, 1)
    show_images(middle, rows, 11, "test digits, and their z decoded as each class", gap_after=1)
    # Several lower halves for each upper half
    _, upper = split_halves(x)
    copies = upper.repeat_interleave(9, 0)
    lower = given_upper.sample(len(copies), copies, mean=True)
    completed = torch.cat([copies, lower], 2).unflatten(0, (len(x), 9))
    rows = torch.cat([x.unsqueeze(1), completed], 1).flatten(0, 1)
    title = "test digits, and lower halves E[x | z, y] given the upper"
    show_images(right, rows, 10, title, gap_after=1)
    return figure


def main(epochs: int = 100, num_samples: int = 500, output: Path = Path("conditional.png")) -> None:
    """Train models with and without y, print their log-likelihoods and accuracies, draw samples.

    Arguments:
        epochs: passes through the training data.
        num_samples: number of importance samples, K.
        output: path of the picture.
    """
    torch.manual_seed(0)
    digits = load("digits")
    x, y = digits.train.x.float(), digits.train.y
    test, label = digits.test.x.float(), digits.test.y

    # Two models of whole digits: p(x), and p(x | y) where y is the class
    unconditional = VAE(DIGIT, LATENT_DIM, COUNTS)
    train(unconditional, (x,), epochs)
    given_class = ConditionalVAE(DIGIT, LATENT_DIM, COUNTS, num_classes=10)
    train(given_class, (x, y), epochs)
    log_px = estimate_log_p(unconditional, (test,), num_samples).log_likelihood
    # log p(x | y) of every digit under every class
    all_classes = estimate_log_p(
        given_class,
        (test.repeat(10, 1, 1, 1), torch.arange(10).repeat_interleave(len(test))),
        num_samples,
    )
    log_px_given_y = all_classes.log_likelihood.view(10, -1).T
    log_px_given_label = log_px_given_y[torch.arange(len(label)), label]
    # log p(x) = log sum_y p(y) p(x | y), with p(y) = 1 / 10. On average log p(x | y) exceeds
    # log p(x) by the information that y gives about x, which is at most log 10 nats.
    log_px_summed = log_px_given_y.logsumexp(1) - log(10)

    # Two models of lower halves: p(x), and p(x | y) where y is the upper half
    lower_alone = VAE(HALF, LATENT_DIM, COUNTS)
    train(lower_alone, split_halves(x)[:1], epochs)
    given_upper = ConditionalVAE(HALF, LATENT_DIM, COUNTS, condition_shape=HALF)
    train(given_upper, split_halves(x), epochs)
    lower, upper = split_halves(test)
    log_lower = estimate_log_p(lower_alone, (lower,), num_samples).log_likelihood
    log_lower_given_upper = estimate_log_p(given_upper, (lower, upper), num_samples).log_likelihood

    table = Table(title="nats per test digit, ± standard error", box=SIMPLE)
    for head in ("", "log-likelihood", "minus log p(x)"):
        table.add_column(head, justify="right" if head else "left")
    for title, log_p, baseline in (
        ("VAE: log p(x)", log_px, log_px),
        ("given the class: log p(x | y)", log_px_given_label, log_px),
        ("the same: log p(x), by the sum over y", log_px_summed, log_px),
        ("VAE of lower halves: log p(x)", log_lower, log_lower),
        ("given the upper half: log p(x | y)", log_lower_given_upper, log_lower),
    ):
        difference = "" if log_p is baseline else str(Estimate.of(log_p - baseline))
        table.add_row(title, str(Estimate.of(log_p)), difference)

    # Classify by Bayes' rule, p(y | x) = p(y) p(x | y) / p(x): the class with the highest p(x | y).
    # In training, q(z | x, y) has only seen the true class y. With a wrong class its bound is
    # looser, which favours the true class: this flatters the ELBO as a classifier, and flatters
    # the importance-sampling estimate less the more samples there are.
    logistic = LogisticRegression(max_iter=1000).fit(x.flatten(1) / 16, y)
    accuracies = Table(title="test accuracy in percent, ± standard error", box=SIMPLE)
    accuracies.add_column("")
    accuracies.add_column("", justify="right")
    for title, predicted in (
        ("Bayes' rule, log p(x | y)", log_px_given_y.argmax(1)),
        ("Bayes' rule, the ELBO in place of log p(x | y)", all_classes.elbo.view(10, -1).argmax(0)),
        ("logistic regression", torch.as_tensor(logistic.predict(test.flatten(1) / 16))),
    ):
        accuracies.add_row(title, str(Estimate.of(100.0 * (predicted == label))))

    one_of_each = torch.stack([(label == each).nonzero()[0, 0] for each in range(10)])
    figure = draw_samples(given_class, given_upper, test[one_of_each], label[one_of_each])
    figure.savefig(output, dpi=110)
    Console().print(table, accuracies)
    print(f"picture in {output}")


if __name__ == "__main__":
    run(main)
