"""Objectives by the names that YAML files and the command line use."""

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
    """Build the objective that a name or settings from YAML describe; pass an object through.

    >>> objective_of({"name": "beta", "beta": {"steps": 1000, "end": 4.0}}).beta
    Linear(steps=1000, start=0.0, end=4.0)

    Raises:
        InputError: if no objective has that name, or a setting is unknown or invalid.
    """
    if isinstance(declared, Objective | ELBO):
        return declared
    return build_part("objective", OBJECTIVES, declared, size=None, plate="data")
