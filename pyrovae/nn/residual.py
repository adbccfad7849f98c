"""Residual networks for encoders and decoders: each block adds its input to its output.

    y = shortcut(x) + branch(x),    branch = activation, linear, activation, linear

Activations come before linear maps, so only additions lie between the first linear map and the last
activation (He et al. 2016, Identity Mappings in Deep Residual Networks). The last map of each
branch starts at zero: every block starts as its shortcut, and gradients reach all depths unchanged.
There is no batch normalisation. With it, the density of a datum would depend on the other data of
its batch, and the densities of the samples z_1, ..., z_K of an importance-weighted bound would
depend on one another.

You make each network as ``Body(in_shape, out_shape)``. It accepts any batch shape on the left and
ends in a linear map.
"""

from collections.abc import Callable, Sequence
from itertools import pairwise
from math import prod

import torch
from jaxtyping import Float
from torch import Tensor, nn

from ..arguments import as_shape, as_wholes
from ..data.memory import check_num_parameters
from ..described import Described
from ..errors import InputError
from .conv import check_image_shape
from .mlp import MAX_LAYERS, make_activation

__all__ = ["ResidualDecoder", "ResidualEncoder", "ResidualMLP"]

_CHANNELS = (32, 64)
"""Numbers of channels at a half and at a quarter of the height and width of an image."""


class ResidualMLP(Described, nn.Module):
    """A linear map, a residual block for each hidden width, then a linear map.

    Each block has two linear maps. Its shortcut is the identity if the block keeps the width, and a
    linear map if it changes it.

    Arguments:
        in_shape: shape of one input.
        out_shape: shape of one output.
        hidden: widths of the blocks, one or more.
        activation: makes the module before each linear map except the first.

    Raises:
        InputError: if there is no block.

    Example:
        >>> ResidualMLP((1, 8, 8), (2, 3))(torch.zeros(7, 5, 1, 8, 8)).shape
        torch.Size([7, 5, 2, 3])
    """

    def __init__(
        self,
        in_shape: Sequence[int],
        out_shape: Sequence[int],
        hidden: Sequence[int] = (256, 256),
        activation: Callable[[], nn.Module] = nn.ReLU,
    ) -> None:
        super().__init__()
        in_shape = as_shape("in_shape", in_shape)
        out_shape = as_shape("out_shape", out_shape, empty=True)
        hidden = as_wholes("hidden", hidden, most=MAX_LAYERS)
        if not hidden:
            raise InputError(
                f"hidden is {hidden}; a residual network needs the width of one block or "
                "more, such as (256, 256); use mlp for a network without blocks"
            )
        make_activation(activation)
        widths = [prod(in_shape), *hidden, prod(out_shape)]
        in_blocks = sum(fan_out * (fan_in + fan_out) for fan_in, fan_out in pairwise(widths))
        check_num_parameters(in_blocks, "a network")
        self._in_dims = len(in_shape)
        self._out_shape = tuple(out_shape)
        blocks = [
            _ResidualBlock(
                make_activation(activation),
                nn.Linear(fan_in, fan_out),
                make_activation(activation),
                nn.Linear(fan_out, fan_out),
                shortcut=nn.Identity() if fan_in == fan_out else nn.Linear(fan_in, fan_out),
            )
            for fan_in, fan_out in pairwise([hidden[0], *hidden])
        ]
        self.layers = nn.Sequential(
            nn.Linear(prod(in_shape), hidden[0]),
            *blocks,
            make_activation(activation),
            nn.Linear(hidden[-1], prod(out_shape)),
        )

    def forward(self, x: Float[Tensor, "..."]) -> Float[Tensor, "..."]:
        y: Tensor = self.layers(x.flatten(-self._in_dims))
        return y.reshape(y.shape[:-1] + self._out_shape)


class ResidualEncoder(Described, nn.Module):
    """A convolution to half the size, a block to a quarter, a block there, then a linear map.

    Widths and sizes are as in :class:`~pyrovae.nn.ConvEncoder` (32 and 64 channels, kernel 3,
    stride 2). The shortcut of the block that halves the size is a mean over 2 by 2 pixels, then a
    1 by 1 convolution. The block at a quarter of the size has half as many channels inside.

    Arguments:
        in_shape: (channels, height, width); height and width are multiples of 4.
        out_shape: shape of one output.

    Raises:
        InputError: if ``in_shape`` is not the shape of such an image.

    Example:
        >>> ResidualEncoder((1, 8, 8), (2, 3))(torch.zeros(7, 5, 1, 8, 8)).shape
        torch.Size([7, 5, 2, 3])
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
            _ResidualBlock(
                nn.ReLU(),
                nn.Conv2d(first, second, 3, stride=2, padding=1),
                nn.ReLU(),
                nn.Conv2d(second, second, 3, padding=1),
                shortcut=nn.Sequential(nn.AvgPool2d(2), nn.Conv2d(first, second, 1)),
            ),
            _same_size_block(second),
            nn.ReLU(),
            nn.Flatten(),
            nn.Linear(second * height // 4 * width // 4, prod(out_shape)),
        ).to(memory_format=torch.channels_last)

    def forward(self, x: Float[Tensor, "..."]) -> Float[Tensor, "..."]:
        y: Tensor = self.layers(x.reshape(-1, *x.shape[-3:]))
        return y.reshape(x.shape[:-3] + self._out_shape)


class ResidualDecoder(Described, nn.Module):
    """The mirror of :class:`ResidualEncoder`: a linear map, two blocks, a transposed convolution.

    The shortcut of the block that doubles the size is a 1 by 1 convolution that repeats each pixel.

    Arguments:
        in_shape: shape of one input.
        out_shape: (parameters per feature, channels, height, width), as a likelihood needs.

    Raises:
        InputError: if the output is not an image whose height and width are multiples of 4.

    Example:
        >>> ResidualDecoder((3,), (1, 1, 8, 8))(torch.zeros(7, 5, 3)).shape
        torch.Size([7, 5, 1, 1, 8, 8])
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
            nn.Unflatten(-1, (second, height // 4, width // 4)),
            _same_size_block(second),
            _ResidualBlock(
                nn.ReLU(),
                nn.Conv2d(second, second, 3, padding=1),
                nn.ReLU(),
                nn.ConvTranspose2d(second, first, 3, stride=2, padding=1, output_padding=1),
                shortcut=nn.Sequential(nn.Conv2d(second, first, 1), nn.Upsample(scale_factor=2)),
            ),
            nn.ReLU(),
            nn.ConvTranspose2d(
                first, out_shape[0] * channels, 3, stride=2, padding=1, output_padding=1
            ),
        ).to(memory_format=torch.channels_last)

    def forward(self, z: Float[Tensor, "..."]) -> Float[Tensor, "..."]:
        flat = z.flatten(-self._in_dims)
        y: Tensor = self.layers(flat.reshape(-1, flat.shape[-1]))
        return y.reshape(flat.shape[:-1] + self._out_shape)


class _ResidualBlock(nn.Module):
    """shortcut(x) + branch(x). The last layer of the branch, a linear map, starts at zero."""

    def __init__(self, *branch: nn.Module, shortcut: nn.Module) -> None:
        super().__init__()
        self.branch = nn.Sequential(*branch)
        self.shortcut = shortcut
        for parameter in branch[-1].parameters():
            nn.init.zeros_(parameter)

    def forward(self, x: Float[Tensor, "..."]) -> Float[Tensor, "..."]:
        y: Tensor = self.shortcut(x) + self.branch(x)
        return y


def _same_size_block(channels: int) -> _ResidualBlock:
    return _ResidualBlock(
        nn.ReLU(),
        nn.Conv2d(channels, channels // 2, 3, padding=1),
        nn.ReLU(),
        nn.Conv2d(channels // 2, channels, 3, padding=1),
        shortcut=nn.Identity(),
    )
