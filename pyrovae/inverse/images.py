"""Linear observations of images: block means and blur."""

from collections.abc import Sequence

import torch
from jaxtyping import Float, Num
from torch import Tensor
from torch.nn.functional import avg_pool2d

from ..arguments import as_real, as_whole
from ..errors import InputError
from .covariance import Covariance, Diagonal, Full
from .linear import LinearMap

__all__ = ["Blur", "Downsample"]

_MAX_ENTRIES = 2**26
"""Most entries of a matrix that is accepted: 256 MiB in single precision."""

_CUTOFF = 4
"""Weights of a blur are zero beyond this many widths."""


class Downsample(LinearMap):
    """Block means with noise: an image that is ``factor`` times smaller in height and width.

    Arguments:
        factor: side of a block; must divide height and width.
        noise: its standard deviation s, in units of x; None if it is not known.
        of: ``"datum"`` or ``"mean"``; see :class:`~pyrovae.inverse.operators.Additive`.

    Raises:
        InputError: if the factor is below 2, or does not divide the height and width of an image.

    Example:
        >>> Downsample(4, noise=0.05).observe(torch.zeros(2, 1, 28, 28)).shape
        torch.Size([2, 1, 7, 7])
    """

    def __init__(self, factor: int, noise: float | None, of: str = "datum") -> None:
        super().__init__(noise, of)
        self.factor = as_whole("factor", factor, 2)

    def shape(self, event_shape: Sequence[int]) -> tuple[int, ...]:
        """(channels, height / factor, width / factor)."""
        channels, height, width = _check_image_shape(event_shape, "Downsample")
        if height % self.factor or width % self.factor:
            raise InputError(
                f"factor is {self.factor}; it must divide the height and width of images of "
                f"{height} x {width}"
            )
        return channels, height // self.factor, width // self.factor

    def apply(self, x: Num[Tensor, "*batch_event"]) -> Float[Tensor, "*batch_seen"]:
        """The mean of each block."""
        self.shape(x.shape[-3:])
        x = x if x.is_floating_point() else x.to(torch.get_default_dtype())
        means: Tensor = avg_pool2d(x.reshape(-1, *x.shape[-3:]), self.factor)
        return means.reshape(*x.shape[:-3], *means.shape[1:])

    def adjoint(self, y: Float[Tensor, "*batch_seen"]) -> Float[Tensor, "*batch_event"]:
        """Each entry divided equally among the pixels of its block."""
        return self.least(y) / self.factor**2

    def least(self, y: Float[Tensor, "*batch_seen"]) -> Float[Tensor, "*batch_event"]:
        """Each entry copied to all pixels of its block."""
        rows = y.repeat_interleave(self.factor, -2)
        return rows.repeat_interleave(self.factor, -1)

    def gram(self, variance: Float[Tensor, "rows *event"]) -> Covariance:
        """A V A^T, which is diagonal because blocks do not overlap."""
        return Diagonal(self.apply(variance) / self.factor**2)


class Blur(LinearMap):
    """Gaussian blur with noise; without noise, undoing the blur is ill-conditioned.

    Each pixel becomes a weighted mean of the pixels around it. Weights follow a normal density of
    standard deviation ``width``, are zero beyond four standard deviations or the edge of the
    image, and sum to one.

    Arguments:
        width: standard deviation of the blur, in pixels.
        noise: its standard deviation s, in units of x; None if it is not known.
        of: ``"datum"`` or ``"mean"``; see :class:`~pyrovae.inverse.operators.Additive`.

    Raises:
        InputError: if the width is not above 0, or the image is too large for a covariance
            matrix of its pixels.

    Example:
        >>> Blur(1.5, noise=0.05).observe(torch.zeros(2, 1, 8, 8)).shape
        torch.Size([2, 1, 8, 8])
    """

    needs_noise = True

    def __init__(self, width: float, noise: float | None, of: str = "datum") -> None:
        super().__init__(noise, of)
        self.width = as_real("width", width, above=0)

    def shape(self, event_shape: Sequence[int]) -> tuple[int, ...]:
        """The shape of the image."""
        channels, height, width = _check_image_shape(event_shape, "Blur")
        if self.of == "datum" and (channels * height * width) ** 2 > _MAX_ENTRIES:
            raise InputError(
                f"the covariance of {channels * height * width} blurred pixels is too large a "
                "matrix; blur the mean instead, with of='mean' and noise above 0"
            )
        return channels, height, width

    def apply(self, x: Num[Tensor, "*batch_event"]) -> Float[Tensor, "*batch_seen"]:
        """Blur along rows, then along columns."""
        _check_image_shape(x.shape[-3:], "Blur")
        x = x if x.is_floating_point() else x.to(torch.get_default_dtype())
        return (
            _blur_weights(x.shape[-2], self.width, x)
            @ x
            @ _blur_weights(x.shape[-1], self.width, x).mT
        )

    def adjoint(self, y: Float[Tensor, "*batch_seen"]) -> Float[Tensor, "*batch_event"]:
        """Multiply by the transposed weights."""
        return (
            _blur_weights(y.shape[-2], self.width, y).mT
            @ y
            @ _blur_weights(y.shape[-1], self.width, y)
        )

    def least(self, y: Float[Tensor, "data *seen"]) -> Float[Tensor, "data *event"]:
        """y itself, because undoing the blur would amplify the noise."""
        return y

    def gram(self, variance: Float[Tensor, "rows *event"]) -> Covariance:
        """A V A^T of each channel; one matrix for all rows if V is the same for all."""
        if bool((variance == variance[:1]).all()):
            variance = variance[:1]
        rows = _blur_weights(variance.shape[-2], self.width, variance)
        columns = _blur_weights(variance.shape[-1], self.width, variance)
        matrix = torch.kron(rows, columns)
        channel_grams = (matrix * variance.flatten(-2).unsqueeze(-2)) @ matrix.mT
        num = channel_grams.shape[-1]
        blocks = torch.zeros(
            len(variance), *[variance.shape[1] * num] * 2, dtype=matrix.dtype, device=matrix.device
        )
        for channel in range(variance.shape[1]):
            block = slice(channel * num, (channel + 1) * num)
            blocks[:, block, block] = channel_grams[:, channel]
        return Full(blocks)


def _check_image_shape(event_shape: Sequence[int], name: str) -> tuple[int, int, int]:
    if len(event_shape) != 3:
        raise InputError(
            f"{name} needs images of shape (channels, height, width); a datum has shape "
            f"{tuple(event_shape)}"
        )
    channels, height, width = event_shape
    return channels, height, width


def _blur_weights(size: int, width: float, like: Tensor) -> Float[Tensor, "size size"]:
    """The matrix of blur weights along one side."""
    position = torch.arange(size, dtype=like.dtype, device=like.device)
    distance = (position[:, None] - position) / width
    weights = torch.where(distance.abs() <= _CUTOFF, (-distance.square() / 2).exp(), 0.0)
    return weights / weights.sum(1, keepdim=True)
