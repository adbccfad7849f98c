"""The flat improper prior."""

from typing import Any

import torch
from jaxtyping import Float
from pyro.distributions import ImproperUniform
from pyro.distributions.torch_distribution import TorchDistributionMixin
from torch import Tensor, nn
from torch.distributions import constraints

from ..arguments import as_whole
from ..described import Described
from ..errors import InputError

__all__ = ["Flat"]


class _ImproperFlat(ImproperUniform):
    """Pyro's ImproperUniform, except that log_prob has the dtype and device of the value."""

    def log_prob(self, value: Float[Tensor, "..."]) -> Float[Tensor, "..."]:
        return value.new_zeros(torch.broadcast_shapes(value.shape[:-1], self.batch_shape))

    def sample(self, sample_shape: Any = ()) -> Tensor:
        raise InputError(
            "you cannot sample a flat prior, as it does not integrate to one; run the model with "
            "latents from its guide, or use a proper prior"
        )


class Flat(Described, nn.Module):
    """The improper p(z) that is 1 everywhere: log p(z) = 0, so z adds nothing to the loss.

    Its distribution has a ``log_prob``, but no samples: ``sample`` raises InputError.

    Arguments:
        latent_dim: number of latent dimensions.

    Example:
        >>> Flat(3)().log_prob(torch.randn(5, 3))
        tensor([0., 0., 0., 0., 0.])
    """

    def __init__(self, latent_dim: int) -> None:
        super().__init__()
        self._latent_dim = as_whole("latent_dim", latent_dim, 1)

    def forward(self) -> TorchDistributionMixin:
        flat: Any = _ImproperFlat
        p: TorchDistributionMixin = flat(constraints.real_vector, (), (self._latent_dim,))
        return p
