"""Grids of images, and what other plots share."""

from collections.abc import Sequence
from math import ceil
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Float
from matplotlib.figure import Figure
from matplotlib.image import imread
from numpy.typing import NDArray
from torch import Tensor

from ...errors import printable

__all__ = [
    "GREY",
    "Limits",
    "escape_name",
    "gallery",
    "image_grid",
    "is_image",
    "plot_images",
]

Limits = tuple[float, float]
"""The values of a black and of a white pixel."""

GREY = "0.35"

_MAX_NAME = 28


def is_image(event_shape: Sequence[int]) -> bool:
    """Whether data of this shape are plotted as images: (1 or 3 channels, height, width)."""
    return len(event_shape) == 3 and event_shape[0] in (1, 3)


def image_grid(images: Float[Tensor, "num channels height width"], columns: int) -> NDArray[Any]:
    """Put images side by side, one pixel apart: an array (height, width) or (height, width, 3)."""
    num, channels, height, width = images.shape
    rows = ceil(num / columns)
    grid = np.full((rows * (height + 1) + 1, columns * (width + 1) + 1, channels), np.nan)
    for i, image in enumerate(images.cpu().numpy()):
        top, left = i // columns * (height + 1) + 1, i % columns * (width + 1) + 1
        grid[top : top + height, left : left + width] = image.transpose(1, 2, 0)
    return grid[..., 0] if channels == 1 else np.nan_to_num(grid, nan=1.0)


def plot_images(images: Tensor, columns: int, limits: Limits, title: str) -> Figure:
    """Plot a grid of images with so many in a row.

    Arguments:
        images: of shape (num, channels, height, width).
        columns: number of images in a row.
        limits: the values of a black and of a white pixel.
        title: above the grid.
    """
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


def gallery(paths: Sequence[Path], titles: Sequence[str]) -> Figure:
    """Show pictures from files, one below the other, each under its title."""
    pictures = [imread(path) for path in paths]
    heights = [picture.shape[0] / picture.shape[1] for picture in pictures]
    figure = Figure(figsize=(8, 8 * sum(heights) + 0.4 * len(pictures)), layout="constrained")
    grid = figure.subplots(len(pictures), 1, squeeze=False, height_ratios=heights).flatten()
    for axes, picture, title in zip(grid, pictures, titles, strict=True):
        axes.imshow(picture)
        axes.set_title(escape_name(title), fontsize="medium", loc="left")
        axes.set_axis_off()
    return figure


def escape_name(name: str) -> str:
    """Return a user's name as text for matplotlib: cut if too long, and not read as a formula."""
    name = printable(name).replace("\n", "\\n")
    cut = name if len(name) <= _MAX_NAME else name[: _MAX_NAME - 1] + "…"
    return cut.replace("$", r"\$")
