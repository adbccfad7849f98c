"""Scores of how well each latent of a representation matches one known factor of variation.

Papers leave parts of these scores open, and implementations choose them differently, so do not
compare scores of different implementations. Each score documents the choices made here. The scale,
sign and order of latents do not matter, except for randomness in a forest and for values at the
edge of a bin.

A latent is dead, and carries no information, if it varies by at most 1e-6 of its size.
"""

from .all_scores import Disentanglement, disentanglement
from .code_table import DCI, dci, mutual_information, mutual_information_gap, sap
from .fixed_factors import Encode, Sample, beta_vae_score, factor_vae_score

__all__ = [
    "DCI",
    "Disentanglement",
    "Encode",
    "Sample",
    "beta_vae_score",
    "dci",
    "disentanglement",
    "factor_vae_score",
    "mutual_information",
    "mutual_information_gap",
    "sap",
]
