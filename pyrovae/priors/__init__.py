"""Priors p(z): modules whose forward takes nothing and returns a distribution."""

from .normal import StandardNormal

__all__ = ["StandardNormal"]
