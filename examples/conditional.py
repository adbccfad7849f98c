"""Digits given their class, and lower halves of digits given the upper: the conditional VAE.

    python examples/conditional.py

A VAE is a model p(x) of data. A conditional one (Sohn et al. 2015) is a model p(x | y) of data
given something that is known of them: p(z) p(x | z, y), with q(z | x, y). Its z need hold only what
y does not tell: how a digit is written, where y is which digit it is; and one z is good under any
y. By Bayes' rule a model p(x | y) of each class is a classifier, too; here no better than logistic
regression, which does nothing else.
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


def halves(x: Tensor) -> tuple[Tensor, Tensor]:
    """The lower and the upper half of each digit."""
    return x[..., 4:, :], x[..., :4, :]


def train(vae: LatentVariableModel, data: tuple[Tensor, ...], epochs: int) -> None:
    """Maximise the ELBO, a bound on log p(x) or log p(x | y), on data (x,) or (x, y)."""
    vae.standardise(*data)
    fit(vae.model, vae.guide, data, epochs=epochs, lr=2e-3, schedule="cosine", progress=False)
    vae.eval()


def log_p(
    vae: LatentVariableModel, data: tuple[Tensor, ...], num_samples: int
) -> ImportanceEstimate:
    """log p(x | y) ~ log (1/K) sum_k p(z_k) p(x | z_k, y) / q(z_k | x, y); or log p(x) likewise."""
    return importance_sample(vae.model, vae.guide, data, num_samples=num_samples, progress=False)


def show(axes: Axes, images: Tensor, columns: int, title: str, gap_after: int = 0) -> None:
    """Images in rows; the first few columns are data, and set apart."""
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
def picture(
    given_class: ConditionalVAE, given_upper: ConditionalVAE, x: Tensor, y: Tensor
) -> Figure:
    """Samples of each class, analogies, and completions, of test digits x of one class each."""
    figure = Figure(figsize=(14, 5), layout="constrained")
    left, middle, right = figure.subplots(1, 3, width_ratios=(91, 104, 95))
    # z ~ p(z), then E[x | z, y]: new digits of a class that is asked for
    classes = torch.arange(10).repeat_interleave(10)
    show(
        left,
        given_class.sample(100, classes, mean=True),
        10,
        "E[x | z, y]: a class in each row, z drawn",
    )
    # z of x under its own y, decoded under another y': the same hand writes another digit
    other = given_class.transfer(x, y, torch.arange(10).unsqueeze(1)).transpose(0, 1)
    rows = torch.cat([x.unsqueeze(1), other], 1).flatten(0, 1)
    show(middle, rows, 11, "test digits, and the same z under each class", gap_after=1)
    # One upper half, several lower halves
    _, upper = halves(x)
    copies = upper.repeat_interleave(9, 0)
    lower = given_upper.sample(len(copies), copies, mean=True)
    completed = torch.cat([copies, lower], 2).unflatten(0, (len(x), 9))
    rows = torch.cat([x.unsqueeze(1), completed], 1).flatten(0, 1)
    show(right, rows, 10, "test digits, and lower halves E[x | z, y] given the upper", gap_after=1)
    return figure


def main(epochs: int = 100, num_samples: int = 500, output: Path = Path("conditional.png")) -> None:
    """Train models with and without y, put log-likelihoods in a table, and draw samples.

    Arguments:
        epochs: passes through the training data.
        num_samples: K of importance sampling.
        output: path of the picture.
    """
    torch.manual_seed(0)
    digits = load("digits")
    x, y = digits.train.x.float(), digits.train.y
    test, label = digits.test.x.float(), digits.test.y

    # Two of whole digits: p(x), and p(x | y) for a class y
    alone = VAE(DIGIT, LATENT_DIM, COUNTS)
    train(alone, (x,), epochs)
    given_class = ConditionalVAE(DIGIT, LATENT_DIM, COUNTS, num_classes=10)
    train(given_class, (x, y), epochs)
    log_px = log_p(alone, (test,), num_samples).log_likelihood
    # Each digit with each class in turn
    of_classes = log_p(
        given_class,
        (test.repeat(10, 1, 1, 1), torch.arange(10).repeat_interleave(len(test))),
        num_samples,
    )
    log_px_given_y = of_classes.log_likelihood.view(10, -1).T
    of_label = log_px_given_y[torch.arange(len(label)), label]
    # log p(x) = log sum_y p(y) p(x | y), with p(y) = 1 / 10; what log p(x | y) is above that, on
    # average, is what y tells about x, of which there is log 10 at the most
    mixed = log_px_given_y.logsumexp(1) - log(10)

    # Two of lower halves: p(x), and p(x | y) for an upper half y
    half_alone = VAE(HALF, LATENT_DIM, COUNTS)
    train(half_alone, halves(x)[:1], epochs)
    given_upper = ConditionalVAE(HALF, LATENT_DIM, COUNTS, condition_shape=HALF)
    train(given_upper, halves(x), epochs)
    log_lower = log_p(half_alone, halves(test)[:1], num_samples).log_likelihood
    log_lower_given_upper = log_p(given_upper, halves(test), num_samples).log_likelihood

    table = Table(title="nats a test digit, ± standard error", box=SIMPLE)
    for head in ("", "log-likelihood", "less that of p(x)"):
        table.add_column(head, justify="right" if head else "left")
    for title, of_model, plain in (
        ("VAE: log p(x)", log_px, log_px),
        ("given the class: log p(x | y)", of_label, log_px),
        ("the same: log p(x), by the sum over y", mixed, log_px),
        ("VAE of lower halves: log p(x)", log_lower, log_lower),
        ("given the upper half: log p(x | y)", log_lower_given_upper, log_lower),
    ):
        difference = "" if of_model is plain else str(Estimate.of(of_model - plain))
        table.add_row(title, str(Estimate.of(of_model)), difference)

    # p(y | x) = p(y) p(x | y) / p(x): the class under which x is likeliest. q(z | x, y) has only
    # ever seen the right y. Under others bounds are looser than need be, which flatters the ELBO
    # as a classifier, and the more samples there are, the less so the estimate.
    logistic = LogisticRegression(max_iter=1000).fit(x.flatten(1) / 16, y)
    accuracies = Table(title="test accuracy in percent, ± standard error", box=SIMPLE)
    accuracies.add_column("")
    accuracies.add_column("", justify="right")
    for title, found in (
        ("Bayes' rule, log p(x | y)", log_px_given_y.argmax(1)),
        ("Bayes' rule, its ELBO in place of log p(x | y)", of_classes.elbo.view(10, -1).argmax(0)),
        ("logistic regression", torch.as_tensor(logistic.predict(test.flatten(1) / 16))),
    ):
        accuracies.add_row(title, str(Estimate.of(100.0 * (found == label))))

    one_of_each = torch.stack([(label == each).nonzero()[0, 0] for each in range(10)])
    figure = picture(given_class, given_upper, test[one_of_each], label[one_of_each])
    figure.savefig(output, dpi=110)
    Console().print(table, accuracies)
    print(f"picture in {output}")


if __name__ == "__main__":
    run(main)
