"""Gaussian mixtures, fitted by EM and by variational inference, which you can compare by step."""

from .bayesian.conjugate import Posterior, Prior
from .bayesian.coordinate_ascent import coordinate_ascent
from .bayesian.evidence import Evidence, log_evidence
from .bayesian.program import BayesianGuide, BayesianMixtureModel, Draws, bayesian_svi, nuts
from .climb import Climb, State, bound_terms, record
from .em import em, floor_of, monte_carlo_em
from .estimators import BayesianGaussianMixture, DegenerateComponentWarning, GaussianMixture
from .gradient import amortised_vi, free_vi
from .mixture import CovarianceType, Mixture
from .points import as_points, check_fittable
from .program import AmortisedGuide, FreeGuide, MixtureModel
from .start import k_means_plus_plus
from .toy import TOY, toy

__all__ = [
    "TOY",
    "AmortisedGuide",
    "BayesianGaussianMixture",
    "BayesianGuide",
    "BayesianMixtureModel",
    "Climb",
    "CovarianceType",
    "DegenerateComponentWarning",
    "Draws",
    "Evidence",
    "FreeGuide",
    "GaussianMixture",
    "Mixture",
    "MixtureModel",
    "Posterior",
    "Prior",
    "State",
    "amortised_vi",
    "as_points",
    "bayesian_svi",
    "bound_terms",
    "check_fittable",
    "coordinate_ascent",
    "em",
    "floor_of",
    "free_vi",
    "k_means_plus_plus",
    "log_evidence",
    "monte_carlo_em",
    "nuts",
    "record",
    "toy",
]
