"""Likelihoods p(x | z), declared and not coded."""

from .families import register
from .layer import LikelihoodLayer
from .likelihood import Likelihood, Mixed, infer
from .mixed import MixedLayer

__all__ = ["Likelihood", "LikelihoodLayer", "Mixed", "MixedLayer", "infer", "register"]
