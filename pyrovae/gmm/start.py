"""The start that all methods share."""

from dataclasses import replace

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from .em import expectation, maximisation
from .mixture import CovarianceType, Mixture, check_covariance_type

__all__ = ["k_means_plus_plus"]

_SEED_SCALE = 1e-4
"""Standard deviation of the seeds, so small that responsibilities select the nearest seed."""


def k_means_plus_plus(
    x: Float[Tensor, "n d"],
    num_components: int,
    covariance_type: CovarianceType,
    floor: Float[Tensor, "d"],
    seed: int | np.random.RandomState = 0,
) -> Mixture:
    """Start a mixture from k-means++ seeds (Arthur and Vassilvitskii 2007).

    Each point is assigned to the nearest seed, in units of the standard deviation of each column,
    so that the start does not depend on units. Weights and locs come from the assigned points. All
    components start with the pooled covariance, so that none starts narrow.

    Arguments:
        x: data.
        num_components: K.
        covariance_type: full, tied, diag or spherical.
        floor: the smallest variance allowed in each column.
        seed: seed of the choice of k-means++ seeds.

    Raises:
        InputError: if there is no such covariance type.
    """
    from sklearn.cluster import kmeans_plusplus

    check_covariance_type(covariance_type)
    points = x.double()
    loc, unit = points.mean(0), points.std(0, correction=0)
    scaled = (points - loc) / unit
    centres = kmeans_plusplus(scaled.cpu().numpy(), num_components, random_state=seed)[0]
    seeds = torch.as_tensor(centres, device=x.device)
    zeros = seeds.new_zeros(num_components)
    nearest_seed = Mixture(zeros, seeds, zeros + _SEED_SCALE, "spherical")
    assigned = expectation(scaled, nearest_seed)
    within = scaled.mT @ scaled - (assigned.means.mT * assigned.counts) @ assigned.means
    pooled = replace(
        assigned,
        means=loc + unit * assigned.means,
        scatters=unit.unsqueeze(1) * within * unit,
        covariance_type="tied",
    )
    tied, _ = maximisation(pooled, floor)
    dim = x.shape[1]
    covariance = tied.covariances
    variances = covariance.diagonal()
    scales = {
        "full": tied.scales.expand(num_components, dim, dim),
        "tied": tied.scales,
        "diag": variances.sqrt().expand(num_components, dim),
        "spherical": variances.mean().sqrt().expand(num_components),
    }
    return Mixture(tied.log_weights, tied.locs, scales[covariance_type].clone(), covariance_type)
