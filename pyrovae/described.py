"""Objects that say in plain values how to build them again, as a file keeps them.

A description holds words, numbers, lists and mappings. Built again from it is only what this
package itself defines: a description never names other code.
"""

import inspect
from collections.abc import Mapping
from functools import partial
from numbers import Integral, Real
from typing import Any, ClassVar, TypeVar

from torch import nn

from .arguments import describe
from .errors import InputError, did_you_mean

__all__ = ["MADE_WITH", "Described", "from_plain", "to_plain"]

MADE_WITH = "_made_with"
"""The attribute in which an object keeps the arguments that it was made with."""

Made = TypeVar("Made")

_CLASS, _MAKES, _SETTINGS, _ACTIVATION = "class", "makes", "settings", "torch.nn"

_ACTIVATIONS = {
    each.__name__: each
    for each in (nn.ReLU, nn.ELU, nn.GELU, nn.LeakyReLU, nn.SELU, nn.SiLU, nn.Softplus, nn.Tanh)
}

_PACKAGE = __name__.partition(".")[0]


class Described:
    """A class whose objects can be described and built again, if their arguments can."""

    _classes: ClassVar[dict[str, type["Described"]]] = {}

    def __init_subclass__(cls, **kwargs: Any) -> None:
        """Take up the classes of this package."""
        super().__init_subclass__(**kwargs)
        if cls.__module__.partition(".")[0] == _PACKAGE and not cls.__name__.startswith("_"):
            Described._classes[cls.__name__] = cls

    def __new__(cls: type[Made], *args: Any, **kwargs: Any) -> Made:
        """Keep the arguments."""
        made: Made = super().__new__(cls)  # type: ignore[misc]
        object.__setattr__(made, MADE_WITH, (_copy(args, {}), _copy(kwargs, {})))
        return made

    def describe(self) -> dict[str, Any]:
        """What it takes to build an object like this one, in plain values; see ``from_plain``.

        Raises:
            InputError: if it was made from something that a file cannot keep, such as a network of
                your own.
        """
        name = type(self).__name__
        if Described._classes.get(name) is not type(self):
            raise InputError(f"{name} is a class of your own, which a file cannot keep")
        args, kwargs = getattr(self, MADE_WITH)
        bound = inspect.signature(type(self).__init__).bind(self, *args, **kwargs)
        bound.apply_defaults()
        given = dict(list(bound.arguments.items())[1:])
        return {
            _CLASS: name,
            _SETTINGS: {key: to_plain(value, f"{key} of {name}") for key, value in given.items()},
        }


def to_plain(value: Any, what: str) -> Any:
    """A value as words, numbers, lists and mappings.

    Arguments:
        value: a plain value, a declaration, an object of a class that can be described, such a
            class, or a ``functools.partial`` of one.
        what: what to call it, for the message.

    Raises:
        InputError: if it is something else.

    >>> from pyrovae.nn import MLP
    >>> to_plain(partial(MLP, hidden=(400,)), "encoder")
    {'makes': 'MLP', 'settings': {'hidden': [400]}}
    """
    if value is None or isinstance(value, bool | str):
        return value
    if isinstance(value, Integral):
        return int(value)
    if isinstance(value, Real):
        return float(value)
    if isinstance(value, list | tuple):
        return [to_plain(each, what) for each in value]
    if isinstance(value, Mapping) and all(isinstance(key, str) for key in value):
        return {key: to_plain(each, what) for key, each in value.items()}
    if callable(getattr(value, "to_dict", None)):
        return to_plain(value.to_dict(), what)
    if isinstance(value, Described):
        return value.describe()
    settings = value.keywords if isinstance(value, partial) and not value.args else {}
    made = value.func if isinstance(value, partial) else value
    name = made.__name__ if inspect.isclass(made) else ""
    if name and Described._classes.get(name) is made:
        return {_MAKES: name, _SETTINGS: to_plain(settings, what)}
    if name and _ACTIVATIONS.get(name) is value:
        return {_ACTIVATION: name}
    raise InputError(
        f"{what} is {describe(value)}, which a file cannot keep; give a name, settings, or a part "
        "of pyrovae"
    )


def from_plain(value: Any) -> Any:
    """What :func:`to_plain` made plain; declarations stay mappings, which constructors take.

    Raises:
        InputError: if it names an unknown class, or a class does not take the settings.

    >>> from pyrovae.priors import NormalMixture
    >>> from_plain(NormalMixture(2, num_components=5).describe())().event_shape
    torch.Size([2])
    """
    if isinstance(value, list):
        return [from_plain(each) for each in value]
    if not isinstance(value, dict):
        return value
    if set(value) == {_ACTIVATION}:
        return _find(_ACTIVATIONS, value[_ACTIVATION], "activation")
    if set(value) not in ({_CLASS, _SETTINGS}, {_MAKES, _SETTINGS}):
        return {key: from_plain(each) for key, each in value.items()}
    made = _find(Described._classes, value.get(_CLASS, value.get(_MAKES)), "class")
    settings = from_plain(value[_SETTINGS])
    if not isinstance(settings, dict):
        raise InputError(f"settings of {made.__name__} are {describe(settings)}; expected names")
    if _MAKES in value:
        return partial(made, **settings) if settings else made
    try:
        inspect.signature(made).bind(**settings)
    except TypeError as error:
        raise InputError(f"{made.__name__} does not take its settings: {error}") from None
    return made(**settings)


def _copy(value: Any, copies: dict[int, Any]) -> Any:
    """Lists and mappings copied, as their owner may change them; other values as they are.

    What holds itself, or one thing in many places, does so in the copy.
    """
    if id(value) in copies:
        return copies[id(value)]
    if isinstance(value, list | tuple):
        copied: Any = []
        copies[id(value)] = copied
        copied += [_copy(each, copies) for each in value]
        return copied
    if isinstance(value, dict):
        copied = {}
        copies[id(value)] = copied
        copied |= {key: _copy(each, copies) for key, each in value.items()}
        return copied
    return value


def _find(known: Mapping[str, Any], name: Any, what: str) -> Any:
    if not isinstance(name, str) or name not in known:
        hint = did_you_mean(name if isinstance(name, str) else "", known)
        raise InputError(f"{what} cannot be {describe(name)}: {hint}")
    return known[name]
