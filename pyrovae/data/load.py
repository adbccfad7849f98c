"""Load a data set by name, or from your own file."""

import os
from collections.abc import Callable
from pathlib import Path

import torch

from ..arguments import as_dtype, as_flag, as_path, as_real, as_text
from ..errors import InputError, did_you_mean
from .dataset import Dataset, RawDataset, split_off
from .files import SUFFIXES, read_file
from .images import read_digits, read_fashion_mnist, read_kmnist, read_mnist, read_omniglot
from .sprites import read_dsprites, read_sprites
from .tables import read_iris, read_wine

__all__ = ["DATASETS", "SPLIT_SEED", "load", "open_data_set"]

SPLIT_SEED = 0
"""Splits have their own generator, so that the test data do not depend on the training seed."""

_TEST_FRACTION = 0.2

DATASETS: dict[str, Callable[[Path | None, bool], RawDataset]] = {
    "digits": read_digits,
    "mnist": read_mnist,
    "fashion-mnist": read_fashion_mnist,
    "kmnist": read_kmnist,
    "omniglot": read_omniglot,
    "sprites": read_sprites,
    "dsprites": read_dsprites,
    "iris": read_iris,
    "wine": read_wine,
}
"""For each name, a function of (root, download) that reads the data set."""


def load(
    data: str | Path = "digits",
    *,
    root: str | Path | None = None,
    download: bool = False,
    label: str | None = None,
    exposure: str | None = None,
    words: bool = False,
    validation_fraction: float = 0.1,
    dtype: torch.dtype = torch.float32,
) -> Dataset:
    """Load a data set, split into training, validation and test data in the same way every time.

    Data sets that come with test data keep them; of all others, a fifth becomes the test data.

    Arguments:
        data: ``digits`` (8 x 8, ships with scikit-learn), ``mnist``, ``fashion-mnist``,
            ``kmnist``, ``omniglot`` (28 x 28), ``sprites`` (64 x 64, drawn by pyrovae),
            ``dsprites`` (64 x 64, from the published file), ``iris``, ``wine`` (tables), or the
            path of a ``.npz``, ``.npy`` or ``.csv``.
        root: folder of the torchvision data sets and of dSprites; by default, the environment
            variable ``PYROVAE_DATA``.
        download: download a torchvision data set if it is not in the folder.
        label: column of a CSV that holds the class; it is not part of x.
        exposure: column of a CSV that holds the exposure of each datum; it is not part of x.
        words: whether columns of a CSV may hold words, which are numbered.
        validation_fraction: fraction of the training data to use for validation.
        dtype: type of real numbers; integers stay integers.

    Raises:
        InputError: if the data set or file does not exist or cannot be read.

    Example:
        >>> digits = load("digits")
        >>> digits.event_shape, len(digits.train), len(digits.validation), len(digits.test)
        ((1, 8, 8), 1294, 144, 359)
    """
    path = as_path("data", data)
    root = None if root is None else as_path("root", root)
    download, words = as_flag("download", download), as_flag("words", words)
    label = None if label is None else as_text("label", label)
    exposure = None if exposure is None else as_text("exposure", exposure)
    validation_fraction = as_real("validation_fraction", validation_fraction, above=0, below=1)
    dtype = as_dtype("dtype", dtype)
    if str(data) in DATASETS:
        for option, column in (("label", label), ("exposure", exposure)):
            if column is not None:
                raise InputError(
                    f"{option} must name a column of a CSV file, and {data} is not one"
                )
        raw = open_data_set(str(data), root, download)
        name = str(data)
    elif path.suffix.lower() in SUFFIXES:
        raw = read_file(path, label, exposure, words)
        name = path.stem
    else:
        raise InputError(
            f"unknown data set {str(data)!r}: {did_you_mean(str(data), DATASETS)} "
            f"(or give a file that ends in {', '.join(SUFFIXES)})"
        )
    train = raw.train.to(dtype)
    test = None if raw.test is None else raw.test.to(dtype)
    if test is None:
        train, test = split_off(train, _TEST_FRACTION, SPLIT_SEED, "testing")
    train, validation = split_off(train, validation_fraction, SPLIT_SEED + 1, "validation")
    names = (raw.features, raw.classes, raw.categories)
    return Dataset(name, train, validation, test, raw.levels, *names)


def open_data_set(name: str, root: Path | None = None, download: bool = False) -> RawDataset:
    """Read a data set by its name, as it was published.

    Arguments:
        name: one of :data:`DATASETS`.
        root: folder of downloaded data sets; ``PYROVAE_DATA`` by default.
        download: whether to download what is not there.

    Raises:
        InputError: if it is not there.
    """
    folder = root if root is not None else os.environ.get("PYROVAE_DATA")
    return DATASETS[name](Path(folder) if folder else None, download)
