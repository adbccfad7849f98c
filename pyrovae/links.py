"""Link functions map the unconstrained outputs of a network to the arguments of a distribution.

The constraint on an argument determines its link, as in a generalised linear model (McCullagh and
Nelder 1989), so that a new family of distributions needs no code here:

=====================  ====================================
constraint             link
=====================  ====================================
real                   identity
positive, nonnegative  softplus + 1e-7
unit interval          sigmoid
other interval (a, b)  a + (b - a) sigmoid
simplex                softmax
ordered vector         first entry identity, increments softplus
lower Cholesky factor  unit triangular matrix times a softplus diagonal
anything else          ``torch.distributions.transform_to``
=====================  ====================================
"""

from collections.abc import Callable
from typing import Any

import torch
from pyro.distributions.constraints import ordered_vector
from torch import Tensor
from torch.distributions import constraints, transform_to
from torch.distributions.constraint_registry import ConstraintRegistry
from torch.distributions.transforms import (
    AffineTransform,
    ComposeTransform,
    ExpTransform,
    IndependentTransform,
    SigmoidTransform,
    SoftmaxTransform,
    SoftplusTransform,
    Transform,
    identity_transform,
)

from .arguments import describe
from .errors import InputError, did_you_mean

__all__ = ["LINKS", "find_link", "link_to"]

_OFF_ZERO = 1e-7
"""Added because softplus underflows to 0, and a scale or rate of 0 has an infinite log-density."""

_OFF_BOUND = 1e-6
"""The same for other bounds, relative to their size, as rounding errors are."""

link_to: Any = ConstraintRegistry()
"""``link_to(constraint)`` is the default link; ``link_to.register(constraint)`` adds one."""

LINKS: dict[str, Callable[[], Transform]] = {
    "identity": lambda: identity_transform,
    "softplus": lambda: _softplus_above(0.0),
    "exp": ExpTransform,
    "sigmoid": SigmoidTransform,
    "softmax": SoftmaxTransform,
}
"""Links that a declaration can name to override the default."""


def find_link(name: str) -> Transform:
    """The link of that name.

    Raises:
        InputError: if the name is unknown.
    """
    if not isinstance(name, str) or name not in LINKS:
        hint = did_you_mean(name if isinstance(name, str) else "", LINKS)
        raise InputError(f"unknown link {describe(name)}: {hint}")
    return LINKS[name]()


def _softplus_above(lower: Any) -> Transform:
    start = lower + _OFF_ZERO + _OFF_BOUND * abs(lower)
    return ComposeTransform([SoftplusTransform(), AffineTransform(start, 1.0)])


def _independent(constraint: Any) -> Transform:
    base = link_to(constraint.base_constraint)
    return IndependentTransform(base, constraint.reinterpreted_batch_ndims)


def _greater_than(constraint: Any) -> Transform:
    return _softplus_above(constraint.lower_bound)


def _less_than(constraint: Any) -> Transform:
    mirror = AffineTransform(0.0, -1.0)
    return ComposeTransform([_softplus_above(-constraint.upper_bound), mirror])


def _interval(constraint: Any) -> Transform:
    low, high = constraint.lower_bound, constraint.upper_bound
    if isinstance(high, Tensor) and bool(high.isposinf().all()):
        return _softplus_above(low)
    if not isinstance(low, Tensor) and (low, high) == (0, 1):
        return SigmoidTransform()
    return ComposeTransform([SigmoidTransform(), AffineTransform(low, high - low)])


class _Ordered(Transform):
    """x_0, x_0 + softplus(x_1), x_0 + softplus(x_1) + softplus(x_2), ...

    Each increment is at least 1e-6 |x_0|, so that rounding does not absorb it.
    """

    domain = constraints.real_vector
    codomain = ordered_vector
    bijective = True

    def __eq__(self, other: object) -> bool:
        return isinstance(other, _Ordered)

    def _call(self, x: Tensor) -> Tensor:
        first = x[..., :1]
        increments = _softplus_above(0.0)(x[..., 1:]) + _OFF_BOUND * first.abs()
        return torch.cat([first, first + increments.cumsum(-1)], dim=-1)

    def _inverse(self, y: Tensor) -> Tensor:
        first = y[..., :1]
        increments: Tensor = _softplus_above(0.0).inv(y.diff(dim=-1) - _OFF_BOUND * first.abs())
        return torch.cat([first, increments], dim=-1)


class _Triangular(Transform):
    """L = B diag(d) with ones on the diagonal of a lower triangular B, from packed numbers.

    L of D rows has D (D + 1) / 2 numbers, packed into D rows of (D + 2) // 2; of an even D, the
    last D / 2 are not used. First come those of d, by softplus, then the rows of B below its
    diagonal. A small d then does not enlarge the inverse of B.
    """

    domain = constraints.independent(constraints.real, 2)
    codomain = constraints.lower_cholesky
    bijective = False

    def __eq__(self, other: object) -> bool:
        return isinstance(other, _Triangular)

    def _call(self, x: Tensor) -> Tensor:
        num = x.shape[-2]
        flat = x.flatten(-2)
        row, column = torch.tril_indices(num, num, -1, device=x.device)
        places = torch.zeros(num, num, dtype=torch.long, device=x.device)
        places[row, column] = num + torch.arange(len(row), device=x.device)
        square = flat.index_select(-1, places.flatten()).unflatten(-1, (num, num))
        diagonal: Tensor = _softplus_above(0.0)(flat[..., :num])
        eye = torch.eye(num, dtype=x.dtype, device=x.device)
        lower: Tensor = (square.tril(-1) + eye) * diagonal.unsqueeze(-2)
        return lower

    def _inverse(self, y: Tensor) -> Tensor:
        num = y.shape[-1]
        row, column = torch.tril_indices(num, num, -1, device=y.device)
        diagonal = y.diagonal(dim1=-2, dim2=-1)
        below = (y / diagonal.unsqueeze(-2))[..., row, column]
        flat = torch.cat([_softplus_above(0.0).inv(diagonal), below], -1)
        width = (num + 2) // 2
        packed = flat.new_zeros(*flat.shape[:-1], num * width)
        packed[..., : flat.shape[-1]] = flat
        return packed.reshape(*flat.shape[:-1], num, width)


_DEFAULTS: dict[Any, Callable[[Any], Transform]] = {
    constraints.real: lambda _: identity_transform,
    constraints.independent: _independent,
    constraints.greater_than: _greater_than,
    constraints.greater_than_eq: _greater_than,
    constraints.less_than: _less_than,
    constraints.interval: _interval,
    constraints.half_open_interval: _interval,
    constraints.simplex: lambda _: SoftmaxTransform(),
    type(ordered_vector): lambda _: _Ordered(),
    constraints.lower_cholesky: lambda _: _Triangular(),
    constraints.positive_definite: transform_to,
}
for _constraint, _link in _DEFAULTS.items():
    link_to.register(_constraint, _link)
