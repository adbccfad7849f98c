"""Where learned arguments start, and what missing entries are filled with."""

from typing import Any

import torch
from torch import Tensor
from torch.distributions import constraints

from ..links import link_to
from .declaration import Declaration

__all__ = ["find_fill", "initial_value"]


def initial_value(
    likelihood: Declaration,
    name: str,
    feature_shape: tuple[int, ...],
    trailing: tuple[int, ...],
) -> Tensor:
    """The start of a learned argument, before its link.

    Positive arguments start at 1 above their bound and triangular matrices at the identity, others
    at 0. Components of a mixture, and columns of a matrix, start apart.

    Arguments:
        likelihood: the declaration.
        name: the argument.
        feature_shape: the shape of the features that have numbers of their own.
        trailing: the shape of the numbers of each.
    """
    initial = torch.zeros(feature_shape + trailing)
    link = likelihood.links[name]
    constraint = likelihood.family.constraints[name]
    if isinstance(constraint, constraints.independent):
        constraint = constraint.base_constraint
    if isinstance(constraint, constraints.greater_than | constraints.greater_than_eq):
        initial = link.inv(initial + float(constraint.lower_bound) + 1.0)
    elif likelihood.family.is_square(name):
        initial = link.inv(torch.eye(*feature_shape * 2))
    elif trailing and not likelihood.width(name):
        initial = initial + torch.linspace(-1, 1, trailing[0])
    elif likelihood.family.is_vector and trailing:
        initial = torch.randn(feature_shape + trailing) * 0.1
    return initial


def find_fill(support: Any, event_shape: tuple[int, ...]) -> Tensor:
    """A value in the support, for one feature or for all."""
    zeros = torch.zeros(event_shape if support.event_dim else ())
    if support is constraints.one_hot:
        return torch.eye(len(zeros))[0]
    if support.is_discrete:
        return zeros + torch.as_tensor(getattr(support, "lower_bound", 0))
    value: Tensor = link_to(support)(zeros)
    return value
