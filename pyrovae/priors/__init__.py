"""Priors p(z): modules whose forward takes nothing and returns a distribution."""

from .flow import FlowPrior
from .mixture import NormalMixture
from .normal import LearnedNormal, StandardNormal
from .vamp import VampPrior

__all__ = ["FlowPrior", "LearnedNormal", "NormalMixture", "StandardNormal", "VampPrior"]
