"""The start that all methods share."""

from dataclasses import replace

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from ..arguments import TensorLike, as_whole
from .em import maximisation
from .mixture import CovarianceType, Mixture, check_covariance_type
from .moments import expectation
from .points import as_floor, as_points, check_fittable, column_moments

__all__ = ["k_means_plus_plus", "start_at"]

_SEED_SCALE = 1e-4
"""Standard deviation of the seeds, so small that responsibilities select the nearest seed."""


def k_means_plus_plus(
    x: TensorLike,
    num_components: int,
    covariance_type: CovarianceType,
    floor: TensorLike,
    seed: int | np.random.RandomState = 0,
    weights: Float[Tensor, "n"] | None = None,
) -> Mixture:
    """Start a mixture from k-means++ seeds (Arthur and Vassilvitskii 2007).

    Each point is assigned to the nearest seed, in units of the standard deviation of each column,
    so that the start does not depend on units. Weights and locs come from the assigned points. All
    components start with the pooled covariance, so that none starts narrow. Missing entries (NaN)
    count as the mean of their column when seeds are chosen.

    Arguments:
        x: data.
        num_components: K.
        covariance_type: full, tied, diag or spherical.
        floor: the smallest variance allowed in each column.
        seed: seed of the choice of k-means++ seeds.
        weights: how many times each datum counts; once unless given.

    Raises:
        InputError: if there is no such covariance type, a mixture cannot be fitted to the data, or
            another argument is not what is said here.
    """
    from sklearn.cluster import kmeans_plusplus

    check_covariance_type(covariance_type)
    x = as_points(x, missing=True)
    floor = as_floor(floor, x)
    if not isinstance(seed, np.random.RandomState):
        seed = as_whole("seed", seed, 0, 2**32 - 1)
    check_fittable(x, num_components)
    points = x.double()
    loc, variance = column_moments(points, weights)
    scaled = ((points - loc) / variance.sqrt()).nan_to_num(0.0)
    centres = kmeans_plusplus(
        scaled.cpu().numpy(),
        num_components,
        sample_weight=None if weights is None else weights.cpu().numpy(),
        random_state=seed,
    )[0]
    seeds = loc + variance.sqrt() * torch.as_tensor(centres, device=x.device)
    tied = _assign(points, seeds, floor, weights)
    return _with_type(tied, covariance_type)


def start_at(
    x: Float[Tensor, "n d"],
    locs: Float[Tensor, "k d"],
    covariance_type: CovarianceType,
    floor: Float[Tensor, "d"],
    weights: Float[Tensor, "n"] | None = None,
) -> Mixture:
    """Start a mixture at given locs, with weights and the pooled covariance of the nearest points.

    Arguments:
        x: data.
        locs: means of the components.
        covariance_type: full, tied, diag or spherical.
        floor: the smallest variance allowed in each column.
        weights: how many times each datum counts; once unless given.
    """
    tied = replace(_assign(x.double(), locs, floor, weights), locs=locs)
    if tied.log_weights.isinf().any():  # no point is nearest to one of them
        tied = replace(tied, log_weights=torch.zeros_like(tied.log_weights).log_softmax(0))
    return _with_type(tied, covariance_type)


def _assign(x: Tensor, seeds: Tensor, floor: Tensor, weights: Tensor | None) -> Mixture:
    """Weights, means and pooled covariance of the points nearest to each seed."""
    loc, variance = column_moments(x, weights)
    unit = variance.sqrt()
    k, d = seeds.shape
    eye = torch.eye(d, dtype=x.dtype, device=x.device)
    nearest = Mixture(x.new_zeros(k), (seeds - loc) / unit, _SEED_SCALE * eye, "tied")
    assigned = expectation((x - loc) / unit, nearest, weights)
    pooled = replace(
        assigned,
        means=loc + unit * assigned.means,
        scatters=unit.unsqueeze(1) * assigned.scatters * unit,
    )
    return maximisation(pooled, floor)[0]


def _with_type(tied: Mixture, covariance_type: CovarianceType) -> Mixture:
    k, d = tied.locs.shape
    variances = tied.covariances.diagonal()
    scales = {
        "full": tied.scales.expand(k, d, d),
        "tied": tied.scales,
        "diag": variances.sqrt().expand(k, d),
        "spherical": variances.mean().sqrt().expand(k),
    }
    return Mixture(tied.log_weights, tied.locs, scales[covariance_type].clone(), covariance_type)
