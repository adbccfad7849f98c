"""Data of distributions over vectors whose entries depend on each other: shares and one-hot."""

from collections.abc import Sequence
from typing import Any

import torch
from jaxtyping import Bool, Shaped
from torch import Tensor
from torch.distributions import constraints

__all__ = ["describe_vectors", "element_constraint", "vectors_in_support"]

_ROUNDED = 1e-4
"""How far the sum of shares may be from 1."""


def element_constraint(support: Any) -> Any:
    """The constraint on one number, from a constraint on vectors or of a mixture."""
    while hasattr(support, "base_constraint"):
        support = support.base_constraint
    return support


def vectors_in_support(support: Any, x: Shaped[Tensor, "*batch entries"]) -> Bool[Tensor, "..."]:
    """Which entries lie in the support, of vectors whose entries may be missing (NaN).

    An entry lies outside also if the observed entries of its vector do not go together.
    """
    support = element_constraint(support)
    if support not in (constraints.simplex, constraints.one_hot):
        inside: Tensor = torch.as_tensor(support.check(x))
        return inside if inside.shape == x.shape else inside.unsqueeze(-1).expand(x.shape)
    missing = x.isnan()
    total = x.double().nansum(-1, keepdim=True)
    is_complete = ~missing.any(-1, keepdim=True)
    if support is constraints.simplex:
        each = x > 0
        together = torch.where(is_complete, (total - 1).abs() <= _ROUNDED, total < 1)
    else:
        each = (x == 0) | (x == 1)
        together = torch.where(is_complete, total == 1, total <= 1)
    return (each | missing) & together


def describe_vectors(
    support: Any,
    x: Shaped[Tensor, "*batch entries"],
    outside: Bool[Tensor, "*batch entries"],
    names: Sequence[str] | None,
) -> str | None:
    """What vectors of the support hold, what the first one outside holds, and what to do.

    Returns None for a support whose entries do not depend on each other.
    """
    if support not in (constraints.simplex, constraints.one_hot):
        return None
    rows = x.reshape(-1, x.shape[-1])
    number = int(outside.reshape(rows.shape).any(-1).nonzero()[0])
    row = rows[number]
    where = f" in datum {number}" if x.ndim > 1 else ""
    is_share = support is constraints.simplex
    wrong = ~((row > 0) if is_share else (row == 0) | (row == 1)) & ~row.isnan()
    if bool(wrong.any()):
        entry = int(wrong.nonzero()[0])
        feature = f"feature {entry}" if names is None else f"column {names[entry]!r}"
        found = f"there is {row[entry].item():.4g}{where}, {feature}"
    else:
        found = f"they sum to {row.double().nansum().item():.6g}{where}"
    if is_share:
        return (
            f"shares above 0 that sum to 1 in each datum, and {found}; replace zeros by small "
            "shares, then divide each datum by its sum"
        )
    return (
        f"vectors with one 1 among zeros in each datum, and {found}; for numbers of classes use "
        "Categorical(num_classes=...), for features of 0 or 1 use Bernoulli"
    )
