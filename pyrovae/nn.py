"""Bodies of encoders and decoders: networks from one shape to another.

Each body is called as ``Body(in_shape, out_shape)``, leaves any batch shape on the left alone,
and ends in a linear map, so that its output may be any real numbers. Convolutions keep their
weights in channels_last order, which makes torch compute in it: it is much faster on CPUs.
"""

from collections.abc import Callable, Sequence
from itertools import pairwise
from math import prod

import torch
from jaxtyping import Float, Num
from torch import Tensor, nn

from .errors import InputError

__all__ = ["MLP", "ConvDecoder", "ConvEncoder", "Standardise"]

_CHANNELS = (32, 64)
"""Widths of the two convolutions, each halving the height and the width."""


class MLP(nn.Module):
    """A multilayer perceptron on the flattened input.

    Arguments:
        in_shape: shape of one input.
        out_shape: shape of one output.
        hidden: widths of the hidden layers.
        activation: makes the module between layers.

    Example:
        >>> MLP((1, 8, 8), (2, 3))(torch.zeros(7, 5, 1, 8, 8)).shape
        torch.Size([7, 5, 2, 3])
    """

    def __init__(
        self,
        in_shape: Sequence[int],
        out_shape: Sequence[int],
        hidden: Sequence[int] = (400,),
        activation: Callable[[], nn.Module] = nn.ReLU,
    ) -> None:
        super().__init__()
        self._in_dims = len(in_shape)
        self._out_shape = tuple(out_shape)
        layers: list[nn.Module] = []
        widths = [prod(in_shape), *hidden, prod(out_shape)]
        for fan_in, fan_out in pairwise(widths):
            layers += [nn.Linear(fan_in, fan_out), activation()]
        self.layers = nn.Sequential(*layers[:-1])

    def forward(self, x: Float[Tensor, "..."]) -> Float[Tensor, "..."]:
        y: Tensor = self.layers(x.flatten(-self._in_dims))
        return y.reshape(y.shape[:-1] + self._out_shape)


class ConvEncoder(nn.Module):
    """Two convolutions (32 and 64 channels, kernel 3, stride 2), then a linear map.

    Arguments:
        in_shape: (channels, height, width); height and width are multiples of 4.
        out_shape: shape of one output.

    Raises:
        InputError: if the input is no such image.
    """

    def __init__(self, in_shape: Sequence[int], out_shape: Sequence[int]) -> None:
        super().__init__()
        channels, height, width = _image(in_shape)
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


class ConvDecoder(nn.Module):
    """The mirror of :class:`ConvEncoder`: a linear map, then two transposed convolutions.

    Arguments:
        in_shape: shape of one input.
        out_shape: (numbers a feature, channels, height, width), as a likelihood asks for.

    Raises:
        InputError: if the output is no such image.
    """

    def __init__(self, in_shape: Sequence[int], out_shape: Sequence[int]) -> None:
        super().__init__()
        channels, height, width = _image(out_shape[1:])
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


class Standardise(nn.Module):
    """(x - loc) / scale with constants that belong to the data; the identity until they are set.

    x takes the type of the network that it goes to.

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
        """Use these constants, which broadcast to the shape of one datum, from now on."""
        self.loc.copy_(loc)
        self.scale.copy_(scale)

    def forward(self, x: Num[Tensor, "..."]) -> Float[Tensor, "..."]:
        return (x.to(self.loc.dtype) - self.loc) / self.scale


def _image(shape: Sequence[int]) -> tuple[int, int, int]:
    if len(shape) != 3 or shape[1] % 4 or shape[2] % 4:
        raise InputError(
            f"the convolutional networks take images of shape (channels, height, width) with "
            f"height and width multiples of 4, such as (1, 28, 28); got {tuple(shape)}: use mlp"
        )
    return shape[0], shape[1], shape[2]
