"""The tensors that a distribution is made of, by name, however it is wrapped or composed."""

from collections.abc import Iterator
from dataclasses import dataclass
from inspect import getattr_static
from typing import Any

from torch import Tensor
from torch.distributions import Distribution, Transform

__all__ = ["Argument", "tensor_arguments"]


@dataclass(frozen=True)
class Argument:
    """A tensor among the arguments of a distribution, or of one that it is made of.

    Attributes:
        name: of the argument, such as ``scale``.
        owner: the distribution whose own argument it is, or a transform of it.
        value: the tensor.
        constraint: what the owner's class says that it may be; None where it says nothing.
        num_batch_dims: length of the batch shape of that distribution.
    """

    name: str
    owner: Distribution | Transform
    value: Tensor
    constraint: Any
    num_batch_dims: int

    @property
    def family(self) -> str:
        """The class whose argument it is, such as ``Normal``."""
        return type(self.owner).__name__

    @property
    def event_dim(self) -> int:
        """How many of its dimensions, on the right, belong to one distribution of the batch."""
        try:
            return int(self.constraint.event_dim)
        except (AttributeError, NotImplementedError):  # nothing is said, or it depends
            return max(0, self.value.dim() - self.num_batch_dims)


def tensor_arguments(distribution: Any) -> Iterator[Argument]:
    """The arguments of a distribution that are tensors, and then those of what it is made of.

    Wrappers (independent, masked and expanded distributions), transforms, the parts of a mixture
    and lists of distributions are looked into. Arguments that were given in another form, such as
    the precision in place of the covariance, are not computed.

    Example:
        >>> import torch
        >>> from pyro.distributions import LogNormal
        >>> p = LogNormal(torch.zeros(3), torch.ones(3)).to_event(1)
        >>> [f"{each.name} of {each.family}" for each in tensor_arguments(p)]
        ['loc of LogNormal', 'scale of LogNormal']
    """
    yield from _of(distribution, set(), 0)


def _of(thing: Any, seen: set[int], num_batch_dims: int) -> Iterator[Argument]:
    if id(thing) in seen or not isinstance(thing, Distribution | Transform):
        return
    seen.add(id(thing))
    if isinstance(thing, Distribution):
        num_batch_dims = len(thing.batch_shape)
    declared = getattr(thing, "arg_constraints", None) or {}
    own = [name.removeprefix("_unbroadcasted_") for name in vars(thing)]
    names = [name for name in own if name in declared or not (declared or name.startswith("_"))]
    names += [name for name in declared if name not in own]  # after those that were given
    for name in names:
        value = _argument(thing, name, declared)
        if isinstance(value, Tensor) and id(value) not in seen:
            seen.add(id(value))
            yield Argument(name, thing, value, declared.get(name), num_batch_dims)
    for part in list(vars(thing).values()):
        for each in part if isinstance(part, list | tuple) else (part,):
            yield from _of(each, seen, num_batch_dims)


def _argument(thing: Any, name: str, declared: dict[str, Any]) -> Any:
    """An argument as it is kept; None where it is not, and would be computed from others."""
    own = vars(thing)
    for key in (name, f"_unbroadcasted_{name}"):
        if key in own:
            return own[key]
    is_plain = isinstance(getattr_static(type(thing), name, None), property)
    is_logits_too = name == "probs" and "logits" in declared
    return getattr(thing, name) if is_plain and not is_logits_too else None
