"""What is maximised: the ELBO and its alternatives, as functions of the terms of the bound."""

from collections.abc import Callable, Mapping
from typing import Any

from ...arguments import describe
from ...declared import build_part, find_parts
from ...errors import InputError
from .elbo import ELBO
from .objective import Objective

__all__ = ["OBJECTIVES", "ObjectiveLike", "objective_of"]

ObjectiveLike = str | Mapping[str, Any] | Objective | ELBO
"""A name, settings with a name, or an object."""

OBJECTIVES: dict[str, Callable[..., Objective | ELBO]] = find_parts(__name__, __path__)
"""Objectives by name: the classes with a ``name`` in the modules of this folder."""


def objective_of(declared: ObjectiveLike) -> Objective | ELBO:
    """Build the objective that a name or settings from YAML describe; pass an object through.

    >>> objective_of({"name": "beta", "beta": {"steps": 1000, "end": 4.0}}).beta
    Linear(steps=1000, start=0.0, end=4.0)

    Raises:
        InputError: if no objective has that name, or a setting is unknown or invalid.
    """
    if isinstance(declared, Objective | ELBO):
        return declared
    if not isinstance(declared, str | Mapping):
        raise InputError(
            f"objective is {describe(declared)}; it must be an objective, one of "
            f"{', '.join(OBJECTIVES)}, or settings with the name"
        )
    return build_part("objective", OBJECTIVES, declared, size=None, plate="data")
