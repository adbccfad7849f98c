"""Images with known factors of variation: sprites drawn by pyrovae, and the dSprites data set."""

import zipfile
import zlib
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from types import MappingProxyType
from typing import Any

import numpy as np
import torch
from jaxtyping import Int, UInt8
from numpy.typing import NDArray
from torch import Tensor

from ..arguments import TensorLike, as_path, as_tensor, as_whole
from ..errors import InputError
from .dataset import RawDataset, Split

__all__ = [
    "DSPRITES_FILE",
    "FACTORS",
    "SHAPES",
    "Sprites",
    "all_factors",
    "load_dsprites",
    "load_sprites",
    "read_dsprites",
    "read_sprites",
    "sprites",
]

FACTORS: Mapping[str, int] = MappingProxyType(
    {"shape": 3, "scale": 6, "orientation": 40, "x": 32, "y": 32}
)
"""The factors of a sprite in order, with their number n of values 0, ..., n - 1."""

SHAPES = ("square", "ellipse", "heart")
"""Names of the values of the first factor."""

DSPRITES_FILE = "dsprites_ndarray_co1sh3sc6or40x32y32_64x64.npz"
"""Name of the published file of dSprites."""

_SIDE = 64
_HALF_WIDTH = 16
"""Pixels from the centre of a sprite to the edge of its window."""

_CHUNK = 10_000

_NUM_SPRITES = 50_000


@dataclass(frozen=True)
class Sprites:
    """Images and their factors.

    Attributes:
        images: pixels, 0 or 1.
        factors: values of the factors in the order of ``names``.
    """

    images: UInt8[Tensor, "data 1 64 64"]
    factors: Int[Tensor, "data 5"]

    @property
    def names(self) -> tuple[str, ...]:
        """Names of the factors."""
        return tuple(FACTORS)


def sprites(factors: TensorLike) -> UInt8[Tensor, "data 1 64 64"]:
    """Draw white sprites on black, one for each row of factors, on the device of the factors.

    The factors and their numbers of values are those of dSprites (Matthey et al. 2017). The
    outlines are not, so images differ from dSprites. A pixel is 1 if its centre is in the shape,
    else 0. Values i of the factors mean

    - shape: square, ellipse, heart;
    - scale: 0.5, 0.6, ..., 1, of a square of half side 11.3 pixels, an ellipse of semi-axes 15.3
      and 8.7, and a heart (x^2 + y^2 - 1)^3 < x^2 y^3 of unit 11.2;
    - orientation: 2 pi i / 40, anticlockwise;
    - x: column 16 + i of the centre, to the right;
    - y: row 16 + i of the centre, downwards.

    Sprites never reach beyond the edge. Different factors give different images, except for
    symmetries: a square looks the same after 10 steps of orientation (90 degrees), an ellipse
    after 20.

    Raises:
        InputError: if factors are no integers, or a value is outside the range of its factor.

    Example:
        >>> sprites(torch.tensor([[0, 5, 0, 16, 16]])).sum().item()  # a square of 23 x 23 pixels
        529
    """
    factors = as_tensor("factors", factors)
    if factors.ndim != 2 or factors.shape[1] != len(FACTORS) or factors.is_floating_point():
        raise InputError(
            f"factors have shape {tuple(factors.shape)} and type {factors.dtype}; give integers of "
            f"shape (num, {len(FACTORS)})"
        )
    sizes = torch.tensor(list(FACTORS.values()), device=factors.device)
    wrong = ((factors < 0) | (factors >= sizes)).any(0).tolist()
    if any(wrong):
        name = list(FACTORS)[wrong.index(True)]
        raise InputError(f"values of factor {name!r} must be from 0 to {FACTORS[name] - 1}")
    windows = _windows().to(factors.device)
    step = torch.arange(windows.shape[-1], device=factors.device)
    images = windows.new_zeros(len(factors), 1, _SIDE, _SIDE)
    for part, chunk in zip(images.split(_CHUNK), factors.long().split(_CHUNK), strict=True):
        shape, scale, orientation, x, y = chunk.unbind(1)
        data = torch.arange(len(part), device=factors.device)[:, None, None]
        rows, columns = (y[:, None] + step)[:, :, None], (x[:, None] + step)[:, None]
        part[data, 0, rows, columns] = windows[shape, scale, orientation]
    return images


def all_factors() -> Int[Tensor, "data 5"]:
    """All 737,280 combinations of factors, row-major: the last factor varies fastest."""
    return torch.cartesian_prod(*(torch.arange(size) for size in FACTORS.values()))


def load_sprites(num: int | None = 10_000, seed: int = 0) -> Sprites:
    """Draw sprites with random factors, all different, in random order.

    Arguments:
        num: number of sprites; None for all of them (3 GB), in the order of ``all_factors``.
        seed: seed of the random choice; torch's global random state does not change.

    Raises:
        InputError: if num is larger than the number of different sprites, or not positive.

    Example:
        >>> load_sprites(3).factors.shape
        torch.Size([3, 5])
    """
    factors = all_factors()
    if num is not None:
        num, seed = as_whole("num", num), as_whole("seed", seed, 0, 2**63 - 1)
        if not 1 <= num <= len(factors):
            raise InputError(f"num is {num}; ask for 1 to {len(factors):,} sprites")
        order = torch.randperm(len(factors), generator=torch.Generator().manual_seed(seed))
        factors = factors[order[:num]]
    return Sprites(sprites(factors), factors)


def load_dsprites(path: str | Path) -> Sprites:
    """Read the images and factors of dSprites (Matthey et al. 2017) from its published ``.npz``.

    Only the arrays ``imgs`` and ``latents_classes`` are read; ``metadata`` is a pickle and is never
    loaded. The factors leave out the colour, which is always white.

    Raises:
        InputError: if the file does not exist, or does not hold dSprites.
    """
    path = as_path("path", path)
    if not path.is_file():
        raise InputError(f"there is no file {path}; dSprites is published as {DSPRITES_FILE}")
    images, classes = _dsprites_arrays(path)
    sizes = (1, *FACTORS.values())
    if not (
        images.dtype == np.uint8
        and images.size > 0
        and images.shape[1:] == (_SIDE, _SIDE)
        and classes.dtype.kind in "iu"
        and classes.shape == (len(images), len(sizes))
    ):
        raise InputError(
            f"{path} is not dSprites: imgs must be uint8 of shape (num, {_SIDE}, {_SIDE}) and "
            f"latents_classes whole numbers of shape (num, {len(sizes)}); got {images.dtype} "
            f"{images.shape} and {classes.dtype} {classes.shape}"
        )
    if images.max() > 1 or (classes < 0).any() or (classes >= np.array(sizes)).any():
        raise InputError(
            f"{path} is not dSprites: imgs must be 0 or 1, and the columns of latents_classes "
            f"numbers below {', '.join(map(str, sizes))}"
        )
    factors = torch.from_numpy(classes[:, 1:].astype(np.int64))
    return Sprites(torch.from_numpy(images).unsqueeze(1), factors)


def read_sprites(root: Path | None, download: bool) -> RawDataset:
    """50,000 sprites of 64 x 64 pixels, black and white, with their shape as the class."""
    return _as_raw_dataset(load_sprites(_NUM_SPRITES))


def read_dsprites(root: Path | None, download: bool) -> RawDataset:
    """737,280 sprites of 64 x 64 pixels (Matthey et al. 2017), with their shape as the class."""
    if root is None:
        raise InputError(
            "dsprites needs a folder: give --data-root DIR (data_root in YAML, root in Python) or "
            "set the variable PYROVAE_DATA"
        )
    return _as_raw_dataset(load_dsprites(root / DSPRITES_FILE))


def _as_raw_dataset(data: Sprites) -> RawDataset:
    """A data set without grey levels, because pixels are 0 or 1 and need no binarisation."""
    return RawDataset(Split(data.images, data.factors[:, 0]), classes=SHAPES)


def _dsprites_arrays(path: Path) -> tuple[NDArray[Any], NDArray[Any]]:
    try:
        with np.load(path, allow_pickle=False) as file:
            return file["imgs"], file["latents_classes"]
    except (
        KeyError,
        TypeError,
        ValueError,
        OSError,
        EOFError,
        zipfile.BadZipFile,
        zlib.error,
    ) as error:
        raise InputError(
            f"{path} cannot be read as dSprites: it must be a .npz with arrays imgs and "
            f"latents_classes, as {DSPRITES_FILE} is"
        ) from error


@cache
def _windows() -> UInt8[Tensor, "shape scale orientation window window"]:
    """Images of each shape at each scale and orientation, centred on the middle pixel."""
    return (_outlines() < 0).to(torch.uint8)


def _outlines() -> Tensor:
    """A function of each pixel that is negative inside the shape and positive outside.

    It is never so close to zero that rounding errors matter.
    """
    step = torch.arange(-_HALF_WIDTH, _HALF_WIDTH + 1, dtype=torch.float64)
    right, up = step, -step[:, None]
    turns = torch.arange(FACTORS["orientation"], dtype=torch.float64) / FACTORS["orientation"]
    angle = 2 * torch.pi * turns[:, None, None]
    scale = torch.linspace(0.5, 1, FACTORS["scale"], dtype=torch.float64)[:, None, None, None]
    x = (angle.cos() * right + angle.sin() * up) / scale
    y = (angle.cos() * up - angle.sin() * right) / scale
    square = torch.maximum(x.abs(), y.abs()) / 11.3 - 1
    ellipse = (x / 15.3) ** 2 + (y / 8.7) ** 2 - 1
    u, v = x / 11.2, y / 11.2
    heart = (u**2 + v**2 - 1) ** 3 - u**2 * v**3
    return torch.stack([square, ellipse, heart])
