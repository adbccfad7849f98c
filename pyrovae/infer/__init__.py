"""Inference for any Pyro model and guide: nothing in this package is specific to VAEs."""

from .estimators.ais import (
    AnnealedEstimate,
    BidirectionalEstimate,
    annealed_importance_sample,
    bidirectional_check,
)
from .estimators.collapse import LatentReport, latent_report
from .estimators.evaluate import Estimate, Evaluation, evaluate
from .estimators.gap import InferenceGap, inference_gap
from .estimators.importance import ImportanceEstimate, importance_sample
from .objectives.catalogue import OBJECTIVES, objective_of
from .objectives.elbo import ELBO, Loss
from .objectives.enumerated import EnumeratedELBO
from .objectives.multisample import (
    CIWAE,
    IWAE,
    MIWAE,
    PIWAE,
    RWS,
    DReG,
    Renyi,
    StickingTheLanding,
    WakeSleep,
)
from .objectives.objective import Objective
from .objectives.schedules import Cyclical, Linear
from .objectives.weighted import BetaELBO, BetaTCVAE, Capacity, FreeBits, InfoVAE
from .pair.bound import Bound, evaluate_bound
from .pair.pair import Pair
from .svi.svi import SVI

__all__ = [
    "CIWAE",
    "ELBO",
    "IWAE",
    "MIWAE",
    "OBJECTIVES",
    "PIWAE",
    "RWS",
    "SVI",
    "AnnealedEstimate",
    "BetaELBO",
    "BetaTCVAE",
    "BidirectionalEstimate",
    "Bound",
    "Capacity",
    "Cyclical",
    "DReG",
    "EnumeratedELBO",
    "Estimate",
    "Evaluation",
    "FreeBits",
    "ImportanceEstimate",
    "InferenceGap",
    "InfoVAE",
    "LatentReport",
    "Linear",
    "Loss",
    "Objective",
    "Pair",
    "Renyi",
    "StickingTheLanding",
    "WakeSleep",
    "annealed_importance_sample",
    "bidirectional_check",
    "evaluate",
    "evaluate_bound",
    "importance_sample",
    "inference_gap",
    "latent_report",
    "objective_of",
]
