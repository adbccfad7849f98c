"""Objectives by name, as they stand in YAML and on the command line."""

from collections.abc import Callable, Mapping
from typing import Any

from ...declared import build_part
from .elbo import ELBO
from .enumerated import EnumeratedELBO
from .multisample import CIWAE, IWAE, MIWAE, PIWAE, RWS, DReG, Renyi, StickingTheLanding, WakeSleep
from .objective import Objective
from .weighted import BetaELBO, BetaTCVAE, Capacity, FreeBits, InfoVAE

__all__ = ["OBJECTIVES", "ObjectiveLike", "objective_of"]

ObjectiveLike = str | Mapping[str, Any] | Objective | ELBO
"""A name, settings with a name, or an object."""

OBJECTIVES: dict[str, Callable[..., Objective | ELBO]] = {
    "elbo": ELBO,
    **{
        kind.name: kind
        for kind in (
            BetaELBO,
            Capacity,
            FreeBits,
            BetaTCVAE,
            InfoVAE,
            IWAE,
            StickingTheLanding,
            DReG,
            Renyi,
            MIWAE,
            PIWAE,
            CIWAE,
            RWS,
            WakeSleep,
            EnumeratedELBO,
        )
    },
}
"""Objectives by name."""


def objective_of(declared: ObjectiveLike) -> Objective | ELBO:
    """The objective that a word, or settings from YAML, mean; an object is what it is.

    >>> objective_of({"name": "beta", "beta": {"steps": 1000, "end": 4.0}}).beta
    Linear(steps=1000, start=0.0, end=4.0)

    Raises:
        InputError: if there is none of that name, or a setting is unknown or cannot be used.
    """
    if isinstance(declared, Objective | ELBO):
        return declared
    return build_part("objective", OBJECTIVES, declared, size=None, plate="data")
