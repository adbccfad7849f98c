"""Image data sets from scikit-learn and torchvision; x holds the grey levels as stored."""

from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from ..errors import InputError
from .dataset import RawDataset, Split

__all__ = ["read_digits", "read_fashion_mnist", "read_kmnist", "read_mnist", "read_omniglot"]

_OMNIGLOT_SIZE = 28


def read_digits(root: Path | None, download: bool) -> RawDataset:
    """1,797 handwritten digits of 8 x 8 pixels with levels 0, ..., 16, from scikit-learn."""
    from sklearn.datasets import load_digits

    digits = load_digits()
    x = torch.from_numpy(digits.images.astype(np.uint8)).unsqueeze(1)
    return RawDataset(Split(x, torch.from_numpy(digits.target)), levels=16.0)


def read_mnist(root: Path | None, download: bool) -> RawDataset:
    """70,000 handwritten digits of 28 x 28 pixels with levels 0, ..., 255 (LeCun et al. 1998)."""
    return _read_torchvision("MNIST", root, download)


def read_fashion_mnist(root: Path | None, download: bool) -> RawDataset:
    """70,000 pictures of clothes in the format of MNIST (Xiao et al. 2017)."""
    return _read_torchvision("FashionMNIST", root, download)


def read_kmnist(root: Path | None, download: bool) -> RawDataset:
    """70,000 cursive Japanese characters in the format of MNIST (Clanuwat et al. 2018)."""
    return _read_torchvision("KMNIST", root, download)


def read_omniglot(root: Path | None, download: bool) -> RawDataset:
    """32,460 characters (Lake et al. 2015), strokes white, scaled down from 105 x 105 to 28 x 28.

    The published background set is for training, the evaluation set for testing. y numbers the
    characters in each set.
    """
    train, test = (
        _shrink_all(_open_torchvision("Omniglot", root, download, background=is_background))
        for is_background in (True, False)
    )
    return RawDataset(train, test, 255.0)


def _read_torchvision(name: str, root: Path | None, download: bool) -> RawDataset:
    train, test = (_open_torchvision(name, root, download, train=train) for train in (True, False))
    return RawDataset(_as_split(train), _as_split(test), 255.0)


def _as_split(dataset: Any) -> Split:
    return Split(dataset.data.unsqueeze(1), dataset.targets)


def _shrink_all(dataset: Any) -> Split:
    from rich.progress import track

    x = torch.empty(len(dataset), 1, _OMNIGLOT_SIZE, _OMNIGLOT_SIZE, dtype=torch.uint8)
    y = torch.empty(len(dataset), dtype=torch.int64)
    for i in track(range(len(dataset)), "Reading Omniglot", transient=True):
        image, y[i] = dataset[i]
        x[i, 0] = _shrink(image)
    return Split(x, y)


def _shrink(image: Any) -> Tensor:
    from PIL import Image

    small = image.convert("L").resize((_OMNIGLOT_SIZE, _OMNIGLOT_SIZE), Image.Resampling.BOX)
    return 255 - torch.from_numpy(np.array(small))


def _open_torchvision(name: str, root: Path | None, download: bool, **which: bool) -> Any:
    import torchvision

    if root is None:
        raise InputError(
            f"{name} needs a folder: give --data-root DIR (data_root in YAML, root in Python) or "
            "set the variable PYROVAE_DATA"
        )
    try:
        return getattr(torchvision.datasets, name)(root, download=download, **which)
    except (RuntimeError, OSError) as error:
        if download:
            raise InputError(f"{name} could not be downloaded to {root}: {error}") from error
        raise InputError(
            f"{name} is not in {root}; add --download (download=True) to download it, or name the "
            "folder that holds it"
        ) from error
