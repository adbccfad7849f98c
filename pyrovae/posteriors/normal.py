"""Normal posteriors."""

from jaxtyping import Float
from pyro.distributions import Normal
from pyro.distributions.torch_distribution import TorchDistributionMixin
from torch import Tensor, nn
from torch.distributions import constraints

from ..links import link_to

__all__ = ["DiagonalNormal"]


class DiagonalNormal(nn.Module):
    """q(z | x) = Normal(z; loc, diag(scale^2)), with h = (loc, unlinked scale).

    Reparameterised as z = loc + scale * eps with eps ~ Normal(0, I), so that
    log q(z | x) = log Normal(eps; 0, I) - sum_d log scale_d (Kingma and Welling 2014, sec. 2.4).
    scale is the softplus of its half of h.

    Arguments:
        latent_dim: number of latent dimensions.

    Attributes:
        in_shape: shape of h for one datum, ``(2, latent_dim)``.

    Example:
        >>> import torch
        >>> DiagonalNormal(3)(torch.zeros(5, 2, 3)).batch_shape
        torch.Size([5])
    """

    def __init__(self, latent_dim: int) -> None:
        super().__init__()
        self.in_shape = (2, latent_dim)
        self._positive = link_to(constraints.positive)

    def forward(self, h: Float[Tensor, "*batch 2 latent"]) -> TorchDistributionMixin:
        loc, unlinked_scale = h.unbind(-2)
        q: TorchDistributionMixin = Normal(loc, self._positive(unlinked_scale)).to_event(1)
        return q
