"""Valid calls of the public functions, whose arguments are then replaced by nonsense."""

from . import estimates, families, observations, parts, sources, training
from .call import Call, Make

__all__ = ["CALLS", "Call", "Make"]

CALLS: dict[str, Call] = (
    parts.CALLS
    | families.CALLS
    | sources.CALLS
    | training.CALLS
    | estimates.CALLS
    | observations.CALLS
)
"""Valid calls, by the name of what is called."""
