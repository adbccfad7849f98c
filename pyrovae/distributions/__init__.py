"""Distributions that Pyro lacks, or has only for moderate arguments or equal totals."""

from .flows import FlowDistribution
from .matrices import Wishart
from .mixtures import DiagonalNormalMixture
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
    "DiagonalNormalMixture",
    "DirichletMultinomial",
    "DiscretisedLogistic",
    "FlowDistribution",
    "LowRankNormal",
    "Multinomial",
    "OrderedLogistic",
    "VonMises",
    "Wishart",
    "ZeroInflatedNegativeBinomial",
]
