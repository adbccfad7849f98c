"""Check that data lie in the support of a likelihood, and advise where they do not."""

from collections.abc import Callable, Mapping, Sequence
from math import ceil
from typing import Any, Protocol, runtime_checkable

import torch
from torch import Tensor
from torch.distributions.constraints import is_dependent
from torch.func import functional_call

from ..errors import InputError
from .declaration import Declaration
from .families import FAMILIES, LEARNED
from .rows import describe_vectors, element_constraint

__all__ = [
    "Layer",
    "check_distribution",
    "check_support",
    "check_values",
    "check_varied",
    "find_matching",
]

_MAX_PROPOSED = 6
_MAX_SIZE = 1e15
_IMAGE_DIMS = 3


@runtime_checkable
class Layer(Protocol):
    """What the checks need of a :class:`~pyrovae.likelihoods.LikelihoodLayer`."""

    likelihood: Declaration
    event_shape: tuple[int, ...]
    is_discrete: bool

    def in_support(self, x: Tensor, given: Mapping[str, Tensor] | None = None) -> Tensor:
        """Which entries of x lie in the support."""


MakeLayer = Callable[[Declaration, tuple[int, ...]], Layer]
"""Makes a layer of a declaration, for data of a shape."""


def check_distribution(layer: Any) -> None:
    """Raise an InputError unless a layer makes a distribution over data of its shape.

    The class of distributions may be anybody's, so that it is tried at three outputs of a decoder.
    """
    name = layer.likelihood.family.name
    try:
        for value in (-3.0, 3.0, 0.0):
            p = layer(torch.full(layer.in_shape, value))
        _ = p.support.is_discrete
    except InputError:
        raise
    except Exception as error:
        raise InputError(
            f"{layer.likelihood!r} makes no distribution: {' '.join(str(error).split())[:200]}"
        ) from error
    if p.event_shape != layer.event_shape:
        raise InputError(
            f"{name} is a distribution over vectors of length {p.event_shape[-1]}; it has no "
            "argument for each of the features"
        )
    _check_support_is_fixed(layer)
    if layer.likelihood.family.is_vector and not hasattr(p, "marginal"):
        raise InputError(
            f"{name} is a distribution over all features at once, and needs a method "
            "'marginal(observed)' that gives the distribution of the observed ones"
        )


def _check_support_is_fixed(layer: Any) -> None:
    """Raise an InputError if learning would move the support away from the data."""
    family: Any = layer.likelihood.family
    if not is_dependent(family.distribution.support):
        return
    eta = torch.zeros(layer.in_shape)
    bounds = _bounds(layer(eta))
    for name, source in layer.likelihood.sources.items():
        if source not in LEARNED:
            continue
        for step in (-1.0, 1.0):
            if not all(map(torch.equal, bounds, _bounds(_moved(layer, eta, name, step)))):
                raise InputError(
                    f"the support of {family.name} depends on its {name}, so that data fall "
                    f"outside it while {name} is learned; give {name} as a constant, as in "
                    f"{name}=1.0"
                )


def _moved(layer: Any, eta: Tensor, name: str, step: float) -> Any:
    """The distribution with a step in one learned argument."""
    if layer.likelihood.sources[name] == "predicted":
        return layer(layer.replace_part(eta, name, step))
    parameter = f"unlinked_{name}"
    value = layer.get_parameter(parameter) + step
    return functional_call(layer, {parameter: value}, (eta,))


def _bounds(p: Any) -> tuple[Tensor, Tensor]:
    """The ends of the support of p; infinite where there is none."""
    support = element_constraint(p.support)
    low, high = (
        getattr(support, "lower_bound", -torch.inf),
        getattr(support, "upper_bound", torch.inf),
    )
    return torch.as_tensor(low), torch.as_tensor(high)


def check_support(
    layer: Layer,
    x: Tensor,
    names: Sequence[str] | None,
    what: str,
    make_layer: MakeLayer,
    given: Mapping[str, Tensor] | None = None,
) -> None:
    """Raise an InputError unless every observed entry of x lies in the support of the layer.

    Arguments:
        layer: the likelihood.
        x: the data.
        names: names of the features of a table.
        what: what to call the data.
        make_layer: makes the layers of other likelihoods, to find those that fit.
        given: what is given with each datum.
    """
    check_values(x, layer.event_shape, names, what, missing=True)
    x = x if x.is_floating_point() else x.double()  # truth values cannot be rounded or compared
    outside = ~(layer.in_support(x, given) | x.isnan())
    if not bool(outside.any()):
        return
    first = x[tuple(outside.nonzero()[0].tolist())].item()
    if layer.likelihood.family.is_vector:
        of_rows = describe_vectors(layer.likelihood.family.distribution.support, x, outside, names)
        if of_rows:
            raise InputError(f"{layer.likelihood.family.name} is of {of_rows}")
    where = f"{first:.4g} {_place(outside, layer.event_shape, names)}"
    name, advice = layer.likelihood.family.name, _advice(x, layer.event_shape, make_layer)
    if layer.is_discrete and first < 0:
        raise InputError(f"{name} is of numbers from 0 upwards, and {what} hold {where}; {advice}")
    if layer.is_discrete and first != round(first):
        raise InputError(f"{name} is of whole numbers, and {what} hold {where}; {advice}")
    if abs(first) > _MAX_SIZE:
        raise InputError(f"{what} hold {where}, whose square overflows; rescale them")
    share = outside.double().mean().item()
    raise InputError(
        f"{name} cannot have produced {what}: {share:.1%} of the values lie outside its support, "
        f"the first {where}; {advice}"
    )


def check_values(
    x: Tensor,
    event_shape: tuple[int, ...],
    names: Sequence[str] | None = None,
    what: str = "the data",
    *,
    missing: bool = False,
) -> None:
    """Raise an InputError unless x are finite real numbers, with data of that shape.

    Arguments:
        x: the data.
        event_shape: shape of a datum.
        names: names of the features of a table.
        what: what to call the data.
        missing: whether entries may be missing (NaN).
    """
    if tuple(x.shape[-len(event_shape) :]) != event_shape:
        raise InputError(
            f"{what} have shape {tuple(x.shape)}; the model expects {event_shape} for each datum"
        )
    if x.numel() == 0:
        raise InputError(f"{what} are empty")
    if x.is_complex():
        raise InputError(f"{what} are complex; a likelihood takes real numbers")
    infinite = x.isinf()
    if bool(infinite.any()):
        raise InputError(
            f"{what} hold infinite values, the first {_place(infinite, event_shape, names)}; "
            "remove them, or mark them as missing (NaN)"
        )
    absent = x.isnan()
    if not missing and bool(absent.any()):
        raise InputError(
            f"{what} hold missing (NaN) values, the first {_place(absent, event_shape, names)}; "
            "say that values may be missing, as in VAE(..., missing=True), or fill them"
        )


def check_varied(layer: Layer, x: Tensor, names: Sequence[str] | None, what: str) -> None:
    """Raise an InputError if a column of a table is constant, where a density would be infinite."""
    if layer.is_discrete or len(layer.event_shape) != 1:
        return
    first = torch.where(x.isnan(), -torch.inf, x).amax(0)
    constant = ((x == first) | x.isnan()).all(0)
    empty = x.isnan().all(0)
    if bool(empty.any()):
        raise InputError(
            f"{what} have an empty {_place(empty, layer.event_shape, names)}: remove it"
        )
    if bool(constant.any()):
        column = int(constant.nonzero()[0])
        raise InputError(
            f"{what} have a constant {_place(constant, layer.event_shape, names)}, always "
            f"{first[column].item():.4g}; its density grows without bound: remove the column"
        )


def find_matching(x: Tensor, make_layer: MakeLayer) -> list[Declaration]:
    """The named likelihoods that give every observed entry of x positive probability."""
    x = x if x.is_floating_point() else x.double()
    x = x[~(x.isnan() | x.isinf())].reshape(-1, 1)
    if not len(x):
        return []
    return [c for c in _candidates(x) if bool(make_layer(c, (1,)).in_support(x).all())]


def _candidates(x: Tensor) -> list[Declaration]:
    highest = ceil(min(max(x.max().item(), 0), 2**31 - 1))
    sizes: dict[str, Any] = {"total_count": max(highest, 1), "levels": highest + 1}
    candidates = []
    for family in FAMILIES.values():
        if family.is_vector:
            continue
        settings = {
            name: sizes[name]
            for name in sizes
            if name in family.constraints and family.constraints[name].is_discrete
        }
        if any(c.event_dim for c in family.constraints.values()):
            settings["num_classes"] = highest + 1
        if highest > 1024 and {"levels", "num_classes"} & settings.keys():
            continue
        if any(settings[name] < 2 for name in ("levels", "num_classes") if name in settings):
            continue
        candidates.append(Declaration(family.name, **settings))
    return candidates


def _advice(x: Tensor, event_shape: tuple[int, ...], make_layer: MakeLayer) -> str:
    found = find_matching(x, make_layer)
    if bool((x == x.round()).logical_or(x.isnan()).all()):
        found.sort(key=lambda likelihood: not make_layer(likelihood, (1,)).is_discrete)
    names = [_short(likelihood) for likelihood in found[:_MAX_PROPOSED]]
    if not names:
        return "no named likelihood fits; transform them"
    advice = ", ".join(names)
    low, high = x[~x.isnan()].min().item(), x[~x.isnan()].max().item()
    if low >= 0 and high <= 1:
        return f"binarise them (values in [0, 1] read as probabilities), or choose: {advice}"
    if low >= 0 and len(event_shape) == _IMAGE_DIMS:
        return (
            f"pixels range from {low:g} to {high:g}: binarise them, divide them by {high:g} for "
            f"ContinuousBernoulli, or choose: {advice}"
        )
    return f"these would fit: {advice}"


def _short(likelihood: Declaration) -> str:
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
