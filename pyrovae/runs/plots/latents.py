"""Pictures of the latent space: where data lie in it, and what it decodes to."""

from collections.abc import Callable, Sequence
from typing import Any

import torch
from jaxtyping import Float
from matplotlib.figure import Figure
from torch import Tensor

from .images import GREY, Limits, escape_name, plot_images

__all__ = ["latent_space", "manifold", "traversals"]

_MAX_CLASSES = 20


def latent_space(
    z: Float[Tensor, "num latent"], y: Tensor | None, classes: Sequence[str] | None = None
) -> Figure:
    """Plot posterior means of held-out data, coloured by class.

    With more than two latent dimensions, the axes are their first two principal components, and
    name the share of the variance that each explains. With one, random jitter spreads the points
    along the other axis.

    Arguments:
        z: posterior means.
        y: labels.
        classes: names of the labels 0, 1, ...
    """
    figure = Figure(figsize=(6.4, 5.6), layout="constrained")
    axes = figure.subplots()
    points = z.double().cpu()
    if z.shape[1] > 2:
        centred = points - points.mean(0)
        _, singular, directions = torch.linalg.svd(centred, full_matrices=False)
        share = singular**2 / (singular**2).sum()
        points = centred @ directions[:2].T
        labels = [f"principal component {i + 1} ({share[i]:.0%} of the variance)" for i in (0, 1)]
    elif z.shape[1] == 2:
        labels = ["$z_1$", "$z_2$"]
    else:
        jitter = torch.rand(points.shape, generator=torch.Generator().manual_seed(0))
        points, labels = torch.cat([points, jitter], 1), ["$z_1$", "(random jitter)"]
    present = [] if y is None else torch.unique(y).tolist()
    if y is None or len(present) > _MAX_CLASSES:
        colour = GREY if y is None else y.cpu()
        dots = axes.scatter(points[:, 0], points[:, 1], c=colour, s=6, alpha=0.6, linewidths=0)
        if y is not None:
            figure.colorbar(dots, label="class")
    else:
        for index, label in enumerate(present):
            chosen = points[(y == label).cpu()]
            colour = f"C{index}" if len(present) <= 10 else _tab20(index)
            axes.scatter(
                chosen[:, 0],
                chosen[:, 1],
                color=colour,
                s=8,
                alpha=0.7,
                linewidths=0,
                label=escape_name(classes[label] if classes else str(label)),
            )
        axes.legend(
            title="class", frameon=False, markerscale=2, loc="center left", bbox_to_anchor=(1, 0.5)
        )
    axes.set(title="means of q(z|x) on test data", xlabel=labels[0], ylabel=labels[1])
    if z.shape[1] > 1:
        axes.set_aspect("equal", adjustable="datalim")
    return figure


def manifold(
    decode_mean: Callable[[Tensor], Tensor],
    draws: Float[Tensor, "num 2"],
    limits: Limits,
    steps: int = 20,
) -> Figure:
    """Plot E[x|z] on a grid over two latents, at equal steps of probability under the prior.

    Arguments:
        decode_mean: from z to E[x|z].
        draws: draws of z from the prior; the grid is at their quantiles.
        limits: the values of a black and of a white pixel.
        steps: images in a row, and in a column.
    """
    across, upwards = draws.quantile(torch.linspace(0.02, 0.98, steps).to(draws), dim=0).T
    z = torch.stack(torch.meshgrid(upwards.flip(0), across, indexing="ij"), dim=-1).flip(-1)
    images = decode_mean(z.reshape(-1, 2))
    title = "E[x|z]: $z_1$ to the right, $z_2$ upwards, from the 2% to the 98% quantile of p(z)"
    return plot_images(images, steps, limits, title)


def traversals(
    decode_mean: Callable[[Tensor], Tensor],
    z: Float[Tensor, "latent"],
    dimensions: Sequence[int],
    labels: Sequence[str],
    spread: tuple[Float[Tensor, "latent"], Float[Tensor, "latent"]],
    limits: Limits,
    steps: int = 11,
) -> Figure:
    """Plot E[x|z] as one latent at a time varies over the prior, with the others fixed at z.

    Arguments:
        decode_mean: from z to E[x|z].
        z: the point to start from.
        dimensions: the latents to vary, one per row.
        labels: one for each of these rows.
        spread: mean and standard deviation of each latent under the prior.
        limits: the values of a black and of a white pixel.
        steps: images in a row.
    """
    line = torch.linspace(-3, 3, steps).to(z)
    mean, deviation = spread
    points = z.repeat(len(dimensions), steps, 1)
    for row, dimension in enumerate(dimensions):
        points[row, :, dimension] = mean[dimension] + deviation[dimension] * line
    images = decode_mean(points.flatten(0, 1))
    figure = plot_images(
        images,
        steps,
        limits,
        "E[x|z]: one latent per row, from −3 to 3 standard deviations of the prior;\n"
        "the others stay at the mean of q(z|x) of the first test datum",
    )
    axes = figure.axes[0]
    height = images.shape[-2] + 1
    axes.set_axis_on()
    axes.set_xticks([])
    axes.set_yticks([height * (row + 0.5) for row in range(len(dimensions))])
    axes.set_yticklabels(list(labels))
    axes.tick_params(length=0)
    for spine in axes.spines.values():
        spine.set_visible(False)
    return figure


def _tab20(index: int) -> Any:
    from matplotlib import colormaps

    return colormaps["tab20"](index)
