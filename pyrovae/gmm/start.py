"""Where every method starts from."""

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from .em import maximisation, summarise
from .mixture import CovarianceType, Mixture, check_covariance_type

__all__ = ["k_means_plus_plus"]


def k_means_plus_plus(
    x: Float[Tensor, "n d"],
    num_components: int,
    covariance_type: CovarianceType,
    floor: Float[Tensor, "d"],
    seed: int | np.random.RandomState = 0,
) -> Mixture:
    """A mixture about seeds that are spread out (Arthur and Vassilvitskii 2007).

    Points are assigned to the nearest seed, in units of the standard deviation of each column, so
    that the start does not depend on the units. Weights and locs are those of the assigned points;
    the covariances are what these have in common, the same for each component, so that none
    starts narrow.

    Arguments:
        x: data.
        num_components: K.
        covariance_type: full, tied, diag or spherical.
        floor: the least variance along each column.
        seed: of the choice of seeds.

    Raises:
        InputError: if there is no such covariance type.
    """
    from sklearn.cluster import kmeans_plusplus

    check_covariance_type(covariance_type)
    points = x.double()
    unit = points.std(0, correction=0)
    scaled = (points - points.mean(0)) / unit
    chosen = kmeans_plusplus(scaled.cpu().numpy(), num_components, random_state=seed)[0]
    seeds = torch.as_tensor(chosen, device=x.device)
    ones = seeds.new_ones
    near = Mixture(-ones(num_components), seeds, ones(num_components), "spherical")
    log_q = near.log_joint(scaled)
    nearest = torch.zeros_like(log_q).scatter_(1, log_q.argmax(1, keepdim=True), 1.0).log()
    dim = x.shape[1]
    tied, _ = maximisation(summarise(points, nearest, "tied"), floor)
    covariance = tied.covariances
    variances = covariance.diagonal()
    scales = {
        "full": tied.scales.expand(num_components, dim, dim),
        "tied": tied.scales,
        "diag": variances.sqrt().expand(num_components, dim),
        "spherical": variances.mean().sqrt().expand(num_components),
    }
    return Mixture(tied.log_weights, tied.locs, scales[covariance_type].clone(), covariance_type)
