"""Tables of measurements that scikit-learn ships."""

from pathlib import Path
from typing import Any

import torch

from .dataset import RawDataset, Split

__all__ = ["read_iris", "read_wine"]


def read_iris(root: Path | None, download: bool) -> RawDataset:
    """150 irises of three species, four lengths in cm each (Fisher 1936)."""
    from sklearn.datasets import load_iris

    return _as_raw_dataset(load_iris())


def read_wine(root: Path | None, download: bool) -> RawDataset:
    """178 wines of three growers, 13 chemical measurements each (Forina et al. 1988)."""
    from sklearn.datasets import load_wine

    return _as_raw_dataset(load_wine())


def _as_raw_dataset(bunch: Any) -> RawDataset:
    data = Split(torch.from_numpy(bunch.data), torch.from_numpy(bunch.target).long())
    classes = tuple(str(name) for name in bunch.target_names)
    return RawDataset(data, features=tuple(bunch.feature_names), classes=classes)
