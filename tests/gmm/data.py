"""Data, starts and mixtures for the tests."""

from functools import cache
from typing import get_args

import numpy as np
import torch
from sklearn.datasets import load_iris, load_wine
from torch import Tensor

from pyrovae.gmm import CovarianceType, Mixture, floor_of, k_means_plus_plus, toy

TYPES = get_args(CovarianceType)
NAMES = ("toy", "iris", "wine")


@cache
def points(name: str) -> Tensor:
    """toy (400 x 2), iris (150 x 4) or wine (178 x 13), not standardised."""
    if name == "toy":
        return toy(400)[0]
    return torch.from_numpy({"iris": load_iris, "wine": load_wine}[name]().data)


def start(name: str, covariance_type: CovarianceType, num_components: int = 3) -> Mixture:
    """The k-means++ start that all methods share."""
    x = points(name)
    return k_means_plus_plus(x, num_components, covariance_type, floor_of(x, 1e-6))


def random_mixture(covariance_type: CovarianceType, k: int = 3, d: int = 2) -> Mixture:
    """A mixture with random parameters, the same in every call."""
    random = np.random.default_rng(0)
    factors = random.normal(size=(k, d, d)) + 2 * np.eye(d)
    full = factors @ factors.transpose(0, 2, 1)
    covariances = {
        "full": full,
        "tied": full[0],
        "diag": np.diagonal(full, axis1=1, axis2=2).copy(),
        "spherical": full[:, 0, 0].copy(),
    }[covariance_type]
    return Mixture.of(
        random.dirichlet(np.ones(k)), random.normal(size=(k, d)), covariances, covariance_type
    )
