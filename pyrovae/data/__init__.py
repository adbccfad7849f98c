"""Data sets, their splits, and batches on the device."""

from .batches import Batches
from .binarise import binarise
from .dataset import Dataset, Split
from .load import DATASETS, load

__all__ = ["DATASETS", "Batches", "Dataset", "Split", "binarise", "load"]
