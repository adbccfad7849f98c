"""Mixtures of normals as priors."""

import math

import torch
from jaxtyping import Float, Int
from pyro.distributions import Categorical, Normal
from pyro.distributions.torch_distribution import TorchDistributionMixin
from torch import Tensor, nn
from torch.distributions import constraints

from ..distributions import DiagonalNormalMixture
from ..errors import InputError
from ..links import link_to

__all__ = ["NormalMixture"]


class NormalMixture(nn.Module):
    """p(z) = sum_k pi_k Normal(z; loc_k, diag(scale_k^2)) with learned pi, loc and scale.

    Components that start equal have the same gradients and stay equal. So their locations start at
    draws from Normal(0, I / 2), and their scales at sqrt(1/2) in every dimension: z then has,
    over all starts, the variance 1 of a standard normal. Weights start equal.

    Arguments:
        latent_dim: number of latent dimensions.
        num_components: number of components K.

    Raises:
        InputError: if num_components is below 1.

    Example:
        >>> NormalMixture(3)().event_shape
        torch.Size([3])
    """

    name = "mixture"

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
        return DiagonalNormalMixture(self.logits, self.loc, self.scale)

    @property
    def scale(self) -> Float[Tensor, "components latent"]:
        """scale_k."""
        scale: Tensor = self._positive(self.unlinked_scale)
        return scale

    @torch.no_grad()
    def set(
        self,
        weights: Float[Tensor, "components"],
        loc: Float[Tensor, "components latent"],
        scale: Float[Tensor, "components latent"],
    ) -> None:
        """Set the parameters to these values."""
        self.logits.copy_(weights.log())
        self.loc.copy_(loc)
        self.unlinked_scale.copy_(self._positive.inv(scale))

    def weights(self) -> TorchDistributionMixin:
        """p(y), where y is the index of a component."""
        p: TorchDistributionMixin = Categorical(logits=self.logits)
        return p

    def component(self, y: Int[Tensor, "*batch"]) -> TorchDistributionMixin:
        """p(z | y)."""
        p: TorchDistributionMixin = Normal(self.loc[y], self.scale[y]).to_event(1)
        return p

    def posterior(self, z: Float[Tensor, "*batch latent"]) -> TorchDistributionMixin:
        """p(y | z), by Bayes' rule."""
        log_prob = Normal(self.loc, self.scale).log_prob(z[..., None, :]).sum(-1)
        p: TorchDistributionMixin = Categorical(logits=self.logits + log_prob)
        return p
