"""Objectives by name, as they stand in YAML and on the command line."""

import inspect
from collections.abc import Mapping
from typing import Any, get_type_hints

from pydantic import TypeAdapter, ValidationError

from ..errors import InputError, did_you_mean
from .elbo import ELBO
from .enumerated import EnumeratedELBO
from .multisample import CIWAE, IWAE, MIWAE, PIWAE, RWS, DReG, Renyi, StickingTheLanding, WakeSleep
from .objective import Objective
from .objectives import BetaELBO, BetaTCVAE, Capacity, FreeBits, InfoVAE

__all__ = ["OBJECTIVES", "Declared", "objective_of"]

Declared = str | Mapping[str, Any] | Objective | ELBO
"""A name, settings with a name, or an object."""

OBJECTIVES: dict[str, type[Objective] | type[ELBO]] = {
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


def objective_of(declared: Declared) -> Objective | ELBO:
    """The objective that a word, or settings from YAML, mean; an object is what it is.

    >>> objective_of({"name": "beta", "beta": {"steps": 1000, "end": 4.0}}).beta
    Linear(steps=1000, start=0.0, end=4.0)

    Raises:
        InputError: if there is none of that name, or a setting is unknown or cannot be used.
    """
    if isinstance(declared, Objective | ELBO):
        return declared
    settings = {"name": declared} if isinstance(declared, str) else dict(declared)
    name = settings.pop("name", None)
    if name not in OBJECTIVES:
        raise InputError(f"objective cannot be {declared!r}: {did_you_mean(str(name), OBJECTIVES)}")
    kind = OBJECTIVES[name]
    hints = get_type_hints(kind.__init__)
    known = _settings(kind)
    for setting, value in settings.items():
        if setting not in known:
            advice = did_you_mean(setting, known) if known else "it has none"
            raise InputError(f"unknown setting {setting!r} of objective {name!r}: {advice}")
        try:
            settings[setting] = TypeAdapter(hints[setting]).validate_python(value)
        except ValidationError as error:
            reason = error.errors()[0]["msg"]
            if isinstance(value, Mapping):
                reason = "a schedule is {steps, start, end} or {period, cycles, ramp, start, end}"
            raise InputError(
                f"{setting} of objective {name!r} cannot be {value!r}: "
                f"{reason[0].lower()}{reason[1:]}"
            ) from None
    missing = [s for s, p in known.items() if p.default is p.empty and s not in settings]
    if missing:
        raise InputError(
            f"objective {name!r} needs {missing[0]}, as in {{name: {name}, {missing[0]}: ...}}"
        )
    return kind(**settings)


def _settings(kind: type[Objective] | type[ELBO]) -> dict[str, inspect.Parameter]:
    """The settings of an objective; not what it is told by its user's data."""
    parameters = inspect.signature(kind).parameters
    of_data = ("size", "plate", "options")
    return {name: each for name, each in parameters.items() if name not in of_data}
