"""Parts by name: what a word, or a name with settings, means in YAML and on the command line."""

import inspect
from collections.abc import Callable, Mapping
from dataclasses import fields, is_dataclass
from typing import Any, TypeVar, get_args, get_type_hints

from pydantic import TypeAdapter, ValidationError

from .errors import InputError, did_you_mean, short_repr

__all__ = ["build_part", "parse_declaration"]

Part = TypeVar("Part")

_TOO_LARGE = 2**31
"""No size or number of anything is so large."""


def build_part(
    kind: str, catalogue: Mapping[str, Callable[..., Part]], declared: Any, **context: Any
) -> Part:
    """The part that a declaration means.

    Arguments:
        kind: what such parts are called.
        catalogue: what makes each, by name.
        declared: a name, or settings with the key ``name``.
        context: what the caller knows, such as the shape of the data; each is given to what takes
            an argument of that name, and is no setting.

    Raises:
        InputError: as :func:`parse_declaration`, or from what makes the part.

    >>> build_part("power", {"square": pow}, "sqare", exp=2)
    Traceback (most recent call last):
    ...
    pyrovae.errors.InputError: power cannot be 'sqare': did you mean 'square'?
    """
    name, settings = parse_declaration(kind, catalogue, declared, *context)
    taken = inspect.signature(catalogue[name]).parameters
    takes_all = any(each.kind is each.VAR_KEYWORD for each in taken.values())
    known = {key: value for key, value in context.items() if takes_all or key in taken}
    return catalogue[name](**known, **settings)


def parse_declaration(
    kind: str, catalogue: Mapping[str, Callable[..., Any]], declared: Any, *context: str
) -> tuple[str, dict[str, Any]]:
    """The name and the checked settings of a declaration, without making anything.

    Arguments:
        kind: what such parts are called.
        catalogue: what makes each, by name.
        declared: a name, or settings with the key ``name``.
        context: names of arguments that are no settings.

    Raises:
        InputError: if there is nothing of that name, or a setting is unknown, missing, or has no
            such value.
    """
    is_named = isinstance(declared, str | Mapping)
    settings = dict(declared) if isinstance(declared, Mapping) else {"name": declared}
    name = settings.pop("name", None)
    if not (is_named and isinstance(name, str) and name in catalogue):
        raise InputError(
            f"{kind} cannot be {short_repr(declared)}: {did_you_mean(str(name), catalogue)}"
        )
    maker: Any = catalogue[name]
    hints = get_type_hints(maker.__init__ if inspect.isclass(maker) else maker)
    known = {
        key: each
        for key, each in inspect.signature(maker).parameters.items()
        if key not in context and each.kind not in (each.VAR_KEYWORD, each.VAR_POSITIONAL)
    }
    for key, value in settings.items():
        if key not in known:
            advice = did_you_mean(str(key), known) if known else "it has none"
            raise InputError(f"unknown setting {short_repr(key)} of {kind} {name!r}: {advice}")
        try:
            if isinstance(value, int) and abs(value) >= _TOO_LARGE:
                raise InputError(f"{key} of {kind} {name!r} cannot be {value:.3g}: it is too large")
            if isinstance(value, bool) and hints[key] in (int, float):
                raise InputError(f"{key} of {kind} {name!r} cannot be {value}: it must be a number")
            settings[key] = TypeAdapter(hints[key]).validate_python(value)
        except ValidationError as error:
            reason = _mappings(hints[key]) if isinstance(value, Mapping) else ""
            reason = reason or error.errors()[0]["msg"]
            raise InputError(
                f"{key} of {kind} {name!r} cannot be {short_repr(value)}: "
                f"{reason[0].lower()}{reason[1:]}"
            ) from None
    missing = [key for key, each in known.items() if each.default is each.empty]
    for key in missing:
        if key not in settings:
            raise InputError(f"{kind} {name!r} needs {key}, as in {{name: {name}, {key}: ...}}")
    return name, settings


def _mappings(hint: Any) -> str:
    """What mappings a setting may be, where it may be one at all."""
    kinds = [kind for kind in get_args(hint) if is_dataclass(kind)]
    forms = [f"{{{', '.join(field.name for field in fields(kind))}}}" for kind in kinds]
    return f"settings of it are {' or '.join(forms)}" if forms else ""
