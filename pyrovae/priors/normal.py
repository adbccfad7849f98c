"""Normal priors."""

import torch
from pyro.distributions import Normal
from pyro.distributions.torch_distribution import TorchDistributionMixin
from torch import Tensor, nn
from torch.distributions import constraints

from ..arguments import as_whole
from ..data.memory import check_num_parameters
from ..described import Described
from ..links import link_to

__all__ = ["LearnedNormal", "StandardNormal"]


class StandardNormal(Described, nn.Module):
    """p(z) = Normal(z; 0, I).

    Arguments:
        latent_dim: number of latent dimensions.

    Example:
        >>> StandardNormal(3)().event_shape
        torch.Size([3])
    """

    name = "standard"

    loc: Tensor
    scale: Tensor

    def __init__(self, latent_dim: int) -> None:
        super().__init__()
        latent_dim = as_whole("latent_dim", latent_dim, 1)
        check_num_parameters(2 * latent_dim, "a prior")
        self.register_buffer("loc", torch.zeros(latent_dim), persistent=False)
        self.register_buffer("scale", torch.ones(latent_dim), persistent=False)

    def forward(self) -> TorchDistributionMixin:
        p: TorchDistributionMixin = Normal(self.loc, self.scale).to_event(1)
        return p


class LearnedNormal(Described, nn.Module):
    """p(z) = Normal(z; loc, diag(scale^2)) with learned loc and scale, which start at 0 and 1.

    scale is the softplus of its parameter, as in the normal posteriors.

    Arguments:
        latent_dim: number of latent dimensions.

    Example:
        >>> LearnedNormal(3)().event_shape
        torch.Size([3])
    """

    name = "learned"

    def __init__(self, latent_dim: int) -> None:
        super().__init__()
        latent_dim = as_whole("latent_dim", latent_dim, 1)
        check_num_parameters(2 * latent_dim, "a prior")
        self._positive = link_to(constraints.positive)
        self.loc = nn.Parameter(torch.zeros(latent_dim))
        self.unlinked_scale = nn.Parameter(self._positive.inv(torch.ones(latent_dim)))

    def forward(self) -> TorchDistributionMixin:
        p: TorchDistributionMixin = Normal(self.loc, self._positive(self.unlinked_scale)).to_event(
            1
        )
        return p
