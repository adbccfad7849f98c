"""Linear observations of images: block means and blur."""

from collections.abc import Sequence

import torch
from jaxtyping import Float, Num
from torch import Tensor
from torch.nn.functional import avg_pool2d

from ..errors import InputError
from .covariance import Covariance, Diagonal, Full
from .linear import LinearMap

__all__ = ["Blur", "Downsample"]

_LARGEST = 2**26
"""Numbers in a matrix beyond which it is refused: 256 MiB of single precision."""

_REACH = 4
"""Widths of a blur beyond which its weights are left out."""


class Downsample(LinearMap):
    """Block means: an image that is ``factor`` times smaller each way, with noise.

    Arguments:
        factor: side of a block, which divides height and width.
        noise: s, in units of x; None if it is not known.
        of: ``"datum"`` or ``"mean"``, as :class:`~pyrovae.inverse.operators.Additive` tells.

    Raises:
        InputError: if the factor is below 2, or images cannot be divided by it.

    Example:
        >>> Downsample(4, noise=0.05).observe(torch.zeros(2, 1, 28, 28)).shape
        torch.Size([2, 1, 7, 7])
    """

    def __init__(self, factor: int, noise: float | None, of: str = "datum") -> None:
        super().__init__(noise, of)
        if not isinstance(factor, int) or factor < 2:
            raise InputError(f"factor is {factor!r}; it must be a whole number, 2 or more")
        self.factor = factor

    def shape(self, event_shape: Sequence[int]) -> tuple[int, ...]:
        """(channels, height / factor, width / factor)."""
        channels, height, width = _image(event_shape, "Downsample")
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
        """Each number to all pixels of its block, by their share in it."""
        return self.least(y) / self.factor**2

    def least(self, y: Float[Tensor, "*batch_seen"]) -> Float[Tensor, "*batch_event"]:
        """Each number in all pixels of its block."""
        rows = y.repeat_interleave(self.factor, -2)
        return rows.repeat_interleave(self.factor, -1)

    def gram(self, variance: Float[Tensor, "rows *event"]) -> Covariance:
        """Diagonal, as blocks have no pixel in common."""
        return Diagonal(self.apply(variance) / self.factor**2)


class Blur(LinearMap):
    """Each pixel a weighted mean of those round it, of a normal weight, with noise, without which
    it could hardly be undone.

    Weights fall as a normal density of standard deviation ``width``, are left out beyond four of
    these or the edge of the image, and sum to one.

    Arguments:
        width: in pixels.
        noise: s, in units of x; None if it is not known.
        of: ``"datum"`` or ``"mean"``, as :class:`~pyrovae.inverse.operators.Additive` tells.

    Raises:
        InputError: if the width is not above 0, or the image too large for a matrix of its pixels.

    Example:
        >>> Blur(1.5, noise=0.05).observe(torch.zeros(2, 1, 8, 8)).shape
        torch.Size([2, 1, 8, 8])
    """

    needs_noise = True

    def __init__(self, width: float, noise: float | None, of: str = "datum") -> None:
        super().__init__(noise, of)
        if not isinstance(width, int | float) or not 0 < width < torch.inf:
            raise InputError(f"width is {width!r}; it is a finite number of pixels above 0")
        self.width = width

    def shape(self, event_shape: Sequence[int]) -> tuple[int, ...]:
        """That of the image."""
        channels, height, width = _image(event_shape, "Blur")
        if self.of == "datum" and (channels * height * width) ** 2 > _LARGEST:
            raise InputError(
                f"the covariance of {channels * height * width} blurred pixels is too large a "
                "matrix; let the blur be of the mean, with of='mean' and some noise"
            )
        return channels, height, width

    def apply(self, x: Num[Tensor, "*batch_event"]) -> Float[Tensor, "*batch_seen"]:
        """Blurred along rows, then along columns."""
        _image(x.shape[-3:], "Blur")
        x = x if x.is_floating_point() else x.to(torch.get_default_dtype())
        return _along(x.shape[-2], self.width, x) @ x @ _along(x.shape[-1], self.width, x).mT

    def adjoint(self, y: Float[Tensor, "*batch_seen"]) -> Float[Tensor, "*batch_event"]:
        """By the transposed weights."""
        return _along(y.shape[-2], self.width, y).mT @ y @ _along(y.shape[-1], self.width, y)

    def least(self, y: Float[Tensor, "data *seen"]) -> Float[Tensor, "data *event"]:
        """y itself: to undo the blur would blow up the noise."""
        return y

    def gram(self, variance: Float[Tensor, "rows *event"]) -> Covariance:
        """A V A^T of each channel; one for all rows where V is."""
        if bool((variance == variance[:1]).all()):
            variance = variance[:1]
        rows = _along(variance.shape[-2], self.width, variance)
        columns = _along(variance.shape[-1], self.width, variance)
        matrix = torch.kron(rows, columns)
        of_channels = (matrix * variance.flatten(-2).unsqueeze(-2)) @ matrix.mT
        num = of_channels.shape[-1]
        blocks = torch.zeros(
            len(variance), *[variance.shape[1] * num] * 2, dtype=matrix.dtype, device=matrix.device
        )
        for channel in range(variance.shape[1]):
            place = slice(channel * num, (channel + 1) * num)
            blocks[:, place, place] = of_channels[:, channel]
        return Full(blocks)


def _image(event_shape: Sequence[int], name: str) -> tuple[int, int, int]:
    if len(event_shape) != 3:
        raise InputError(
            f"{name} is of images (channels, height, width); a datum has shape {tuple(event_shape)}"
        )
    channels, height, width = event_shape
    return channels, height, width


def _along(size: int, width: float, like: Tensor) -> Float[Tensor, "size size"]:
    """The weights of a blur along one side."""
    place = torch.arange(size, dtype=like.dtype, device=like.device)
    distance = (place[:, None] - place) / width
    weights = torch.where(distance.abs() <= _REACH, (-distance.square() / 2).exp(), 0.0)
    return weights / weights.sum(1, keepdim=True)
