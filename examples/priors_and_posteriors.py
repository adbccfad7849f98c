"""What p(z) and q(z | x) of a VAE may be, on the plane, where both can be looked at.

    python examples/priors_and_posteriors.py

Averaged over data, what z costs, KL(q(z | x) || p(z)), is the sum of what z tells about x and of
KL(q(z) || p(z)), q(z) = (1/N) sum_n q(z | x_n) being the aggregate posterior (Hoffman and Johnson
2016). A prior that learns can bring the second down, which buys nothing but distance from codes
to draws. And log p(x) - ELBO = KL(q(z | x) || p(z | x)) is what a q(z | x) misses that is too
simple; a richer one can bring that down. Here is one VAE of the digits under each.

Under a VampPrior and a flow, KL(q(z) || p(z)) is 0.6 nats where it is 1.6 under the standard one,
and log p(x) is no higher for it; the gap shrinks under the autoregressive q. (Three fits of each.)
"""

from collections.abc import Callable
from dataclasses import dataclass
from math import log
from pathlib import Path
from typing import Any

import torch
from cyclopts import run
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.patches import Patch
from rich.box import SIMPLE
from rich.console import Console
from rich.table import Table
from torch import Tensor

from pyrovae import VAE, fit, importance_sample, load
from pyrovae.infer import latent_report
from pyrovae.posteriors import FullRankNormal, InverseAutoregressive
from pyrovae.priors import FlowPrior, LearnedNormal, NormalMixture, VampPrior

SHAPE = (1, 8, 8)
COUNTS = {"family": "Binomial", "total_count": 16}
PLAIN = "standard"
SHARES = (0.99, 0.9, 0.5)
GREYS = ("0.87", "0.72", "0.5")
# What differs from a VAE with a standard normal prior and a diagonal normal posterior.
PRIORS: dict[str, Callable[[], dict[str, Any]]] = {
    PLAIN: dict,
    "learned": lambda: {"prior": LearnedNormal(2)},
    "mixture": lambda: {"prior": NormalMixture(2, num_components=20)},
    # A mixture of q(z | u) of 50 made-up digits u
    "VampPrior": lambda: {"prior": VampPrior(SHAPE, num_components=50)},
    "flow": lambda: {"prior": FlowPrior(2)},
}
POSTERIORS: dict[str, Callable[[], dict[str, Any]]] = {
    "full rank": lambda: {"posterior": FullRankNormal(2)},
    "IAF": lambda: {"posterior": InverseAutoregressive(2)},
}


@dataclass
class Judged:
    """What came of one kind of VAE: the first that was trained, and figures in nats.

    Attributes:
        vae: the VAE.
        log_px: log p(x), of shape (fits, test data).
        gap: log p(x) - ELBO, likewise.
        kl: KL(q(z | x) || p(z)), likewise.
        aggregate_kl: KL(q(z) || p(z)) of each fit.
    """

    vae: VAE
    log_px: Tensor
    gap: Tensor
    kl: Tensor
    aggregate_kl: Tensor


def judge(
    parts: Callable[[], dict[str, Any]],
    x: Tensor,
    test: Tensor,
    fits: int,
    epochs: int,
    num_samples: int,
) -> Judged:
    """Train so many times, from different starts, and take test figures."""
    vaes, estimates, aggregate = [], [], []
    for seed in range(fits):
        torch.manual_seed(seed)
        vae = VAE(SHAPE, 2, COUNTS, **parts())
        vae.standardise(x)
        fit(vae.model, vae.guide, x, epochs=epochs, lr=2e-3, schedule="cosine", progress=False)
        vaes.append(vae.eval())
        # log p(x) ~ log (1/K) sum_k p(x, z_k) / q(z_k | x), whatever prior and posterior are
        estimates.append(
            importance_sample(vae.model, vae.guide, test, num_samples=num_samples, progress=False)
        )
        (report,) = latent_report(vae.model, vae.guide, test, num_samples=2, progress=False)
        aggregate.append(report.aggregate_kl)
    return Judged(
        vaes[0],
        torch.stack([each.log_likelihood for each in estimates]),
        torch.stack([each.log_likelihood - each.elbo for each in estimates]),
        torch.stack([each.kl for each in estimates]),
        torch.tensor(aggregate),
    )


def with_error(values: Tensor, digits: int = 2) -> str:
    """Mean of values of shape (fits, test data), and its error, both being samples."""
    variance = values.mean(1).var() / len(values)
    if values.shape[1] > 1:
        variance = variance + values.mean(0).var() / values.shape[1]
    return f"{values.mean():.{digits}f} ± {variance.sqrt():.{digits}f}"


def grid(low: Tensor, high: Tensor, num: int) -> tuple[Tensor, float]:
    """Points of a rectangle, of shape (num, num, 2), and the area that each stands for."""
    first, second = (torch.linspace(a, b, num) for a, b in zip(low, high, strict=True))
    points = torch.stack(torch.meshgrid(first, second, indexing="ij"), -1)
    return points, ((high - low) / (num - 1)).prod().item()


def square(points: Tensor) -> tuple[Tensor, Tensor]:
    """Corners of a square round points, with a margin."""
    low, high = points.amin(0), points.amax(0)
    reach = 0.55 * (high - low).max()
    return (low + high) / 2 - reach, (low + high) / 2 + reach


@torch.no_grad()
def log_posterior(vae: VAE, x: Tensor, points: Tensor, area: float) -> Tensor:
    """log p(z | x) = log p(x, z) - log p(x) of one digit, p(x) being a sum over a grid of z."""
    log_p = (vae.model.prior().log_prob(points) + vae.decode(points).log_prob(x)).double()
    return log_p - log_p.logsumexp((0, 1)) - log(area)


@torch.no_grad()
def log_q(vae: VAE, x: Tensor, points: Tensor) -> Tensor:
    """log q(z | x) of one digit on a grid of z."""
    # In a list, as a flow takes values: beside the digits of a batch
    return vae.encode(x).log_prob(points.flatten(0, 1)).view(points.shape[:2]).double()


def levels(density: Tensor, area: float) -> list[float]:
    """Below which densities lie outside of the densest region of each share of the mass."""
    falling = density.flatten().sort(descending=True).values
    mass = (falling * area).cumsum(0)
    return [falling[(mass < share).sum().clamp_max(len(mass) - 1)].item() for share in SHARES]


@torch.no_grad()
def show_prior(above: Axes, below: Axes, vae: VAE, test: Tensor, y: Tensor) -> Any:
    """p(z) in grey with a dot for each test digit, at its code; and q(z) alike below."""
    codes = vae.embed(test)
    corners = square(codes)
    points, _ = grid(*corners, 120)
    p = vae.model.prior().log_prob(points).exp()
    # q(z) = (1/N) sum_n q(z | x_n)
    q = vae.encode(test).log_prob(points.unsqueeze(2)).exp().mean(2)
    (left, bottom), (right, top) = (corner.tolist() for corner in corners)
    for axes, density in ((above, p), (below, q)):
        # The root, so that low densities can be told from none
        axes.imshow(
            density.T.sqrt(),
            cmap="Greys",
            origin="lower",
            extent=(left, right, bottom, top),
        )
        axes.set(xticks=[], yticks=[])
    return above.scatter(*codes.T, c=y, cmap="tab10", s=7, linewidths=0)


def show_posterior(axes: Axes, vae: VAE, x: Tensor) -> float:
    """p(z | x) as grey regions and q(z | x) as lines; returns KL(q || p) by the grid."""
    points, area = grid(torch.full((2,), -5.0), torch.full((2,), 5.0), 201)
    log_p, of_q = log_posterior(vae, x, points, area), log_q(vae, x, points)
    # A finer grid, where either is more than nothing
    largest = torch.maximum(log_p, of_q)
    points, area = grid(*square(points[largest > largest.max() - 12]), 201)
    log_p, of_q = log_posterior(vae, x, points, area), log_q(vae, x, points)
    p, q = log_p.exp(), of_q.exp()
    axes.contourf(*points.unbind(-1), p, [*levels(p, area), p.max().item()], colors=GREYS)
    axes.contour(*points.unbind(-1), q, levels(q, area), colors="C3", linewidths=1.2)
    shown = torch.maximum(p / levels(p, area)[0], q / levels(q, area)[0]) > 1
    (left, bottom), (right, top) = (corner.tolist() for corner in square(points[shown]))
    axes.set(xlim=(left, right), ylim=(bottom, top), xticks=[], yticks=[], aspect="equal")
    return (q * (of_q - log_p)).sum().item() * area


def picture(kinds: dict[str, Judged], test: Tensor, y: Tensor) -> Figure:
    """A column for each prior; posteriors below."""
    figure = Figure(figsize=(14, 9.2), layout="constrained")
    above, middle, below = figure.subplots(3, 5)
    for first, second, name in zip(above, middle, PRIORS, strict=True):
        dots = show_prior(first, second, kinds[name].vae, test, y)
        first.set_title(name)
    above[0].set_ylabel("p(z), and codes of test digits")
    middle[0].set_ylabel("q(z)")
    # A digit neither easy nor hard: the median of what the three kinds of q miss together
    names = {
        PLAIN: "diagonal normal",
        "full rank": "full-rank normal",
        "IAF": "inverse autoregressive flow",
    }
    gaps = torch.stack([kinds[name].gap[0] for name in names]).mean(0)
    chosen = gaps.argsort()[len(gaps) // 2]
    x = test[chosen : chosen + 1]
    below[0].imshow(x[0, 0], cmap="gray")
    below[0].set(title="a test digit x", xticks=[], yticks=[])
    # Where q is off its place, the encoder is to blame; where its form is wrong, the family
    for axes, (name, title) in zip(below[1:4], names.items(), strict=True):
        kl = show_posterior(axes, kinds[name].vae, x)
        axes.set_title(f"{title}\nKL(q(z | x) || p(z | x)) = {kl:.2f}", fontsize="medium")
    below[4].set_axis_off()
    below[4].add_artist(
        below[4].legend(
            dots.legend_elements()[0],
            range(10),
            title="class",
            ncols=5,
            columnspacing=0.6,
            handletextpad=0,
            frameon=False,
            loc="upper center",
        )
    )
    below[4].legend(
        [Patch(color=GREYS[1]), Line2D([], [], color="C3")],
        ["p(z | x) by a grid", "q(z | x)"],
        title="regions of 99, 90 and 50 %",
        frameon=False,
        loc="lower center",
    )
    return figure


def main(
    fits: int = 3,
    epochs: int = 60,
    num_samples: int = 200,
    output: Path = Path("priors_and_posteriors.png"),
) -> None:
    """Train a VAE under each prior and posterior, put figures in a table, and draw the planes.

    Arguments:
        fits: how many times each is trained, from different starts.
        epochs: passes through the training data.
        num_samples: K of importance sampling.
        output: path of the picture.
    """
    digits = load("digits")
    x, test = digits.train.x.float(), digits.test.x.float()
    table = Table(title="test figures in nats, ± standard error", box=SIMPLE, padding=(0, 1, 0, 0))
    table.add_column("", no_wrap=True)
    for head in ("log p(x)", "less plain", "gap", "KL", "aggregate"):
        table.add_column(head, justify="right", no_wrap=True)
    kinds: dict[str, Judged] = {}
    for group in (PRIORS, POSTERIORS):
        for name, parts in group.items():
            judged = kinds[name] = judge(parts, x, test, fits, epochs, num_samples)
            # Of the same digits, so that the difference is surer than either
            difference = with_error(judged.log_px - kinds[PLAIN].log_px, 1)
            table.add_row(
                name,
                with_error(judged.log_px, 1),
                "" if name == PLAIN else difference,
                with_error(judged.gap),
                with_error(judged.kl),
                with_error(judged.aggregate_kl.unsqueeze(1)),
            )
        table.add_section()
    picture(kinds, test, digits.test.y).savefig(output, dpi=100)
    Console().print(table)
    print(
        "above, priors under a diagonal normal q(z | x); below, q(z | x) under a standard p(z),\n"
        "IAF being an inverse autoregressive flow; plain is the first row\n"
        "gap: log p(x) - ELBO; KL: of q(z | x) from p(z); aggregate: what part of it is q(z)'s\n"
        f"errors are over {len(test)} test digits and {fits} fits; of aggregate, over fits\n"
        f"picture in {output}"
    )


if __name__ == "__main__":
    run(main)
