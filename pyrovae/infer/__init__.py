"""Inference for any Pyro model and guide; nothing here knows what a VAE is."""

from .ais import (
    AnnealedEstimate,
    BidirectionalEstimate,
    annealed_importance_sample,
    bidirectional_check,
)
from .bound import Bound, evaluate_bound
from .catalogue import OBJECTIVES, objective_of
from .collapse import LatentReport, latent_report
from .elbo import ELBO, Loss
from .enumerated import EnumeratedELBO
from .evaluate import Estimate, Evaluation, evaluate
from .gap import InferenceGap, inference_gap
from .importance import ImportanceEstimate, importance_sample
from .multisample import CIWAE, IWAE, MIWAE, PIWAE, RWS, DReG, Renyi, StickingTheLanding, WakeSleep
from .objective import Objective
from .objectives import BetaELBO, BetaTCVAE, Capacity, FreeBits, InfoVAE
from .pair import Pair
from .schedules import Cyclical, Linear
from .svi import SVI

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
