"""Priors p(z): modules that you call without arguments and that return a distribution."""

from collections.abc import Callable

from torch import nn

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

PRIORS: dict[str, Callable[..., nn.Module]] = {
    "standard": StandardNormal,
    "learned": LearnedNormal,
    "mixture": NormalMixture,
    "vamp": VampPrior,
    "flow": FlowPrior,
}
"""Priors by name."""
