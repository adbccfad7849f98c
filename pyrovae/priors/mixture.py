"""Mixtures of normals as priors."""

import math

import torch
from jaxtyping import Float, Int
from pyro.distributions import Categorical, Normal
from pyro.distributions.torch_distribution import TorchDistributionMixin
from torch import Tensor, nn
from torch.distributions import constraints

from ..arguments import as_data, as_whole
from ..data.memory import check_num_parameters
from ..described import Described
from ..distributions import DiagonalNormalMixture
from ..errors import InputError
from ..links import link_to

__all__ = ["NormalMixture"]


class NormalMixture(Described, nn.Module):
    """p(z) = sum_k pi_k Normal(z; loc_k, diag(scale_k^2)) with learned pi, loc and scale.

    Components that start equal have the same gradients and stay equal. So their locations start at
    draws from Normal(0, I / 2), and their scales at sqrt(1/2) in every dimension: z then has,
    over all starts, the variance 1 of a standard normal. Weights start equal.

    Arguments:
        latent_dim: number of latent dimensions.
        num_components: number of components K.

    Raises:
        InputError: if an argument is invalid, or the mixture does not fit into memory.

    Example:
        >>> NormalMixture(3)().event_shape
        torch.Size([3])
    """

    name = "mixture"

    def __init__(self, latent_dim: int, num_components: int = 10) -> None:
        super().__init__()
        latent_dim = as_whole("latent_dim", latent_dim, 1)
        num_components = as_whole("num_components", num_components, 1)
        check_num_parameters(2 * latent_dim * num_components, "a mixture")
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
        """Set the parameters to these values.

        Raises:
            InputError: if they have other shapes, or weights or scales are not positive.
        """
        num, _ = shape = tuple(self.loc.shape)
        weights = as_data("weights", weights, (num,), batch_dims=0).to(self.loc)
        loc = as_data("loc", loc, shape, batch_dims=0).to(self.loc)
        scale = as_data("scale", scale, shape, batch_dims=0).to(self.loc)
        for name, value in (("weights", weights), ("scale", scale)):
            if not bool(((value > 0) & value.isfinite()).all()):
                raise InputError(f"{name} must be positive and finite")
        if not bool(loc.isfinite().all()):
            raise InputError("loc must be finite")
        self.logits.copy_(weights.log())
        self.loc.copy_(loc)
        self.unlinked_scale.copy_(self._positive.inv(scale))

    def weights(self) -> TorchDistributionMixin:
        """p(y), where y is the index of a component."""
        p: TorchDistributionMixin = Categorical(logits=self.logits)
        return p

    def component(self, y: Int[Tensor, "*batch"]) -> TorchDistributionMixin:
        """p(z | y).

        Raises:
            InputError: if y are no indices of components.
        """
        p: TorchDistributionMixin = Normal(self.loc[y], self.scale[y]).to_event(1)
        return p

    def posterior(self, z: Float[Tensor, "*batch latent"]) -> TorchDistributionMixin:
        """p(y | z), by Bayes' rule."""
        log_prob = Normal(self.loc, self.scale).log_prob(z[..., None, :]).sum(-1)
        p: TorchDistributionMixin = Categorical(logits=self.logits + log_prob)
        return p
