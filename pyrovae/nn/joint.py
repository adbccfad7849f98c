"""Networks that take x and a context vector c."""

from collections.abc import Sequence
from math import prod

import torch
from jaxtyping import Float
from torch import Tensor, nn

from ..arguments import as_shape, as_tensor, as_whole
from ..data.memory import check_num_parameters
from ..errors import InputError
from .build import ENCODERS, Body, build_network

__all__ = ["Joint", "concatenate", "joint_network"]


class Joint(nn.Module):
    """A network of x and a vector c: W ReLU(U ReLU(body(x)) + V c + a) + b.

    This is an MLP with one hidden layer on (ReLU(features), c), where features = body(x). The batch
    shapes of x and c broadcast after the body, so each x goes through the body once, however many
    context vectors you give for it.

    Arguments:
        body: network from x to ``(num_features,)``, or a callable that makes one from (in_shape,
            out_shape), or the name of one (see :func:`~pyrovae.nn.build.build_network`).
        in_shape: shape of one x.
        context_dim: length of c.
        out_shape: shape of one output.
        num_features: number of features that the body outputs for one x.
        hidden: width of the hidden layer.

    Example:
        >>> from pyrovae.nn import ConvEncoder, Joint
        >>> joint = Joint(ConvEncoder, (1, 8, 8), 10, (2, 3))
        >>> joint(torch.zeros(7, 1, 8, 8), torch.eye(10)[:, None]).shape
        torch.Size([10, 7, 2, 3])
    """

    def __init__(
        self,
        body: Body,
        in_shape: Sequence[int],
        context_dim: int,
        out_shape: Sequence[int],
        num_features: int = 400,
        hidden: int = 400,
    ) -> None:
        super().__init__()
        in_shape = as_shape("in_shape", in_shape)
        out_shape = as_shape("out_shape", out_shape, empty=True)
        context_dim = as_whole("context_dim", context_dim, 1)
        num_features = as_whole("num_features", num_features, 1)
        hidden = as_whole("hidden", hidden, 1)
        widths = hidden * (num_features + context_dim + prod(out_shape))
        check_num_parameters(widths, "a network")
        self._out_shape = out_shape
        self.body = build_network(body, in_shape, (num_features,), ENCODERS, "body")
        self.of_features = nn.Linear(num_features, hidden)
        self.of_context = nn.Linear(context_dim, hidden, bias=False)
        self.out = nn.Linear(hidden, prod(out_shape))

    def forward(self, x: Float[Tensor, "..."], c: Float[Tensor, "..."]) -> Float[Tensor, "..."]:
        features: Tensor = self.body(x).relu()
        y: Tensor = self.out((self.of_features(features) + self.of_context(c)).relu())
        return y.reshape(y.shape[:-1] + self._out_shape)


def joint_network(
    encoder: Body,
    in_shape: Sequence[int],
    context_dim: int,
    out_shape: Sequence[int],
    width: int = 400,
) -> nn.Module:
    """Return a network to be called as ``network(x, c)``.

    Arguments:
        encoder: the network itself, or a callable that makes the body of a :class:`Joint` from
            (in_shape, out_shape), or the name of one.
        in_shape: shape of one x.
        context_dim: length of c.
        out_shape: shape of one output.
        width: number of features of x, and width of the hidden layer that combines them with c.
    """
    if isinstance(encoder, nn.Module):
        return encoder
    in_shape = as_shape("in_shape", in_shape)
    out_shape = as_shape("out_shape", out_shape, empty=True)
    context_dim, width = as_whole("context_dim", context_dim, 1), as_whole("width", width, 1)
    return Joint(encoder, in_shape, context_dim, out_shape, width, width)


def concatenate(
    z: Float[Tensor, "*_ latent"], c: Float[Tensor, "*_ context"]
) -> Float[Tensor, "*batch both"]:
    """Concatenate z and c along their last dimension; their batch shapes broadcast.

    >>> concatenate(torch.zeros(7, 2), torch.eye(10)[:, None]).shape
    torch.Size([10, 7, 12])
    """
    z, c = as_tensor("z", z), as_tensor("c", c)
    if not (z.ndim and c.ndim):
        raise InputError("z and c must have one dimension or more, to be concatenated along it")
    try:
        batch = torch.broadcast_shapes(z.shape[:-1], c.shape[:-1])
    except RuntimeError as error:
        raise InputError(
            f"the batch shapes of z and c, {tuple(z.shape[:-1])} and {tuple(c.shape[:-1])}, do not "
            "broadcast"
        ) from error
    return torch.cat([z.expand(*batch, -1), c.expand(*batch, -1)], -1)
