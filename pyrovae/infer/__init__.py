"""Inference for any Pyro model and guide; nothing here knows what a VAE is."""

from .bound import Bound, evaluate_bound
from .elbo import ELBO, Loss
from .evaluate import Estimate, Evaluation, evaluate
from .importance import ImportanceEstimate, importance_sample
from .pair import Pair
from .svi import SVI

__all__ = [
    "ELBO",
    "SVI",
    "Bound",
    "Estimate",
    "Evaluation",
    "ImportanceEstimate",
    "Loss",
    "Pair",
    "evaluate",
    "evaluate_bound",
    "importance_sample",
]
