"""Priors p(z): modules that you call without arguments and that return a distribution."""

from collections.abc import Callable

from torch import nn

from ..declared import find_parts
from .flow import FlowPrior
from .mixture import NormalMixture
from .normal import LearnedNormal, StandardNormal
from .vamp import VampPrior

__all__ = [
    "PRIORS",
    "FlowPrior",
    "LearnedNormal",
    "NormalMixture",
    "StandardNormal",
    "VampPrior",
]

PRIORS: dict[str, Callable[..., nn.Module]] = find_parts(__name__, __path__)
"""Priors by name: the classes with a ``name`` in the modules of this folder."""
