"""Standardised inputs of networks."""

from collections.abc import Sequence
from math import prod

import torch
from jaxtyping import Float, Num
from torch import Tensor, nn

from ..arguments import as_shape, as_tensor
from ..data.memory import check_num_parameters
from ..errors import InputError

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
        event_shape = as_shape("event_shape", event_shape, empty=True)
        check_num_parameters(2 * prod(event_shape), "the mean and scale of a datum")
        self.register_buffer("loc", torch.zeros(*event_shape))
        self.register_buffer("scale", torch.ones(*event_shape))

    def set(self, loc: Tensor, scale: Tensor) -> None:
        """Use these constants from now on; they broadcast to the shape of one datum.

        Raises:
            InputError: if they do not broadcast to it, or are no tensors.
        """
        for name, value in (("loc", as_tensor("loc", loc)), ("scale", as_tensor("scale", scale))):
            try:
                getattr(self, name).copy_(value)
            except RuntimeError as error:
                raise InputError(
                    f"{name} has shape {tuple(value.shape)}, which does not broadcast to that of a "
                    f"datum, {tuple(self.loc.shape)}"
                ) from error

    def forward(self, x: Num[Tensor, "..."]) -> Float[Tensor, "..."]:
        return (x.to(self.loc.dtype) - self.loc) / self.scale
