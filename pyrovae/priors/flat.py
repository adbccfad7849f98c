"""The flat prior, which is no distribution."""

from typing import Any

import torch
from jaxtyping import Float
from pyro.distributions import ImproperUniform
from pyro.distributions.torch_distribution import TorchDistributionMixin
from torch import Tensor, nn
from torch.distributions import constraints

from ..errors import InputError

__all__ = ["Flat"]


class _ImproperFlat(ImproperUniform):
    """Pyro's own, with zeros of the precision and on the device of the value."""

    def log_prob(self, value: Float[Tensor, "..."]) -> Float[Tensor, "..."]:
        return value.new_zeros(torch.broadcast_shapes(value.shape[:-1], self.batch_shape))

    def sample(self, sample_shape: Any = ()) -> Tensor:
        raise InputError(
            "a flat prior cannot be drawn from, since it does not integrate to one; run the model "
            "with latents of its guide, or use a prior that is a distribution"
        )


class Flat(nn.Module):
    """The improper p(z) that is 1 everywhere: log p(z) = 0, so that z is charged nothing.

    Its distribution has a ``log_prob`` and no draws: ``sample`` raises InputError.

    Arguments:
        latent_dim: number of latent dimensions.

    Example:
        >>> Flat(3)().log_prob(torch.randn(5, 3))
        tensor([0., 0., 0., 0., 0.])
    """

    def __init__(self, latent_dim: int) -> None:
        super().__init__()
        self._latent_dim = latent_dim

    def forward(self) -> TorchDistributionMixin:
        flat: Any = _ImproperFlat
        p: TorchDistributionMixin = flat(constraints.real_vector, (), (self._latent_dim,))
        return p
