"""Methods that draw latents from p(z | y), by name."""

from .gibbs import MetropolisWithinGibbs, PseudoGibbs
from .method import Method
from .nuts import NUTS
from .proposals import Amortised, Importance
from .refined import Refined

__all__ = [
    "METHODS",
    "NUTS",
    "Amortised",
    "Importance",
    "Method",
    "MetropolisWithinGibbs",
    "PseudoGibbs",
    "Refined",
]

METHODS: dict[str, type[Method]] = {
    "amortised": Amortised,
    "refined": Refined,
    "importance": Importance,
    "pseudo_gibbs": PseudoGibbs,
    "metropolis_within_gibbs": MetropolisWithinGibbs,
    "nuts": NUTS,
}
"""The method classes, by the name that ``posterior(..., method=...)`` takes."""
