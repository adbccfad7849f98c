"""Convolutional networks. Weights are in channels_last order, which is much faster on CPUs."""

from collections.abc import Sequence
from math import prod

import torch
from jaxtyping import Float
from torch import Tensor, nn

from ..arguments import as_shape, as_wholes
from ..data.memory import check_num_parameters
from ..described import Described
from ..errors import InputError

__all__ = ["ConvDecoder", "ConvEncoder", "check_image_shape"]

_CHANNELS = (32, 64)
"""Widths of the two convolutions, each of which halves the height and the width."""


class ConvEncoder(Described, nn.Module):
    """Two convolutions (32 and 64 channels, kernel 3, stride 2), then a linear map.

    Arguments:
        in_shape: (channels, height, width); height and width are multiples of 4.
        out_shape: shape of one output.

    Raises:
        InputError: if ``in_shape`` is not the shape of such an image.
    """

    def __init__(self, in_shape: Sequence[int], out_shape: Sequence[int]) -> None:
        super().__init__()
        channels, height, width = check_image_shape(in_shape)
        out_shape = as_shape("out_shape", out_shape, empty=True)
        check_num_parameters(4 * height * width * prod(out_shape), "a network")
        first, second = _CHANNELS
        self._out_shape = tuple(out_shape)
        self.layers = nn.Sequential(
            nn.Conv2d(channels, first, 3, stride=2, padding=1),
            nn.ReLU(),
            nn.Conv2d(first, second, 3, stride=2, padding=1),
            nn.ReLU(),
            nn.Flatten(),
            nn.Linear(second * height // 4 * width // 4, prod(out_shape)),
        ).to(memory_format=torch.channels_last)

    def forward(self, x: Float[Tensor, "..."]) -> Float[Tensor, "..."]:
        batch = x.shape[:-3]
        y: Tensor = self.layers(x.reshape(-1, *x.shape[-3:]))
        return y.reshape(batch + self._out_shape)


class ConvDecoder(Described, nn.Module):
    """The mirror of :class:`ConvEncoder`: a linear map, then two transposed convolutions.

    Arguments:
        in_shape: shape of one input.
        out_shape: (parameters per feature, channels, height, width), as a likelihood needs.

    Raises:
        InputError: if the output is not an image whose height and width are multiples of 4.
    """

    def __init__(self, in_shape: Sequence[int], out_shape: Sequence[int]) -> None:
        super().__init__()
        in_shape = as_shape("in_shape", in_shape)
        out_shape = as_shape("out_shape", out_shape)
        channels, height, width = check_image_shape(out_shape[1:])
        check_num_parameters(4 * height * width * prod(in_shape), "a network")
        first, second = _CHANNELS
        self._in_dims = len(in_shape)
        self._out_shape = tuple(out_shape)
        self.layers = nn.Sequential(
            nn.Linear(prod(in_shape), second * height // 4 * width // 4),
            nn.ReLU(),
            nn.Unflatten(-1, (second, height // 4, width // 4)),
            nn.ConvTranspose2d(second, first, 3, stride=2, padding=1, output_padding=1),
            nn.ReLU(),
            nn.ConvTranspose2d(
                first, out_shape[0] * channels, 3, stride=2, padding=1, output_padding=1
            ),
        ).to(memory_format=torch.channels_last)

    def forward(self, z: Float[Tensor, "..."]) -> Float[Tensor, "..."]:
        flat = z.flatten(-self._in_dims)
        y: Tensor = self.layers(flat.reshape(-1, flat.shape[-1]))
        return y.reshape(flat.shape[:-1] + self._out_shape)


def check_image_shape(shape: Sequence[int]) -> tuple[int, int, int]:
    """Return (channels, height, width) of an image that the networks can halve twice.

    Raises:
        InputError: if ``shape`` is not the shape of such an image.
    """
    shape = as_wholes("the shape of an image", shape, 0)
    if len(shape) != 3 or min(shape) < 1 or shape[1] % 4 or shape[2] % 4:
        raise InputError(
            f"the convolutional networks take images of shape (channels, height, width) with "
            f"height and width multiples of 4, such as (1, 28, 28); got {shape}: use mlp"
        )
    return shape[0], shape[1], shape[2]
