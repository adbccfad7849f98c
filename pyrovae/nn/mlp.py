"""The multilayer perceptron."""

from collections.abc import Callable, Sequence
from itertools import pairwise
from math import prod

from jaxtyping import Float
from torch import Tensor, nn

__all__ = ["MLP"]


class MLP(nn.Module):
    """A multilayer perceptron on the flattened input.

    Arguments:
        in_shape: shape of one input.
        out_shape: shape of one output.
        hidden: widths of the hidden layers.
        activation: makes the module between two layers.

    Example:
        >>> import torch
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
