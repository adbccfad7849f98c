"""Approximate posteriors q(z | x): modules from what the encoder put out to a distribution."""

from .discrete import Concrete, StraightThrough
from .flow import InverseAutoregressive, SplineFlow
from .normal import DiagonalNormal, FullRankNormal, LowRankNormal

__all__ = [
    "Concrete",
    "DiagonalNormal",
    "FullRankNormal",
    "InverseAutoregressive",
    "LowRankNormal",
    "SplineFlow",
    "StraightThrough",
]
