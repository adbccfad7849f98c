"""Networks by name: words and settings for encoders and decoders."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from ..arguments import describe
from ..declared import build_part
from ..errors import InputError, error_reason
from .conv import ConvDecoder, ConvEncoder
from .mlp import MLP
from .residual import ResidualDecoder, ResidualEncoder, ResidualMLP

__all__ = ["DECODERS", "ENCODERS", "Body", "build_network", "check_network"]

Body = nn.Module | Callable[[Sequence[int], Sequence[int]], nn.Module] | str | Mapping[str, Any]
"""A network, a callable that makes one from (in_shape, out_shape), a name, or settings with one."""

ENCODERS: dict[str, Callable[..., nn.Module]] = {
    "mlp": MLP,
    "conv": ConvEncoder,
    "residual": ResidualEncoder,
    "residual_mlp": ResidualMLP,
}
"""Encoders by name."""

DECODERS: dict[str, Callable[..., nn.Module]] = {
    "mlp": MLP,
    "conv": ConvDecoder,
    "residual": ResidualDecoder,
    "residual_mlp": ResidualMLP,
}
"""Decoders by name."""


def build_network(
    body: Body,
    in_shape: Sequence[int],
    out_shape: Sequence[int],
    catalogue: Mapping[str, Callable[..., nn.Module]] = ENCODERS,
    what: str = "encoder",
) -> nn.Module:
    """Return the network ``body``, or make it.

    Arguments:
        body: a network, which is returned; a callable, which is called as ``body(in_shape,
            out_shape)``; a name such as ``"conv"``; or settings with the name, such as
            ``{"name": "mlp", "hidden": [400, 200]}``.
        in_shape: shape of one input.
        out_shape: shape of one output.
        catalogue: networks by name, :data:`ENCODERS` or :data:`DECODERS`.
        what: name of the argument, for messages.

    Raises:
        InputError: if it is something else, or makes no network.

    >>> build_network({"name": "mlp", "hidden": [5]}, (3,), (2, 4)).layers[0].out_features
    5
    """
    if isinstance(body, nn.Module):
        return body
    if isinstance(body, str | Mapping):
        shapes = {"in_shape": in_shape, "out_shape": out_shape}
        return build_part(what, catalogue, body, **shapes, activation=nn.ReLU)
    expected = (
        f"it must be a network, a callable that makes one from (in_shape, out_shape), or one of "
        f"{', '.join(catalogue)}"
    )
    if not callable(body):
        raise InputError(f"{what} is {describe(body)}; {expected}")
    try:
        network = body(in_shape, out_shape)
    except TypeError as error:
        raise InputError(f"{what} cannot be called: {error_reason(error)}; {expected}") from error
    if not isinstance(network, nn.Module):
        raise InputError(f"{what} made a {type(network).__name__}; {expected}")
    return network


@torch.no_grad()
def check_network(
    network: nn.Module,
    in_shape: Sequence[int],
    out_shape: Sequence[int],
    what: str,
    *context: Tensor,
) -> None:
    """Check a network of a user's by one pass in eval mode, with two inputs of zeros.

    Networks that are distributed over processes, or not in memory yet, are not checked.

    Arguments:
        network: the network.
        in_shape: shape of one input.
        out_shape: shape that one output must have.
        what: its name, for messages.
        context: further inputs.

    Raises:
        InputError: if it cannot take such inputs, or returns another shape.
    """
    plain = (nn.Parameter, Tensor)
    weights = [*network.parameters(), *network.buffers()]
    if any(type(each) not in plain or each.is_meta for each in weights):
        return
    real = next((each for each in weights if each.is_floating_point()), torch.empty(0))
    modes = [(module, module.training) for module in network.modules()]
    network.eval()
    shape = (2, *in_shape)
    try:
        with torch.random.fork_rng(devices=[]):
            inputs = torch.zeros(shape, dtype=real.dtype, device=real.device)
            out = network(inputs, *(each.to(inputs) for each in context))
    except InputError:
        raise
    except Exception as error:  # a user's network may raise any error
        raise InputError(
            f"{what} cannot take inputs of shape {shape}: {error_reason(error)[:200]}"
        ) from error
    finally:
        for module, was_training in modes:
            module.training = was_training
    found = tuple(out.shape) if isinstance(out, Tensor) else f"a {type(out).__name__}"
    if found != (2, *out_shape):
        raise InputError(
            f"{what} must return shape {(2, *out_shape)} for inputs of shape {shape}; it returns "
            f"{found}"
        )
