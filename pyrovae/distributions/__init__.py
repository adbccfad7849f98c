"""Distributions that Pyro lacks, or has only for moderate arguments or equal totals."""

from .matrices import Wishart
from .scalars import (
    ContinuousBernoulli,
    DiscretisedLogistic,
    OrderedLogistic,
    VonMises,
    ZeroInflatedNegativeBinomial,
)
from .vectors import Blocks, DirichletMultinomial, LowRankNormal, Multinomial

__all__ = [
    "Blocks",
    "ContinuousBernoulli",
    "DirichletMultinomial",
    "DiscretisedLogistic",
    "LowRankNormal",
    "Multinomial",
    "OrderedLogistic",
    "VonMises",
    "Wishart",
    "ZeroInflatedNegativeBinomial",
]
