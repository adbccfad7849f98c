"""The tensor arguments of a distribution, by name, also inside wrappers and mixtures."""

from collections.abc import Iterator
from dataclasses import dataclass
from inspect import getattr_static
from typing import Any

from torch import Tensor
from torch.distributions import Distribution, Transform

__all__ = ["Argument", "tensor_arguments"]


@dataclass(frozen=True)
class Argument:
    """A tensor argument of a distribution, or of one of its components.

    Attributes:
        name: the argument's name, such as ``scale``.
        owner: the distribution or transform that has this argument.
        value: the tensor.
        constraint: the constraint that the owner's class declares; None if it declares none.
        num_batch_dims: length of the batch shape of the distribution.
    """

    name: str
    owner: Distribution | Transform
    value: Tensor
    constraint: Any
    num_batch_dims: int

    @property
    def family(self) -> str:
        """Name of the owner's class, such as ``Normal``."""
        return type(self.owner).__name__

    @property
    def event_dim(self) -> int:
        """Number of rightmost dimensions that belong to one distribution of the batch."""
        try:
            return int(self.constraint.event_dim)
        except (AttributeError, NotImplementedError):  # no constraint, or a dependent one
            return max(0, self.value.dim() - self.num_batch_dims)


def tensor_arguments(distribution: Any) -> Iterator[Argument]:
    """Yield the tensor arguments of a distribution, then those of its components.

    The search descends into wrappers (independent, masked and expanded distributions), transforms,
    the parts of a mixture and lists of distributions. It does not compute arguments that were given
    in another form, such as the covariance where the precision was given.

    Example:
        >>> import torch
        >>> from pyro.distributions import LogNormal
        >>> p = LogNormal(torch.zeros(3), torch.ones(3)).to_event(1)
        >>> [f"{each.name} of {each.family}" for each in tensor_arguments(p)]
        ['loc of LogNormal', 'scale of LogNormal']
    """
    yield from _walk(distribution, set(), 0)


def _walk(thing: Any, seen: set[int], num_batch_dims: int) -> Iterator[Argument]:
    if id(thing) in seen or not isinstance(thing, Distribution | Transform):
        return
    seen.add(id(thing))
    if isinstance(thing, Distribution):
        num_batch_dims = len(thing.batch_shape)
    declared = getattr(thing, "arg_constraints", None) or {}
    own = [name.removeprefix("_unbroadcasted_") for name in vars(thing)]
    names = [name for name in own if name in declared or not (declared or name.startswith("_"))]
    names += [name for name in declared if name not in own]  # after the given ones
    for name in names:
        value = _stored_argument(thing, name, declared)
        if isinstance(value, Tensor) and id(value) not in seen:
            seen.add(id(value))
            yield Argument(name, thing, value, declared.get(name), num_batch_dims)
    for part in list(vars(thing).values()):
        for each in part if isinstance(part, list | tuple) else (part,):
            yield from _walk(each, seen, num_batch_dims)


def _stored_argument(thing: Any, name: str, declared: dict[str, Any]) -> Any:
    """The argument that the distribution stores; None if it would compute it from others."""
    own = vars(thing)
    for key in (name, f"_unbroadcasted_{name}"):
        if key in own:
            return own[key]
    is_plain = isinstance(getattr_static(type(thing), name, None), property)
    is_logits_too = name == "probs" and "logits" in declared
    return getattr(thing, name) if is_plain and not is_logits_too else None
