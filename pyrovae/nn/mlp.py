"""The multilayer perceptron."""

from collections.abc import Callable, Sequence
from itertools import pairwise
from math import prod

from jaxtyping import Float
from torch import Tensor, nn

from ..arguments import as_callable, as_shape, as_wholes
from ..data.memory import check_num_parameters
from ..described import Described
from ..errors import InputError

__all__ = ["MAX_LAYERS", "MLP", "make_activation"]

MAX_LAYERS = 1000
"""The largest number of hidden layers."""


class MLP(Described, nn.Module):
    """A multilayer perceptron on the flattened input.

    Arguments:
        in_shape: shape of one input.
        out_shape: shape of one output.
        hidden: widths of the hidden layers.
        activation: makes the module between two layers.

    Raises:
        InputError: if an argument is invalid, or the network does not fit into memory.

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
        in_shape = as_shape("in_shape", in_shape)
        out_shape = as_shape("out_shape", out_shape, empty=True)
        hidden = as_wholes("hidden", hidden, most=MAX_LAYERS)
        make_activation(activation)
        self._in_dims = len(in_shape)
        self._out_shape = tuple(out_shape)
        layers: list[nn.Module] = []
        widths = [prod(in_shape), *hidden, prod(out_shape)]
        check_num_parameters(sum(a * b for a, b in pairwise(widths)), "a network")
        for fan_in, fan_out in pairwise(widths):
            layers += [nn.Linear(fan_in, fan_out), make_activation(activation)]
        self.layers = nn.Sequential(*layers[:-1])

    def forward(self, x: Float[Tensor, "..."]) -> Float[Tensor, "..."]:
        y: Tensor = self.layers(x.flatten(-self._in_dims))
        return y.reshape(y.shape[:-1] + self._out_shape)


def make_activation(activation: Callable[[], nn.Module]) -> nn.Module:
    """Call ``activation``, and check that it makes a module.

    Raises:
        InputError: if it does not.
    """
    as_callable("activation", activation, "a callable that makes a module, such as torch.nn.ReLU")
    try:
        made = activation()
    except TypeError as error:
        raise InputError(f"activation must be callable without arguments: {error}") from error
    if not isinstance(made, nn.Module):
        raise InputError(
            f"activation made a {type(made).__name__}; it must make a module, as torch.nn.ReLU does"
        )
    return made
