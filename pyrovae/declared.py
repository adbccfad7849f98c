"""Build parts from declarations: a name, or a name with settings, as in YAML or a command line."""

import inspect
from collections.abc import Callable, Iterable, Mapping
from dataclasses import fields, is_dataclass
from importlib import import_module
from numbers import Integral, Real
from pkgutil import iter_modules
from typing import Any, TypeVar, get_args, get_type_hints

from pydantic import TypeAdapter, ValidationError

from .arguments import describe
from .errors import InputError, did_you_mean, short_repr

__all__ = ["build_part", "describe_settings", "find_parts", "parse_declaration"]

Part = TypeVar("Part")

_TOO_LARGE = 2**31
"""No valid setting is an integer as large as this."""


def build_part(
    kind: str, catalogue: Mapping[str, Callable[..., Part]], declared: Any, **context: Any
) -> Part:
    """Build the part that a declaration describes.

    Arguments:
        kind: the word for such parts in messages, such as ``prior``.
        catalogue: a class or function that builds the part, for each name.
        declared: a name, or a mapping of settings with the key ``name``.
        context: arguments that the caller supplies, such as the shape of the data. Each is passed
            on if the builder takes an argument of that name; it cannot be declared as a setting.

    Raises:
        InputError: as :func:`parse_declaration`, or from the builder.

    >>> build_part("power", {"square": pow}, "sqare", exp=2)
    Traceback (most recent call last):
    ...
    pyrovae.errors.InputError: power cannot be 'sqare': did you mean 'square'?
    """
    name, settings = parse_declaration(kind, catalogue, declared, *context)
    parameters = inspect.signature(catalogue[name]).parameters
    accepts_any = any(each.kind is each.VAR_KEYWORD for each in parameters.values())
    accepted = {key: value for key, value in context.items() if accepts_any or key in parameters}
    return catalogue[name](**accepted, **settings)


def parse_declaration(
    kind: str, catalogue: Mapping[str, Callable[..., Any]], declared: Any, *context: str
) -> tuple[str, dict[str, Any]]:
    """Check a declaration and return its name and settings, without building the part.

    Arguments:
        kind: the word for such parts in messages, such as ``prior``.
        catalogue: a class or function that builds the part, for each name.
        declared: a name, or a mapping of settings with the key ``name``.
        context: names of arguments that the caller supplies, so that they are not settings.

    Raises:
        InputError: if the name is unknown, or a setting is unknown, missing or invalid.
    """
    is_declaration = isinstance(declared, str | Mapping)
    if isinstance(declared, Mapping) and not all(isinstance(key, str) for key in declared):
        raise InputError(f"names of settings of {kind} must be words; got {describe(declared)}")
    settings = dict(declared) if isinstance(declared, Mapping) else {"name": declared}
    name = settings.pop("name", None)
    if not (is_declaration and isinstance(name, str) and name in catalogue):
        hint = did_you_mean(name if isinstance(name, str) else "", catalogue)
        raise InputError(f"{kind} cannot be {describe(declared)}: {hint}")
    builder: Any = catalogue[name]
    hints = get_type_hints(builder.__init__ if inspect.isclass(builder) else builder)
    known = _find_settings(builder, context)
    for key, value in settings.items():
        if key not in known:
            advice = did_you_mean(str(key), known) if known else "it has no settings"
            raise InputError(f"unknown setting {short_repr(key)} of {kind} {name!r}: {advice}")
        value = settings[key] = _as_plain(value)
        try:
            if isinstance(value, int) and abs(value) >= _TOO_LARGE:
                raise InputError(f"{key} of {kind} {name!r} cannot be {value:.3g}: it is too large")
            if isinstance(value, bool) and hints[key] in (int, float):
                raise InputError(f"{key} of {kind} {name!r} cannot be {value}: it must be a number")
            settings[key] = TypeAdapter(hints[key]).validate_python(value)
        except ValidationError as error:
            reason = _describe_mappings(hints[key]) if isinstance(value, Mapping) else ""
            reason = reason or error.errors()[0]["msg"]
            raise InputError(
                f"{key} of {kind} {name!r} cannot be {describe(value)}: "
                f"{reason[0].lower()}{reason[1:]}"
            ) from None
    missing = [key for key, each in known.items() if each.default is each.empty]
    for key in missing:
        if key not in settings:
            raise InputError(f"{kind} {name!r} needs {key}, as in {{name: {name}, {key}: ...}}")
    return name, settings


def _as_plain(value: Any) -> Any:
    """Numbers of NumPy as those of Python, in lists and mappings, too."""
    if isinstance(value, Integral) and not isinstance(value, bool):
        return int(value)
    if isinstance(value, Real) and not isinstance(value, bool | int | float):
        return float(value)
    if isinstance(value, list | tuple):
        return [_as_plain(each) for each in value]
    if isinstance(value, Mapping):
        return {key: _as_plain(each) for key, each in value.items()}
    return value


def find_parts(package: str, path: Iterable[str]) -> dict[str, Any]:
    """Find the parts in the modules of a package: classes by their names.

    A class is a part if its module lists it in ``__all__``, and its body sets ``name``.

    Arguments:
        package: name of the package.
        path: its ``__path__``.

    >>> from pyrovae import priors
    >>> find_parts("pyrovae.priors", priors.__path__)["vamp"].__name__
    'VampPrior'
    """
    parts: dict[str, Any] = {}
    for found in iter_modules(path):
        module = import_module(f"{package}.{found.name}")
        for public in module.__all__:
            part: Any = getattr(module, public)
            name = vars(part).get("name") if inspect.isclass(part) else None
            if name in parts:
                raise ValueError(f"two parts in {package} have the name {name!r}")
            if name is not None:
                parts[name] = part
    return parts


def describe_settings(builder: Any, *context: str) -> list[str]:
    """The settings of a part with their defaults, for people to read.

    Arguments:
        builder: the class or function that builds the part.
        context: names of arguments that the caller supplies, so that they are not settings.

    >>> describe_settings(pow, "base", "exp")
    ['mod = None']
    """
    return [
        f"{name} (required)" if each.default is each.empty else f"{name} = {_format(each.default)}"
        for name, each in _find_settings(builder, context).items()
    ]


def _format(value: Any) -> str:
    return f"{value:.4g}" if isinstance(value, float) else str(value)


def _find_settings(builder: Any, context: Iterable[str]) -> dict[str, inspect.Parameter]:
    """The arguments of a builder that can be declared, by name."""
    return {
        name: each
        for name, each in inspect.signature(builder).parameters.items()
        if name not in context and each.kind not in (each.VAR_KEYWORD, each.VAR_POSITIONAL)
    }


def _describe_mappings(hint: Any) -> str:
    """The mappings that a setting accepts; an empty string if it accepts none."""
    kinds = [kind for kind in get_args(hint) if is_dataclass(kind)]
    forms = [f"{{{', '.join(field.name for field in fields(kind))}}}" for kind in kinds]
    return f"give its settings as {' or '.join(forms)}" if forms else ""
