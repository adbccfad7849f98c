"""Likelihoods p(x | z), declared and not coded."""

from .declaration import Likelihood
from .families import register
from .infer import infer
from .layer import LikelihoodLayer
from .mixed import Mixed, MixedLayer

__all__ = ["Likelihood", "LikelihoodLayer", "Mixed", "MixedLayer", "infer", "register"]
