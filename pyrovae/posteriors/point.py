"""A posterior that is a single point."""

from jaxtyping import Float
from pyro.distributions import Delta
from pyro.distributions.torch_distribution import TorchDistributionMixin
from torch import Tensor, nn

from ..arguments import as_whole
from ..described import Described
from ..priors.flat import Flat

__all__ = ["Point"]


class Point(Described, nn.Module):
    """q(z | x) = Delta(z - h): the code itself, with log q(z | x) = 0 by convention.

    A point has no density, so there is no KL and no bound on log p(x). What is left of the ELBO is
    log p(x | z) + log p(z) at z = h.

    Arguments:
        latent_dim: number of latent dimensions.

    Attributes:
        in_shape: shape of h for one datum, ``(latent_dim,)``.

    Example:
        >>> import torch
        >>> Point(3)(torch.ones(5, 3)).sample().shape
        torch.Size([5, 3])
    """

    def __init__(self, latent_dim: int) -> None:
        super().__init__()
        self.in_shape = (as_whole("latent_dim", latent_dim, 1),)

    def forward(self, h: Float[Tensor, "*batch latent"]) -> TorchDistributionMixin:
        q: TorchDistributionMixin = Delta(h, event_dim=1)
        return q

    def centre(self, h: Float[Tensor, "*batch latent"]) -> Float[Tensor, "*batch latent"]:
        """The point z = h."""
        return h

    def prior(self) -> Flat:
        """A flat prior, under which log p(z) = 0."""
        return Flat(self.in_shape[0])
