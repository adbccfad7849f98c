"""Whether data lie in the support of a likelihood, and what to do when they do not."""

from collections.abc import Sequence
from math import ceil
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from ..errors import InputError
from .declaration import Likelihood
from .families import FAMILIES

if TYPE_CHECKING:
    from .layer import LikelihoodLayer

__all__ = ["check_support", "check_values", "fitting"]


def check_support(
    layer: "LikelihoodLayer", x: Tensor, names: Sequence[str] | None, what: str
) -> None:
    """Raise an InputError unless every element of x has positive probability under the layer."""
    check_values(x, layer.event_shape, names, what)
    event_shape = layer.event_shape
    outside = ~_in_support(layer, x)
    if bool(outside.any()):
        first = x[tuple(outside.nonzero()[0].tolist())].item()
        share = outside.double().mean().item()
        raise InputError(
            f"{layer.likelihood.family.name} cannot have produced {what}: {share:.1%} of the "
            f"values lie outside its support, the first {first:.4g} "
            f"{_place(outside, event_shape, names)}; {_advice(x)}"
        )


def check_values(
    x: Tensor,
    event_shape: tuple[int, ...],
    names: Sequence[str] | None = None,
    what: str = "the data",
) -> None:
    """Raise an InputError unless x are finite real numbers, with data of that shape."""
    if tuple(x.shape[-len(event_shape) :]) != event_shape or x.ndim < len(event_shape):
        raise InputError(
            f"{what} have shape {tuple(x.shape)}; the model expects {event_shape} for each datum"
        )
    if x.numel() == 0:
        raise InputError(f"{what} are empty")
    if x.is_complex():
        raise InputError(f"{what} are complex; a likelihood takes real numbers")
    for kind, bad in (("missing (NaN)", torch.isnan(x)), ("infinite", torch.isinf(x))):
        if bool(bad.any()):
            raise InputError(
                f"{what} hold {kind} values, the first {_place(bad, event_shape, names)}; "
                "remove or fill them"
            )


def fitting(x: Tensor) -> list[Likelihood]:
    """The named likelihoods that give every element of x positive probability or density."""
    return [
        candidate
        for candidate in _candidates(x)
        if bool(_in_support(candidate.build((1,)), x.reshape(-1, 1)).all())
    ]


def _in_support(layer: "LikelihoodLayer", x: Tensor) -> Tensor:
    probe = torch.zeros(layer.in_shape, device=layer._device)
    base: Any = layer(probe).base_dist
    inside: Tensor = base.support.check(x)
    return inside


def _candidates(x: Tensor) -> list[Likelihood]:
    highest = ceil(min(max(x.max().item(), 0), 2**31 - 1))
    candidates = []
    for family in FAMILIES.values():
        sources: dict[str, Any] = {}
        if "total_count" in family.constraints:
            sources["total_count"] = max(highest, 1)
        if any(c.event_dim for c in family.constraints.values()):
            if highest > 1024:
                continue
            sources["num_classes"] = highest + 1
        candidates.append(Likelihood(family.name, **sources))
    return candidates


def _advice(x: Tensor) -> str:
    names = [_short(likelihood) for likelihood in fitting(x)]
    advice = f"these would fit: {', '.join(names)}"
    if bool(((x >= 0) & (x <= 1)).all()):
        return f"binarise them (values in [0, 1] read as probabilities), or choose: {advice}"
    return advice


def _short(likelihood: Likelihood) -> str:
    """As a user would write it: sizes that the data ask for, nothing that is a default."""
    settings = {k: v for k, v in likelihood.to_dict().items() if isinstance(v, int)}
    inside = ", ".join(f"{k}={v}" for k, v in settings.items())
    return f"{likelihood.family.name}({inside})" if inside else likelihood.family.name


def _place(bad: Tensor, event_shape: tuple[int, ...], names: Sequence[str] | None) -> str:
    position = bad.nonzero()[0].tolist()
    datum, feature = position[: -len(event_shape)], position[-len(event_shape) :]
    where = f"in datum {datum[0]}, " if datum else ""
    if names is not None and len(event_shape) == 1:
        return f"{where}column {names[feature[0]]!r}"
    if len(event_shape) == 1:
        return f"{where}feature {feature[0]}"
    return f"{where}at position {tuple(feature)}"
