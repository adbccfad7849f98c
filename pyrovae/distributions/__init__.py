"""Distributions that Pyro lacks, or supports only for moderate arguments or equal totals."""

from .completed import completed, marginal
from .concentrated import Beta, Chi2, Dirichlet, FisherSnedecor, Gamma, InverseGamma, StudentT
from .counts import (
    BetaBinomial,
    Binomial,
    GammaPoisson,
    NegativeBinomial,
    Poisson,
    ZeroInflatedNegativeBinomial,
    ZeroInflatedPoisson,
)
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
)
from .vectors import Blocks, DirichletMultinomial, LowRankNormal, Multinomial

__all__ = [
    "Beta",
    "BetaBinomial",
    "Binomial",
    "Blocks",
    "Chi2",
    "ContinuousBernoulli",
    "DiagonalNormalMixture",
    "Dirichlet",
    "DirichletMultinomial",
    "DiscretisedLogistic",
    "FisherSnedecor",
    "FlowDistribution",
    "Gamma",
    "GammaPoisson",
    "InverseGamma",
    "LowRankNormal",
    "Multinomial",
    "NegativeBinomial",
    "OrderedLogistic",
    "Poisson",
    "StudentT",
    "VonMises",
    "Wishart",
    "ZeroInflatedNegativeBinomial",
    "ZeroInflatedPoisson",
    "completed",
    "denoised",
    "expectation",
    "features",
    "marginal",
    "noisy",
]
