"""Distributions that Pyro lacks, or supports only for moderate arguments or equal totals."""

from .completed import completed, marginal
from .concentrated import (
    AffineBeta,
    Beta,
    Chi2,
    FisherSnedecor,
    Gamma,
    InverseGamma,
    Kumaraswamy,
    StudentT,
)
from .counts import (
    Bernoulli,
    BetaBinomial,
    Binomial,
    GammaPoisson,
    Geometric,
    NegativeBinomial,
    Poisson,
    ZeroInflatedNegativeBinomial,
    ZeroInflatedPoisson,
)
from .features import expectation, features
from .flows import FlowDistribution
from .joint import Dirichlet, MultivariateNormal, OneHotCategorical
from .matrices import Wishart
from .mixtures import DiagonalNormalMixture
from .noisy import denoised, noisy
from .scalars import (
    ContinuousBernoulli,
    DiscretisedLogistic,
    OrderedLogistic,
    SoftAsymmetricLaplace,
    VonMises,
)
from .vectors import Blocks, DirichletMultinomial, LowRankNormal, Multinomial, as_joint_normal

__all__ = [
    "AffineBeta",
    "Bernoulli",
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
    "Geometric",
    "InverseGamma",
    "Kumaraswamy",
    "LowRankNormal",
    "Multinomial",
    "MultivariateNormal",
    "NegativeBinomial",
    "OneHotCategorical",
    "OrderedLogistic",
    "Poisson",
    "SoftAsymmetricLaplace",
    "StudentT",
    "VonMises",
    "Wishart",
    "ZeroInflatedNegativeBinomial",
    "ZeroInflatedPoisson",
    "as_joint_normal",
    "completed",
    "denoised",
    "expectation",
    "features",
    "marginal",
    "noisy",
]
