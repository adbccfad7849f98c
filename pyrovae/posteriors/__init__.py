"""Approximate posteriors q(z | x): modules from the output h of an encoder to a distribution."""

from collections.abc import Callable

from torch import nn

from .discrete import Concrete, StraightThrough
from .flow import InverseAutoregressive, SplineFlow
from .normal import DiagonalNormal, FullRankNormal, LowRankNormal

__all__ = [
    "POSTERIORS",
    "Concrete",
    "DiagonalNormal",
    "FullRankNormal",
    "InverseAutoregressive",
    "LowRankNormal",
    "SplineFlow",
    "StraightThrough",
]

POSTERIORS: dict[str, Callable[..., nn.Module]] = {
    "diagonal": DiagonalNormal,
    "full_rank": FullRankNormal,
    "low_rank": LowRankNormal,
    "iaf": InverseAutoregressive,
    "spline": SplineFlow,
    "concrete": Concrete,
    "straight_through": StraightThrough,
}
"""Posteriors by name."""
