"""Pictures of a run, each a matplotlib Figure; arrays in, no models and no global pyplot state."""

from collections.abc import Callable, Sequence
from math import ceil
from pathlib import Path
from typing import Any

import numpy as np
import torch
from jaxtyping import Float
from matplotlib.figure import Figure
from matplotlib.image import imread
from matplotlib.ticker import MaxNLocator
from numpy.typing import NDArray
from torch import Tensor

__all__ = [
    "gallery",
    "image_grid",
    "is_image",
    "latent_space",
    "manifold",
    "reconstructions",
    "restorations",
    "samples",
    "training_curves",
    "traversals",
]

Limits = tuple[float, float]

_MAX_PANELS = 12
_MAX_NAME = 28
_MAX_WHOLE = 60
_MAX_CLASSES = 20
_GREY = "0.35"
_GAP = (0.30, 0.45, 0.75)
"""The colour of a pixel that is missing."""


def is_image(event_shape: Sequence[int]) -> bool:
    """Whether data of this shape are shown as pictures: (1 or 3 channels, height, width)."""
    return len(event_shape) == 3 and event_shape[0] in (1, 3)


def training_curves(epochs: Sequence[dict[str, Any]]) -> Figure:
    """Loss, reconstruction and KL by epoch, in nats a datum, for training and validation."""
    figure = Figure(figsize=(11, 3.6), layout="constrained")
    number = [epoch["epoch"] for epoch in epochs]
    titles = {
        "loss": "loss (negative objective)",
        "reconstruction": "reconstruction, −E[log p(x|z)]",
        "kl": "KL, E[log q(z|x) − log p(z)]",
    }
    for axes, (name, title) in zip(figure.subplots(1, 3), titles.items(), strict=True):
        curves = {"training": [epoch[name] for epoch in epochs]}
        if epochs[0][f"validation_{name}"] is not None:
            curves["validation"] = [epoch[f"validation_{name}"] for epoch in epochs]
        marker = "o" if len(number) == 1 else None
        for label, values in curves.items():
            axes.plot(number, values, label=label, marker=marker, linewidth=1.5)
        _leave_out_start(axes, list(curves.values()))
        axes.set(title=title, xlabel="epoch", ylabel="nats a datum")
        axes.xaxis.set_major_locator(MaxNLocator(integer=True))
        axes.grid(alpha=0.3)
    figure.axes[0].legend(frameon=False)
    return figure


def _leave_out_start(axes: Any, curves: Sequence[Sequence[float]]) -> None:
    """Limits that show the last nine tenths of the run, which the first epochs would flatten."""
    shown = np.concatenate([np.asarray(c, dtype=float)[len(c) // 10 :] for c in curves])
    shown = shown[np.isfinite(shown)]
    if not len(shown):
        return
    low, high = shown.min(), shown.max()
    margin = 0.05 * (high - low) or 1.0
    axes.set_ylim(low - margin, high + margin)


def image_grid(images: Float[Tensor, "num channels height width"], columns: int) -> NDArray[Any]:
    """Images side by side, one pixel apart, as an array (height, width) or (height, width, 3)."""
    num, channels, height, width = images.shape
    rows = ceil(num / columns)
    grid = np.full((rows * (height + 1) + 1, columns * (width + 1) + 1, channels), np.nan)
    for i, image in enumerate(images.cpu().numpy()):
        top, left = i // columns * (height + 1) + 1, i % columns * (width + 1) + 1
        grid[top : top + height, left : left + width] = image.transpose(1, 2, 0)
    return grid[..., 0] if channels == 1 else np.nan_to_num(grid, nan=1.0)


def reconstructions(
    x: Tensor, mean: Tensor, limits: Limits, features: Sequence[str] | None = None
) -> Figure:
    """Held-out data beside E[x'|z] at the mean of q(z|x).

    Arguments:
        x: data of shape (num, *event_shape).
        mean: reconstructions of the same shape.
        limits: the values of a black and of a white pixel.
        features: names of the columns of a table.
    """
    if is_image(x.shape[1:]):
        columns = _columns(x)
        rows = [
            part
            for i in range(0, len(x), columns)
            for part in (x[i : i + columns], mean[i : i + columns])
        ]
        return _show(
            torch.cat([_padded(row, columns) for row in rows]),
            columns,
            limits,
            "test data (odd rows) and their reconstructions (even rows)",
        )
    figure, panels = _panels(x, features, "test data against their reconstructions")
    for axes, i in panels:
        pairs = torch.stack([x.flatten(1)[:, i], mean.flatten(1)[:, i]]).double()
        pairs = pairs[:, pairs.isfinite().all(0)]
        if not pairs.numel():
            continue
        both = [pairs.min().item(), pairs.max().item()]
        axes.plot(both, both, color=_GREY, linewidth=0.8)
        axes.scatter(*pairs, s=6, alpha=0.5, linewidths=0)
    figure.supxlabel("datum")
    figure.supylabel("reconstruction")
    return figure


def restorations(
    x: Float[Tensor, "num channels height width"],
    y: Float[Tensor, "num channels height_seen width_seen"],
    mean: Float[Tensor, "num channels height width"],
    sd: Float[Tensor, "num channels height width"],
    limits: Limits,
    title: str,
) -> Figure:
    """Originals, what was observed of them, and what they are restored to, with the uncertainty.

    Arguments:
        x: originals.
        y: observations; pixels that are missing (NaN) are blue.
        mean: restorations.
        sd: their posterior standard deviations, in the units of x; the mean of all channels is
            shown.
        limits: the values of a black and of a white pixel.
        title: what was done.
    """
    figure = Figure(figsize=(1.0 + 1.0 * len(x), 4.9), layout="constrained")
    figure.suptitle(title, fontsize="medium")
    grid = figure.subplots(4, len(x), squeeze=False)
    low, high = limits
    rows = {"original": x, "observation": y, "restoration": mean}
    for (name, images), line in zip(rows.items(), grid, strict=False):
        for axes, image in zip(line, images, strict=True):
            axes.imshow(_with_gaps((image - low) / (high - low)), interpolation="nearest")
        line[0].set_ylabel(name)
    spread = sd.mean(1).cpu().numpy()
    most = max(spread.max(), np.finfo(np.float32).tiny)
    for axes, each in zip(grid[-1], spread, strict=True):
        shown = axes.imshow(each, cmap="magma", vmin=0, vmax=most, interpolation="nearest")
    grid[-1][0].set_ylabel("uncertainty")
    figure.colorbar(shown, ax=grid[-1].tolist(), label="sd", fraction=0.05, pad=0.01)
    for axes in grid.flatten():
        axes.set(xticks=[], yticks=[])
    return figure


def _with_gaps(image: Float[Tensor, "channels height width"]) -> NDArray[Any]:
    """In colours, pixels that are missing in blue."""
    colours = image.expand(3, -1, -1).permute(1, 2, 0).cpu().numpy()
    return np.where(np.isnan(colours), _GAP, np.clip(colours, 0, 1))


def samples(
    x: Tensor, drawn: Tensor, limits: Limits, features: Sequence[str] | None = None
) -> Figure:
    """What the prior generates: E[x|z] for images; histograms of draws beside data for tables.

    Arguments:
        x: data of shape (num, *event_shape).
        drawn: samples of shape (num', *event_shape).
        limits: the values of a black and of a white pixel.
        features: names of the columns of a table.
    """
    if is_image(x.shape[1:]):
        columns = _columns(drawn)
        return _show(drawn, columns, limits, "samples: means of p(x|z) for z from the prior")
    figure, panels = _panels(x, features, "test data and samples from the model")
    for axes, i in panels:
        pair = (t.flatten(1)[:, i].double() for t in (x, drawn))
        both = [column[column.isfinite()].numpy() for column in pair]
        bins = _bins(np.concatenate(both))
        for values, label in zip(both, ("data", "samples"), strict=True):
            axes.hist(values, bins=bins, density=True, histtype="step", label=label, linewidth=1.5)
    handles, labels = figure.axes[0].get_legend_handles_labels()
    figure.legend(handles, labels, frameon=False, loc="outside upper right", ncols=2)
    return figure


def _bins(values: NDArray[Any]) -> NDArray[Any]:
    """Edges of a histogram: one bin for each whole number where there are few, or 30 bins."""
    low, high = values.min(), values.max()
    if high - low <= _MAX_WHOLE and (values == np.round(values)).all():
        return np.arange(low - 0.5, high + 1)
    return np.linspace(low, high, 31)


def latent_space(
    z: Float[Tensor, "num latent"], y: Tensor | None, classes: Sequence[str] | None = None
) -> Figure:
    """Posterior means of held-out data, coloured by class.

    Above two latent dimensions, their first two principal components with the share of the
    variance that each holds; one dimension is spread at random along the other axis.

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
        points, labels = torch.cat([points, jitter], 1), ["$z_1$", "(spread at random)"]
    present = [] if y is None else torch.unique(y).tolist()
    if y is None or len(present) > _MAX_CLASSES:
        colour = _GREY if y is None else y.cpu()
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
                label=_plain(classes[label] if classes else str(label)),
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
    """E[x|z] over the plane of two latents, at equal steps of probability under the prior.

    Arguments:
        decode_mean: from z to E[x|z].
        draws: of z from the prior, by whose quantiles the steps are taken.
        limits: the values of a black and of a white pixel.
        steps: images in a row, and in a column.
    """
    across, upwards = draws.quantile(torch.linspace(0.02, 0.98, steps).to(draws), dim=0).T
    z = torch.stack(torch.meshgrid(upwards.flip(0), across, indexing="ij"), dim=-1).flip(-1)
    images = decode_mean(z.reshape(-1, 2))
    title = "decoded plane: $z_1$ rightwards, $z_2$ upwards, 2% to 98% of the prior"
    return _show(images, steps, limits, title)


def traversals(
    decode_mean: Callable[[Tensor], Tensor],
    z: Float[Tensor, "latent"],
    dimensions: Sequence[int],
    labels: Sequence[str],
    spread: tuple[Float[Tensor, "latent"], Float[Tensor, "latent"]],
    limits: Limits,
    steps: int = 11,
) -> Figure:
    """E[x|z] as one latent at a time goes through the prior, the rest staying at z.

    Arguments:
        decode_mean: from z to E[x|z].
        z: the point to start from.
        dimensions: the latents to move, one a row.
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
    figure = _show(
        images,
        steps,
        limits,
        "one latent at a time, from −3 to 3 standard deviations of the prior; the rest: first "
        "test datum",
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


def gallery(paths: Sequence[Path], titles: Sequence[str]) -> Figure:
    """Pictures from files, one below the other, each under its title."""
    pictures = [imread(path) for path in paths]
    heights = [picture.shape[0] / picture.shape[1] for picture in pictures]
    figure = Figure(figsize=(8, 8 * sum(heights) + 0.4 * len(pictures)), layout="constrained")
    grid = figure.subplots(len(pictures), 1, squeeze=False, height_ratios=heights).flatten()
    for axes, picture, title in zip(grid, pictures, titles, strict=True):
        axes.imshow(picture)
        axes.set_title(_plain(title), fontsize="medium", loc="left")
        axes.set_axis_off()
    return figure


def _show(images: Tensor, columns: int, limits: Limits, title: str) -> Figure:
    low, high = limits
    grid = image_grid((images - low) / (high - low), columns)
    height, width = grid.shape[:2]
    size = 8.0
    figure = Figure(figsize=(size, size * height / width + 0.4), layout="constrained")
    axes = figure.subplots()
    axes.imshow(
        np.ma.masked_invalid(np.clip(grid, 0, 1)),
        cmap="gray",
        vmin=0,
        vmax=1,
        interpolation="nearest",
    )
    axes.set_title(title, fontsize="medium")
    axes.set_axis_off()
    return figure


def _padded(row: Tensor, columns: int) -> Tensor:
    missing = columns - len(row)
    return (
        torch.cat([row, row.new_full((missing, *row.shape[1:]), float("nan"))]) if missing else row
    )


def _panels(
    x: Tensor, features: Sequence[str] | None, title: str
) -> tuple[Figure, list[tuple[Any, int]]]:
    width = x[0].numel()
    shown = min(width, _MAX_PANELS)
    columns = min(4, shown)
    rows = ceil(shown / columns)
    figure = Figure(figsize=(2.8 * columns, 2.4 * rows + 0.5), layout="constrained")
    if shown < width:
        title += f" (the first {shown} of {width} features)"
    figure.suptitle(title, fontsize="medium")
    grid = figure.subplots(rows, columns, squeeze=False).flatten()
    for axes in grid[shown:]:
        axes.set_visible(False)
    for i, axes in enumerate(grid[:shown]):
        name = features[i] if features else f"feature {i}"
        axes.set_title(_plain(name), fontsize="small")
    return figure, [(axes, i) for i, axes in enumerate(grid[:shown])]


def _tab20(index: int) -> Any:
    from matplotlib import colormaps

    return colormaps["tab20"](index)


def _columns(images: Tensor) -> int:
    """How many images go side by side: 16 square ones, fewer wide ones."""
    height, width = images.shape[-2:]
    return min(len(images), max(1, min(32, round(16 * height / width))))


def _plain(name: str) -> str:
    """A name of the user's as it stands: cut where too long, and no formula."""
    cut = name if len(name) <= _MAX_NAME else name[: _MAX_NAME - 1] + "…"
    return cut.replace("$", r"\$")
