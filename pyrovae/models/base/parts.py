"""The parts of a model as its constructor takes them: modules, or words and settings as in YAML."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from ...arguments import describe
from ...declared import build_part
from ...errors import InputError, error_reason
from ...nn import joint_network
from ...nn.build import DECODERS, ENCODERS, Body, build_network, check_network
from ...posteriors import POSTERIORS
from ...priors import PRIORS

__all__ = [
    "Part",
    "build_decoder",
    "build_encoder",
    "build_joint_encoder",
    "build_posterior",
    "build_prior",
]

Part = nn.Module | str | Mapping[str, Any]
"""A module, a name, or settings with the name, as in ``{"name": "mixture", "num_components": 5}``.
"""

_OURS = (*ENCODERS.values(), *DECODERS.values())


def build_prior(prior: Part | None, posterior: Any, **context: Any) -> Any:
    """The prior that was given or named; that of the posterior unless given.

    Arguments:
        prior: a module, a name, settings with the name, or None.
        posterior: the posterior, which has a method ``prior()``.
        context: ``latent_dim`` and ``event_shape``.

    Raises:
        InputError: if it is something else, or there is no prior.
    """
    if prior is not None:
        return _build("prior", PRIORS, prior, context)
    if not callable(getattr(posterior, "prior", None)):
        raise InputError(
            f"the posterior {type(posterior).__name__} has no method prior() that makes a default "
            "prior; give prior="
        )
    return posterior.prior()


def build_posterior(posterior: Part | None, **context: Any) -> tuple[Any, Any]:
    """The posterior that was given or named, diagonal unless given, and its q(z | h) at h = 0.

    Arguments:
        posterior: a module, a name, settings with the name, or None.
        context: ``latent_dim`` and ``event_shape``.

    Raises:
        InputError: if it is something else, or makes no distribution.
    """
    q: Any = _build(
        "posterior", POSTERIORS, "diagonal" if posterior is None else posterior, context
    )
    shape = getattr(q, "in_shape", None)
    if not isinstance(shape, tuple | list):
        raise InputError(
            f"the posterior {type(q).__name__} has no in_shape, the shape of the encoder's output "
            "for one datum"
        )
    return q, trial_of(q, "posterior", torch.zeros(shape))


def trial_of(part: Any, what: str, *inputs: Tensor) -> Any:
    """The distribution that a part makes of such inputs.

    Raises:
        InputError: if it makes none.
    """
    try:
        with torch.no_grad():
            trial = part(*inputs)
            is_distribution = trial.event_shape is not None and trial.support is not None
    except InputError:
        raise
    except Exception as error:  # a user's part may raise any error
        raise InputError(
            f"the {what} {type(part).__name__} makes no distribution: {error_reason(error)[:200]}"
        ) from error
    if not is_distribution:
        raise InputError(f"the {what} {type(part).__name__} makes no distribution")
    return trial


def build_encoder(
    body: Body, in_shape: Sequence[int], out_shape: Sequence[int], what: str = "encoder"
) -> nn.Module:
    """The encoder that was given or named.

    Raises:
        InputError: if it is something else, or does not fit.
    """
    network = build_network(body, in_shape, out_shape, ENCODERS, what)
    if body not in _OURS and not isinstance(body, str | Mapping):
        check_network(network, in_shape, out_shape, f"the {what}")
    return network


def build_joint_encoder(
    body: Body, in_shape: Sequence[int], context_dim: int, out_shape: Sequence[int], width: int
) -> nn.Module:
    """The encoder of x and a context that was given or named.

    Raises:
        InputError: if it is something else, or does not fit.
    """
    network = joint_network(body, in_shape, context_dim, out_shape, width)
    if body not in _OURS and not isinstance(body, str | Mapping):
        context = torch.zeros(2, context_dim)
        check_network(network, in_shape, out_shape, "the encoder", context)
    return network


def build_decoder(body: Body, in_shape: Sequence[int], out_shape: Sequence[int]) -> nn.Module:
    """The decoder that was given or named.

    Raises:
        InputError: if it is something else, or does not fit.
    """
    network = build_network(body, in_shape, out_shape, DECODERS, "decoder")
    if body not in _OURS and not isinstance(body, str | Mapping):
        check_network(network, in_shape, out_shape, "the decoder")
    return network


def _build(
    kind: str,
    catalogue: Mapping[str, Callable[..., nn.Module]],
    declared: Any,
    context: Mapping[str, Any],
) -> nn.Module:
    if isinstance(declared, nn.Module):
        return declared
    if not isinstance(declared, str | Mapping):
        raise InputError(
            f"{kind} is {describe(declared)}; it must be a module, one of {', '.join(catalogue)}, "
            "or settings with the name"
        )
    return build_part(kind, catalogue, declared, **context)
