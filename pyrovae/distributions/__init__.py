"""Distributions that Pyro lacks, or supports only for moderate arguments or equal totals."""

from .completed import completed, marginal
from .features import expectation, features
from .flows import FlowDistribution
from .matrices import Wishart
from .mixtures import DiagonalNormalMixture
from .noisy import denoised, noisy
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
    "completed",
    "denoised",
    "expectation",
    "features",
    "marginal",
    "noisy",
]
