"""A normal distribution with location and scale from a network."""

from jaxtyping import Float
from pyro.distributions.torch_distribution import TorchDistributionMixin
from torch import Tensor, nn

from ...posteriors import DiagonalNormal

__all__ = ["ConditionalNormal"]


class ConditionalNormal(nn.Module):
    """Normal(b; loc(a), diag(scale(a)^2)), with (loc, unlinked scale) = network(a).

    Scales are a softplus, which starts near 0.7 and needs no floor except the link's own.

    Arguments:
        network: network from a to numbers of shape ``(2, latent_dim)``.
        latent_dim: number of dimensions of b.

    Example:
        >>> import torch
        >>> from pyrovae.nn import MLP
        >>> ConditionalNormal(MLP((10,), (2, 3)), 3)(torch.zeros(5, 10)).batch_shape
        torch.Size([5])
    """

    def __init__(self, network: nn.Module, latent_dim: int) -> None:
        super().__init__()
        self.network = network
        self._normal = DiagonalNormal(latent_dim)

    def forward(self, a: Float[Tensor, "..."]) -> TorchDistributionMixin:
        q: TorchDistributionMixin = self._normal(self.network(a).to(a.dtype))
        return q
