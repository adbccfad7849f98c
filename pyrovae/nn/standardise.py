"""Standardised inputs of networks."""

from collections.abc import Sequence

import torch
from jaxtyping import Float, Num
from torch import Tensor, nn

__all__ = ["Standardise"]


class Standardise(nn.Module):
    """(x - loc) / scale, with constants of the training data; the identity until you set them.

    The output has the dtype of these constants, which is that of the network that follows.

    Arguments:
        event_shape: shape of one datum.
    """

    loc: Tensor
    scale: Tensor

    def __init__(self, event_shape: Sequence[int]) -> None:
        super().__init__()
        self.register_buffer("loc", torch.zeros(*event_shape))
        self.register_buffer("scale", torch.ones(*event_shape))

    def set(self, loc: Tensor, scale: Tensor) -> None:
        """Use these constants from now on; they broadcast to the shape of one datum."""
        self.loc.copy_(loc)
        self.scale.copy_(scale)

    def forward(self, x: Num[Tensor, "..."]) -> Float[Tensor, "..."]:
        return (x.to(self.loc.dtype) - self.loc) / self.scale
