"""Distributions of Pyro and torch that are no likelihood of features, and what to use instead."""

__all__ = ["REFUSALS"]

_MADE_OF_OTHERS = (
    "is made of other distributions or samples, which a declaration cannot name; declare the "
    "family itself (num_components=... makes a mixture of it, and Mixed joins several), or write a "
    "class"
)
_SEQUENCES = (
    "is over whole sequences, with arguments that are not of one feature each; write the model as "
    "a Pyro program and train it with fit"
)
_MATRICES = (
    "is over matrices, and a datum is a vector or an image of numbers; for correlated features use "
    "MultivariateNormal or LowRankNormal"
)
_STRUCTURES = (
    "is over matchings, trees or times of a genealogy, not over features; write the model as a "
    "Pyro program and train it with fit"
)
_NORMALS = "parametrises a joint normal in another way; use MultivariateNormal or LowRankNormal"
_DIRECTIONS = (
    "is over directions given by several angles or coordinates, whose marginals under missing "
    "entries are not known; use VonMises for each angle"
)
_RELAXED = "is a relaxation of discrete values, and data are not relaxed; use"
_OUTSIDE = "is the same on its support, and accepts values outside it; use"

_REASONS: dict[str, tuple[str, ...]] = {
    _MADE_OF_OTHERS: (
        "Delta",
        "Distribution",
        "Empirical",
        "ExpandedDistribution",
        "ExponentialFamily",
        "FoldedDistribution",
        "ImproperUniform",
        "Independent",
        "MaskedDistribution",
        "MaskedMixture",
        "MixtureSameFamily",
        "Rejector",
        "SineSkewed",
        "TorchDistribution",
        "TransformedDistribution",
        "Unit",
        "ZeroInflatedDistribution",
    ),
    _SEQUENCES: (
        "DiscreteHMM",
        "GammaGaussianHMM",
        "GaussianHMM",
        "GaussianMRF",
        "GroupedNormalNormal",
        "IndependentHMM",
        "LinearHMM",
    ),
    _MATRICES: ("LKJ", "LKJCholesky", "LKJCorrCholesky", "Wishart"),
    _STRUCTURES: (
        "CoalescentTimes",
        "CoalescentTimesWithRate",
        "OneOneMatching",
        "OneTwoMatching",
        "SpanningTree",
    ),
    _NORMALS: (
        "AVFMultivariateNormal",
        "LowRankMultivariateNormal",
        "OMTMultivariateNormal",
    ),
    _DIRECTIONS: ("ProjectedNormal", "SineBivariateVonMises", "VonMises3D"),
    f"{_RELAXED} Bernoulli, or ContinuousBernoulli for numbers from 0 to 1": (
        "RelaxedBernoulli",
        "RelaxedBernoulliStraightThrough",
    ),
    f"{_RELAXED} OneHotCategorical, or Dirichlet for shares": (
        "OneHotCategoricalStraightThrough",
        "RelaxedOneHotCategorical",
        "RelaxedOneHotCategoricalStraightThrough",
    ),
    f"{_OUTSIDE} Binomial": ("ExtendedBinomial",),
    f"{_OUTSIDE} BetaBinomial": ("ExtendedBetaBinomial",),
    "marks missing entries itself; use Normal with VAE(..., missing=True)": ("NanMaskedNormal",),
    "marks missing entries itself; use MultivariateNormal with VAE(..., missing=True)": (
        "NanMaskedMultivariateNormal",
    ),
    "mixes normals over all features at once; use Normal with num_components=..., or "
    "MultivariateNormal": (
        "GaussianScaleMixture",
        "MixtureOfDiagNormals",
        "MixtureOfDiagNormalsSharedCovariance",
    ),
    "has heavy tails in all features at once; use StudentT for each feature": (
        "MultivariateStudentT",
    ),
    "has no mean in closed form, and its samples have one entry more than its arguments; use "
    "Dirichlet": ("LogisticNormal",),
    "has no mean in closed form, from which data could be reconstructed; use AsymmetricLaplace or "
    "SoftAsymmetricLaplace": ("SkewLogistic",),
    "cannot be sampled; use NegativeBinomial": ("LogNormalNegativeBinomial",),
    "has no argument that a decoder could predict and a density that is a truncated series; use "
    "Gamma or LogNormal": ("TruncatedPolyaGamma",),
    "has a density that depends on its arguments only by where it is zero, so that they get no "
    "useful gradient; use Beta or ContinuousBernoulli": ("Uniform",),
}

REFUSALS: dict[str, str] = {name: why for why, names in _REASONS.items() for name in names}
"""For each class of Pyro or torch that is refused, by name: the reason and what to use instead."""
