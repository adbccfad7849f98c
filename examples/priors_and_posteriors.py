"""Compare priors p(z) and posteriors q(z | x) of a VAE with two latents, where you can see both.

    python examples/priors_and_posteriors.py

Averaged over data, KL(q(z | x) || p(z)) is the mutual information of x and z under q, plus
KL(q(z) || p(z)), where q(z) = (1/N) sum_n q(z | x_n) is the aggregate posterior (Hoffman and
Johnson 2016). A learned prior can reduce the second term, which is the mismatch between the codes
of data and draws from the prior. A more flexible posterior can reduce the gap,
log p(x) - ELBO = KL(q(z | x) || p(z | x)). The script trains one VAE of the digits with each prior
and each posterior.

With a VampPrior or a flow prior, KL(q(z) || p(z)) is 0.6 nats, against 1.6 with the standard prior;
log p(x) is no higher. The gap is smaller with the inverse autoregressive flow. (Three fits each.)
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
# Arguments that replace the standard normal prior or the diagonal normal posterior of the VAE.
PRIORS: dict[str, Callable[[], dict[str, Any]]] = {
    PLAIN: dict,
    "learned": lambda: {"prior": LearnedNormal(2)},
    "mixture": lambda: {"prior": NormalMixture(2, num_components=20)},
    # A mixture of q(z | u), for 50 learned pseudo-inputs u
    "VampPrior": lambda: {"prior": VampPrior(SHAPE, num_components=50)},
    "flow": lambda: {"prior": FlowPrior(2)},
}
POSTERIORS: dict[str, Callable[[], dict[str, Any]]] = {
    "full rank": lambda: {"posterior": FullRankNormal(2)},
    "IAF": lambda: {"posterior": InverseAutoregressive(2)},
}


@dataclass
class Results:
    """Test results, in nats, for one choice of prior and posterior.

    Attributes:
        vae: the VAE of the first fit.
        log_px: log p(x), of shape (fits, test data).
        gap: log p(x) - ELBO, of the same shape.
        kl: KL(q(z | x) || p(z)), of the same shape.
        aggregate_kl: KL(q(z) || p(z)) of each fit.
    """

    vae: VAE
    log_px: Tensor
    gap: Tensor
    kl: Tensor
    aggregate_kl: Tensor


def train_and_evaluate(
    parts: Callable[[], dict[str, Any]],
    x: Tensor,
    test: Tensor,
    fits: int,
    epochs: int,
    num_samples: int,
) -> Results:
    """Train several times from different seeds, and evaluate on test data."""
    vaes, estimates, aggregate = [], [], []
    for seed in range(fits):
        torch.manual_seed(seed)
        vae = VAE(SHAPE, 2, COUNTS, **parts())
        vae.standardise(x)
        fit(vae.model, vae.guide, x, epochs=epochs, lr=2e-3, schedule="cosine", progress=False)
        vaes.append(vae.eval())
        # log p(x) ~ log (1/K) sum_k p(x, z_k) / q(z_k | x), for any prior and posterior
        estimates.append(
            importance_sample(vae.model, vae.guide, test, num_samples=num_samples, progress=False)
        )
        (report,) = latent_report(vae.model, vae.guide, test, num_samples=2, progress=False)
        aggregate.append(report.aggregate_kl)
    return Results(
        vaes[0],
        torch.stack([each.log_likelihood for each in estimates]),
        torch.stack([each.log_likelihood - each.elbo for each in estimates]),
        torch.stack([each.kl for each in estimates]),
        torch.tensor(aggregate),
    )


def format_mean(values: Tensor, digits: int = 2) -> str:
    """Format the mean of values of shape (fits, test data) with its standard error.

    The error counts both the fits and the test data as random samples.
    """
    variance = values.mean(1).var() / len(values)
    if values.shape[1] > 1:
        variance = variance + values.mean(0).var() / values.shape[1]
    return f"{values.mean():.{digits}f} ± {variance.sqrt():.{digits}f}"


def grid(low: Tensor, high: Tensor, num: int) -> tuple[Tensor, float]:
    """Return points of a rectangle, of shape (num, num, 2), and the area of a grid cell."""
    first, second = (torch.linspace(a, b, num) for a, b in zip(low, high, strict=True))
    points = torch.stack(torch.meshgrid(first, second, indexing="ij"), -1)
    return points, ((high - low) / (num - 1)).prod().item()


def bounding_square(points: Tensor) -> tuple[Tensor, Tensor]:
    """Return two corners of a square that contains all points, with a margin."""
    low, high = points.amin(0), points.amax(0)
    half_side = 0.55 * (high - low).max()
    return (low + high) / 2 - half_side, (low + high) / 2 + half_side


@torch.no_grad()
def log_posterior(vae: VAE, x: Tensor, points: Tensor, area: float) -> Tensor:
    """log p(z | x) = log p(x, z) - log p(x) of one digit, with p(x) computed as a sum over z."""
    log_p = (vae.model.prior().log_prob(points) + vae.decode(points).log_prob(x)).double()
    return log_p - log_p.logsumexp((0, 1)) - log(area)


@torch.no_grad()
def log_q(vae: VAE, x: Tensor, points: Tensor) -> Tensor:
    """log q(z | x) of one digit on a grid of z."""
    # Flows take a flat list of values for one digit, so flatten the grid.
    return vae.q(x).log_prob(points.flatten(0, 1)).view(points.shape[:2]).double()


def contour_levels(density: Tensor, area: float) -> list[float]:
    """Return the densities at the edges of the highest-density regions, one per share of mass."""
    descending = density.flatten().sort(descending=True).values
    mass = (descending * area).cumsum(0)
    return [descending[(mass < share).sum().clamp_max(len(mass) - 1)].item() for share in SHARES]


@torch.no_grad()
def draw_prior(above: Axes, below: Axes, vae: VAE, test: Tensor, y: Tensor) -> Any:
    """Draw p(z) in grey, with a dot at the code of each test digit, and q(z) in grey below."""
    codes = vae.embed(test)
    corners = bounding_square(codes)
    points, _ = grid(*corners, 120)
    p = vae.model.prior().log_prob(points).exp()
    # q(z) = (1/N) sum_n q(z | x_n)
    q = vae.q(test).log_prob(points.unsqueeze(2)).exp().mean(2)
    (left, bottom), (right, top) = (corner.tolist() for corner in corners)
    for axes, density in ((above, p), (below, q)):
        # The square root makes low densities visible.
        axes.imshow(
            density.T.sqrt(),
            cmap="Greys",
            origin="lower",
            extent=(left, right, bottom, top),
        )
        axes.set(xticks=[], yticks=[])
    return above.scatter(*codes.T, c=y, cmap="tab10", s=7, linewidths=0)


def draw_posterior(axes: Axes, vae: VAE, x: Tensor) -> float:
    """Draw p(z | x) as grey regions and q(z | x) as lines. Returns KL(q || p), from the grid."""
    points, area = grid(torch.full((2,), -5.0), torch.full((2,), 5.0), 201)
    log_p, log_q_x = log_posterior(vae, x, points, area), log_q(vae, x, points)
    # A finer grid, over the region where p or q is not negligible
    largest = torch.maximum(log_p, log_q_x)
    points, area = grid(*bounding_square(points[largest > largest.max() - 12]), 201)
    log_p, log_q_x = log_posterior(vae, x, points, area), log_q(vae, x, points)
    p, q = log_p.exp(), log_q_x.exp()
    p_levels, q_levels = contour_levels(p, area), contour_levels(q, area)
    axes.contourf(*points.unbind(-1), p, [*p_levels, p.max().item()], colors=GREYS)
    axes.contour(*points.unbind(-1), q, q_levels, colors="C3", linewidths=1.2)
    inside = torch.maximum(p / p_levels[0], q / q_levels[0]) > 1
    (left, bottom), (right, top) = (corner.tolist() for corner in bounding_square(points[inside]))
    axes.set(xlim=(left, right), ylim=(bottom, top), xticks=[], yticks=[], aspect="equal")
    return (q * (log_q_x - log_p)).sum().item() * area


def draw_planes(results: dict[str, Results], test: Tensor, y: Tensor) -> Figure:
    """Draw a column of panels for each prior, and the posteriors below."""
    figure = Figure(figsize=(14, 9.2), layout="constrained")
    above, middle, below = figure.subplots(3, 5)
    for first, second, name in zip(above, middle, PRIORS, strict=True):
        dots = draw_prior(first, second, results[name].vae, test, y)
        first.set_title(name)
    above[0].set_ylabel("p(z), and codes of test digits")
    middle[0].set_ylabel("q(z)")
    # The digit with the median gap, averaged over the three posteriors
    names = {
        PLAIN: "diagonal normal",
        "full rank": "full-rank normal",
        "IAF": "inverse autoregressive flow",
    }
    gaps = torch.stack([results[name].gap[0] for name in names]).mean(0)
    chosen = gaps.argsort()[len(gaps) // 2]
    x = test[chosen : chosen + 1]
    below[0].imshow(x[0, 0], cmap="gray")
    below[0].set(title="a test digit x", xticks=[], yticks=[])
    # If q is in the wrong place, the encoder is at fault. If it has the wrong shape, the family is.
    for axes, (name, title) in zip(below[1:4], names.items(), strict=True):
        kl = draw_posterior(axes, results[name].vae, x)
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
        ["p(z | x), from a grid", "q(z | x)"],
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
    """Train a VAE with each prior and posterior, print test results and draw the latent planes.

    Arguments:
        fits: number of fits of each VAE, from different seeds.
        epochs: passes through the training data.
        num_samples: number of importance samples, K.
        output: path of the picture.
    """
    digits = load("digits")
    x, test = digits.train.x.float(), digits.test.x.float()
    table = Table(title="test results in nats, ± standard error", box=SIMPLE, padding=(0, 1, 0, 0))
    table.add_column("", no_wrap=True)
    for head in ("log p(x)", "− standard", "gap", "KL", "aggregate"):
        table.add_column(head, justify="right", no_wrap=True)
    results: dict[str, Results] = {}
    for group in (PRIORS, POSTERIORS):
        for name, parts in group.items():
            result = train_and_evaluate(parts, x, test, fits, epochs, num_samples)
            results[name] = result
            # Paired by digit, so the difference has a smaller error than either mean
            difference = format_mean(result.log_px - results[PLAIN].log_px, 1)
            table.add_row(
                name,
                format_mean(result.log_px, 1),
                "" if name == PLAIN else difference,
                format_mean(result.gap),
                format_mean(result.kl),
                format_mean(result.aggregate_kl.unsqueeze(1)),
            )
        table.add_section()
    draw_planes(results, test, digits.test.y).savefig(output, dpi=100)
    Console().print(table)
    print(
        "first section: priors, with a diagonal normal q(z | x)\n"
        "second section: posteriors, with a standard p(z); IAF: inverse autoregressive flow\n"
        "− standard: difference to the first row; gap: log p(x) - ELBO\n"
        "KL: KL(q(z | x) || p(z)); aggregate: KL(q(z) || p(z)), a part of it\n"
        f"errors are over {len(test)} test digits and {fits} fits; those of aggregate over fits\n"
        f"picture in {output}"
    )


if __name__ == "__main__":
    run(main)
