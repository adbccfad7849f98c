"""Mixtures of normals as priors."""

import math

import torch
from torch import nn
from torch.distributions import constraints

from ..distributions import DiagonalNormalMixture
from ..errors import InputError
from ..links import link_to

__all__ = ["NormalMixture"]


class NormalMixture(nn.Module):
    """p(z) = sum_k pi_k Normal(z; loc_k, diag(scale_k^2)) with learned pi, loc and scale.

    Components that start alike have the same gradients and stay alike. So their locations start at
    draws from Normal(0, I / 2), each with the scale sqrt(1/2) in every dimension: a draw of z has
    then, over all starts, the variance 1 of a standard normal. Weights start equal.

    Arguments:
        latent_dim: number of latent dimensions.
        num_components: K.

    Raises:
        InputError: if there are no components.

    Example:
        >>> NormalMixture(3)().event_shape
        torch.Size([3])
    """

    def __init__(self, latent_dim: int, num_components: int = 10) -> None:
        super().__init__()
        if num_components < 1:
            raise InputError(f"num_components is {num_components}; it must be 1 or more")
        self._positive = link_to(constraints.positive)
        scale = torch.full((num_components, latent_dim), math.sqrt(0.5))
        self.logits = nn.Parameter(torch.zeros(num_components))
        self.loc = nn.Parameter(scale * torch.randn(num_components, latent_dim))
        self.unlinked_scale = nn.Parameter(self._positive.inv(scale))

    def forward(self) -> DiagonalNormalMixture:
        return DiagonalNormalMixture(self.logits, self.loc, self._positive(self.unlinked_scale))
