"""Likelihoods p(x | z), declared and not coded."""

from .declaration import Likelihood
from .families import register
from .layer import LikelihoodLayer

__all__ = ["Likelihood", "LikelihoodLayer", "register"]
