"""Approximate posteriors q(z | x): modules from the output h of an encoder to a distribution."""

from collections.abc import Callable

from torch import nn

from ..declared import find_parts
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

POSTERIORS: dict[str, Callable[..., nn.Module]] = find_parts(__name__, __path__)
"""Posteriors by name: the classes with a ``name`` in the modules of this folder."""
