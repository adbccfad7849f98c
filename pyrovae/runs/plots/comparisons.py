"""Data beside what a model makes of them: reconstructions, samples, restorations."""

from collections.abc import Sequence
from math import ceil
from typing import Any

import numpy as np
import torch
from jaxtyping import Float
from matplotlib.figure import Figure
from numpy.typing import NDArray
from torch import Tensor

from .images import GREY, Limits, escape_name, is_image, plot_images

__all__ = ["reconstructions", "restorations", "samples"]

_MAX_PANELS = 12

_MAX_BINS = 60
"""If the values are whole and span at most this many, a histogram has one bin for each."""

_MISSING = (0.30, 0.45, 0.75)
"""The colour (RGB) of a missing pixel."""


def reconstructions(
    x: Tensor, mean: Tensor, limits: Limits, features: Sequence[str] | None = None
) -> Figure:
    """Plot held-out data and their reconstructions, E[x'|z] at the mean of q(z|x).

    Arguments:
        x: data of shape (num, *event_shape).
        mean: reconstructions of the same shape.
        limits: the values of a black and of a white pixel.
        features: names of the columns of a table.
    """
    if is_image(x.shape[1:]):
        columns = _count_columns(x)
        rows = [
            part
            for i in range(0, len(x), columns)
            for part in (x[i : i + columns], mean[i : i + columns])
        ]
        return plot_images(
            torch.cat([_pad_row(row, columns) for row in rows]),
            columns,
            limits,
            "test data (odd rows) and their reconstructions (even rows)",
        )
    figure, panels = _make_panels(x, features, "reconstructions of test data")
    for axes, i in panels:
        pairs = torch.stack([x.flatten(1)[:, i], mean.flatten(1)[:, i]]).double()
        pairs = pairs[:, pairs.isfinite().all(0)]
        if not pairs.numel():
            continue
        both = [pairs.min().item(), pairs.max().item()]
        axes.plot(both, both, color=GREY, linewidth=0.8)
        axes.scatter(*pairs, s=6, alpha=0.5, linewidths=0)
    figure.supxlabel("value in the data")
    figure.supylabel("reconstructed value")
    return figure


def samples(
    x: Tensor | None, drawn: Tensor, limits: Limits, features: Sequence[str] | None = None
) -> Figure:
    """Plot samples from the model: E[x|z] for images; histograms of draws and data for tables.

    Arguments:
        x: data of shape (num, *event_shape) to compare with; None if there are none.
        drawn: samples of shape (num', *event_shape).
        limits: the values of a black and of a white pixel.
        features: names of the columns of a table.
    """
    if is_image(drawn.shape[1:]):
        columns = _count_columns(drawn)
        title = "samples: means of p(x|z) for z from the prior"
        return plot_images(drawn, columns, limits, title)
    shown = {"samples": drawn} if x is None else {"data": x, "samples": drawn}
    title = "samples from the model" if x is None else "test data and samples from the model"
    figure, panels = _make_panels(drawn if x is None else x, features, title)
    for axes, i in panels:
        values_of = {label: each.flatten(1)[:, i].double() for label, each in shown.items()}
        finite = {label: each[each.isfinite()].numpy() for label, each in values_of.items()}
        bins = _find_bin_edges(np.concatenate(list(finite.values())))
        for label, values in finite.items():
            axes.hist(values, bins=bins, density=True, histtype="step", label=label, linewidth=1.5)
    handles, labels = figure.axes[0].get_legend_handles_labels()
    figure.legend(handles, labels, frameon=False, loc="outside upper right", ncols=2)
    return figure


def restorations(
    x: Float[Tensor, "num channels height width"],
    y: Float[Tensor, "num channels height_seen width_seen"],
    mean: Float[Tensor, "num channels height width"],
    sd: Float[Tensor, "num channels height width"],
    limits: Limits,
    title: str,
) -> Figure:
    """Plot original images, their observations, their restorations, and the uncertainty.

    Arguments:
        x: originals.
        y: observations; missing pixels (NaN) are blue.
        mean: restorations.
        sd: posterior standard deviations, in the units of x; the plot shows the mean over channels.
        limits: the values of a black and of a white pixel.
        title: how the images were degraded.
    """
    figure = Figure(figsize=(1.0 + 1.0 * len(x), 4.9), layout="constrained")
    figure.suptitle(title, fontsize="medium")
    grid = figure.subplots(4, len(x), squeeze=False)
    low, high = limits
    rows = {"original": x, "observation": y, "restoration": mean}
    for (name, images), line in zip(rows.items(), grid, strict=False):
        for axes, image in zip(line, images, strict=True):
            axes.imshow(_colour_missing((image - low) / (high - low)), interpolation="nearest")
        line[0].set_ylabel(name)
    spread = sd.mean(1).cpu().numpy()
    highest = max(spread.max(), np.finfo(np.float32).tiny)
    for axes, each in zip(grid[-1], spread, strict=True):
        shown = axes.imshow(each, cmap="magma", vmin=0, vmax=highest, interpolation="nearest")
    grid[-1][0].set_ylabel("uncertainty")
    label = "standard\ndeviation"
    figure.colorbar(shown, ax=grid[-1].tolist(), label=label, fraction=0.05, pad=0.01)
    for axes in grid.flatten():
        axes.set(xticks=[], yticks=[])
    return figure


def _colour_missing(image: Float[Tensor, "channels height width"]) -> NDArray[Any]:
    """Return the image in RGB, with missing pixels in blue."""
    colours = image.expand(3, -1, -1).permute(1, 2, 0).cpu().numpy()
    return np.where(np.isnan(colours), _MISSING, np.clip(colours, 0, 1))


def _find_bin_edges(values: NDArray[Any]) -> NDArray[Any]:
    """Return edges of a histogram: a bin for each whole number if they are few, else 30 bins."""
    low, high = values.min(), values.max()
    if high - low <= _MAX_BINS and (values == np.round(values)).all():
        return np.arange(low - 0.5, high + 1)
    return np.linspace(low, high, 31)


def _count_columns(images: Tensor) -> int:
    """Return how many images to put in a row: 16 square ones, fewer wide ones."""
    height, width = images.shape[-2:]
    return min(len(images), max(1, min(32, round(16 * height / width))))


def _pad_row(row: Tensor, columns: int) -> Tensor:
    missing = columns - len(row)
    return (
        torch.cat([row, row.new_full((missing, *row.shape[1:]), float("nan"))]) if missing else row
    )


def _make_panels(
    x: Tensor, features: Sequence[str] | None, title: str
) -> tuple[Figure, list[tuple[Any, int]]]:
    """Make a panel for each of the first features; return each with the number of its feature."""
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
        axes.set_title(escape_name(name), fontsize="small")
    return figure, [(axes, i) for i, axes in enumerate(grid[:shown])]
