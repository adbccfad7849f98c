"""Distributions and means of single features of a distribution over data."""

from typing import Any

import torch
from pyro.distributions import Independent, MaskedDistribution
from torch import Tensor
from torch.distributions import Categorical, MixtureSameFamily

from ..errors import InputError
from .vectors import Blocks

__all__ = ["expectation", "features"]


def features(p: Any) -> Any:
    """The distributions of independent features, as a batch.

    Raises:
        InputError: if p is a joint distribution over all features.
    """
    while isinstance(p, Independent | MaskedDistribution):
        p = p.base_dist
    if p.event_shape:
        raise InputError(
            f"{type(p).__name__} is a joint distribution over all features of a datum; this "
            "operation needs features that are independent given z"
        )
    return p


def expectation(p: Any) -> Tensor:
    """The mean of each feature; for categories, the mean of their numbers.

    Arguments:
        p: a distribution over data, or over features as :func:`features` returns it.

    Raises:
        InputError: if the class has no mean.
    """
    while isinstance(p, Independent | MaskedDistribution):
        p = p.base_dist
    if isinstance(p, Blocks):
        return torch.cat([expectation(part) for part in p.parts], -1)
    if isinstance(p, Categorical):  # its own mean is NaN
        classes = torch.arange(p.probs.shape[-1], dtype=p.probs.dtype, device=p.probs.device)
        expected: Tensor = p.probs @ classes
        return expected
    if isinstance(p, MixtureSameFamily):
        weights: Tensor = p.mixture_distribution.probs
        return (weights * expectation(p.component_distribution)).sum(-1)
    try:
        mean: Tensor = p.mean
    except NotImplementedError as error:
        raise InputError(
            f"{type(p).__name__} has no mean, from which data could be reconstructed; give the "
            "class a property 'mean', or use another family"
        ) from error
    return mean
