"""Approximate posteriors q(z | x): modules from what the encoder put out to a distribution."""

from .normal import DiagonalNormal

__all__ = ["DiagonalNormal"]
