"""Data sets, their splits, and minibatches on the device."""

from .batches import Batches
from .binarise import binarise
from .dataset import Dataset, Split
from .load import DATASETS, load
from .sprites import Sprites, load_dsprites, load_sprites, sprites

__all__ = [
    "DATASETS",
    "Batches",
    "Dataset",
    "Split",
    "Sprites",
    "binarise",
    "load",
    "load_dsprites",
    "load_sprites",
    "sprites",
]
