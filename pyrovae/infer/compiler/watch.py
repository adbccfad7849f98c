"""What a Pyro program reads beside its arguments, and whether it has changed since.

A recorded step holds the numbers and flags of Python that were there when it was recorded. What a
program can reach is therefore listed: attributes of its modules and objects, closed-over
variables, globals that its functions name, and which tensors stand where. Reading the list again
takes microseconds.
"""

import functools
import sys
from argparse import Namespace
from collections.abc import Callable, Hashable, Iterator, Mapping
from dataclasses import dataclass
from operator import getitem, is_
from types import (
    BuiltinFunctionType,
    CodeType,
    FunctionType,
    MethodType,
    ModuleType,
    SimpleNamespace,
)
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.distributions import Distribution

__all__ = ["Watch"]

_SCALAR = (bool, int, float, complex, str, bytes, type(None), torch.dtype, torch.device, np.generic)

_LIBRARIES = frozenset({"torch", "pyro", "numpy", "scipy", "jaxtyping", "beartype"}) | frozenset(
    sys.stdlib_module_names - {"__main__"}
)
"""Packages whose functions and objects are not searched: they hold nothing that changes."""

_OWN = "pyrovae"
"""Nor do our functions; our objects may hold a user's."""

_PLAIN = (Namespace, SimpleNamespace, Distribution)
"""Objects of libraries that hold what a user puts there."""

_CONTAINERS = (list, tuple, dict)

_OF_A_CLASS = (*_SCALAR, FunctionType, Tensor, staticmethod, classmethod, property)
"""What of a class is watched."""

_MODULE_FIELDS = frozenset(vars(nn.Module())) - {"training"}
"""What torch keeps in each module; the tensors and modules among it are listed by name."""

_MOST_OBJECTS = 20_000
"""A program that reaches more is searched no further; audits see to the rest."""

_LONGEST = 100
"""Of longer lists and dicts, which are data, identity and length are watched."""


class Watch:
    """The Python state that functions can reach, as far as it is plain to see.

    Not seen are numbers that change within an array or a set, in a file, a generator or a library.

    Arguments:
        roots: models, guides, losses: functions, methods, modules or other objects.
    """

    def __init__(self, *roots: Any) -> None:
        self._roots = roots
        self._search: _Search | None = None

    def state(self) -> Hashable:
        """A key of the state as it is now; the very same object for as long as nothing changes."""
        if self._search is None or not self._search.is_current():
            self._search = _Search(self._roots)
        return self._search.state

    def objects(self) -> list[Any]:
        """What :meth:`state` names by identity; to be kept for as long as the key is."""
        self.state()
        assert self._search is not None
        return self._search.objects

    def buffers(self) -> list[Tensor]:
        """The buffers of all modules that the functions can reach."""
        self.state()
        assert self._search is not None
        return self._search.buffers

    def difference(self, before: Hashable) -> str | None:
        """A name for what is not as it was in an earlier state, or None if all is."""
        after = self.state()
        if after == before:
            return None
        assert isinstance(before, tuple)
        assert isinstance(after, tuple)
        new, old = dict(after), dict(before)
        names = [name for name, value in after if name not in old or old[name] != value]
        names += [name for name in old if name not in new]
        return ", ".join(names[:3])


@dataclass(frozen=True)
class _Slots:
    """An object whose attributes are in slots."""

    owner: Any


class _Search:
    """One walk over everything that can be reached, and quick ways to read it all again."""

    def __init__(self, roots: tuple[Any, ...]) -> None:
        self.objects: list[Any] = []
        self._seen: set[int] = set()
        self._items = _Readings(getitem)
        self._attributes = _Readings(getattr)
        self._containers: list[Any] = []
        found: list[tuple[str, Any]] = []
        pending: list[tuple[str, Any]] = [(_name_of(root), root) for root in reversed(roots)]
        while pending and len(self.objects) < _MOST_OBJECTS:
            path, thing = pending.pop()
            if id(thing) in self._seen:
                continue
            self._seen.add(id(thing))
            self.objects.append(thing)
            for place, names in _places(path, thing):
                children = self._list(path, place, names, found)
                pending.extend(reversed(children))
        self._lengths = [len(container) for container in self._containers]
        parameters = [each for each in self.objects if isinstance(each, nn.Parameter)]
        for parameter in parameters:
            self._attributes.add(parameter, "requires_grad")
            found.append(("requires_grad", parameter.requires_grad))
        self.state: Hashable = tuple(found)

    @functools.cached_property
    def buffers(self) -> list[Tensor]:
        """Those of all modules among the objects."""
        modules = (each for each in self.objects if isinstance(each, nn.Module))
        return list({id(b): b for module in modules for b in module.buffers()}.values())

    def is_current(self) -> bool:
        """Whether everything reads as it did."""
        try:
            return list(map(len, self._containers)) == self._lengths and (
                (self._items.are(is_) and self._attributes.are(is_))
                or (self._items.are(_is_same) and self._attributes.are(_is_same))
            )
        except (KeyError, IndexError, ValueError, AttributeError):  # gone, or emptied
            return False

    def _list(
        self, path: str, place: Any, names: list[Any], found: list[tuple[str, Any]]
    ) -> list[tuple[str, Any]]:
        """Note all that stands in one place; what is to be searched in turn."""
        others = []
        for name in names:
            if _is_cell(place):
                value = self._attributes.add(place, "cell_contents")
            elif isinstance(place, _Slots):
                value = self._attributes.add(place.owner, name)
            else:
                value = self._items.add(place, name)
            if isinstance(value, _SCALAR):
                found.append((f"{path}.{name}", (type(value), value)))
                continue
            others.append((f"{path}.{name}" if path else str(name), value))
            # What is in a short container is listed in its turn, so that an equal one is as good.
            if _counts_itself(value):
                found.append((f"{path}.{name}", id(value)))
        if isinstance(place, dict | list):
            self._containers.append(place)
        return others


class _Readings:
    """What was read in many places; to be read again in one go, without a call of Python each."""

    def __init__(self, read: Callable[[Any, Any], Any]) -> None:
        self._read = read
        self._places: list[Any] = []
        self._names: list[Any] = []
        self._values: list[Any] = []

    def add(self, place: Any, name: Any) -> Any:
        """Read a name in a place, now and from now on."""
        value = self._read(place, name)
        self._places.append(place)
        self._names.append(name)
        self._values.append(value)
        return value

    def are(self, same: Callable[[Any, Any], bool]) -> bool:
        """Whether all values are the same still."""
        return all(map(same, map(self._read, self._places, self._names), self._values))


def _is_same(now: Any, before: Any) -> bool:
    return now is before or (
        isinstance(before, _SCALAR) and type(now) is type(before) and bool(now == before)
    )


def _counts_itself(thing: Any) -> bool:
    """Whether another object in its place is a change, however alike."""
    if isinstance(thing, _CONTAINERS):
        return len(thing) > _LONGEST
    # Guides make plates anew in each call.
    return isinstance(thing, Distribution) or _package(type(thing)) != "pyro"


def _is_cell(place: Any) -> bool:
    return hasattr(place, "cell_contents")


def _places(path: str, thing: Any) -> Iterator[tuple[Any, list[Any]]]:
    """Where a thing keeps what it reads: dicts, lists and cells, with the names that count."""
    if isinstance(thing, nn.Module):
        own = vars(thing)
        yield own, [name for name in own if name not in _MODULE_FIELDS]
        for field in ("_parameters", "_buffers", "_modules"):
            if own[field]:
                yield own[field], list(own[field])
        for hooks in (own["_forward_hooks"], own["_forward_pre_hooks"]):
            yield hooks, list(hooks)
        yield from _class_places(type(thing))
    elif isinstance(thing, FunctionType):
        yield from _function_places(thing)
    elif isinstance(thing, MethodType):
        yield {"self": thing.__self__, "function": thing.__func__}, ["self", "function"]
    elif isinstance(thing, functools.partial):
        yield {"function": thing.func}, ["function"]
        yield list(thing.args), list(range(len(thing.args)))
        yield thing.keywords, list(thing.keywords)
    elif isinstance(thing, staticmethod | classmethod):
        yield {"function": thing.__func__}, ["function"]
    elif isinstance(thing, property):
        yield {"get": thing.fget}, ["get"]
    elif isinstance(thing, type):
        yield from _class_places(thing)
    elif isinstance(thing, Tensor | ModuleType | BuiltinFunctionType):
        return
    elif isinstance(thing, Mapping):
        if isinstance(thing, dict) and len(thing) <= _LONGEST:
            yield thing, list(thing)
    elif isinstance(thing, list | tuple):
        if len(thing) <= _LONGEST:
            yield thing, list(range(len(thing)))
    elif "." not in path or isinstance(thing, _PLAIN) or not _is_foreign(type(thing)):
        if hasattr(thing, "__dict__"):
            yield vars(thing), list(vars(thing))
        slots = [name for each in type(thing).__mro__ for name in getattr(each, "__slots__", ())]
        yield _Slots(thing), [n for n in slots if hasattr(thing, n) and not n.startswith("__")]
        yield from _class_places(type(thing))


def _class_places(kind: type) -> Iterator[tuple[Any, list[Any]]]:
    """The attributes and methods of the classes that a user has written."""
    for each in kind.__mro__:
        if not _is_library(each):
            names = [
                name
                for name, value in vars(each).items()
                if isinstance(value, _OF_A_CLASS)
                and (name == "__call__" or not name.startswith("__"))
            ]
            if names:
                yield vars(each), names


def _function_places(function: FunctionType) -> Iterator[tuple[Any, list[Any]]]:
    for cell in function.__closure__ or ():
        try:
            cell.cell_contents  # noqa: B018 - a variable that is not bound yet has none
        except ValueError:
            continue
        yield cell, ["variable"]
    defaults = function.__defaults__
    if defaults:
        yield defaults, list(range(len(defaults)))
    if function.__kwdefaults__:
        yield function.__kwdefaults__, list(function.__kwdefaults__)
    yield vars(function), list(vars(function))
    if _is_library(function):
        return
    named = _names_in(function.__code__)
    here = function.__globals__
    names = [n for n in named if n in here and not _is_fixed(here[n])]
    if names:
        yield here, names
    for name in named:
        module = here.get(name)
        if isinstance(module, ModuleType) and not _is_library(module):
            inner = [n for n in named if n in vars(module) and not _is_fixed(vars(module)[n])]
            if inner:
                yield vars(module), inner


def _names_in(code: CodeType) -> list[str]:
    """The globals and attributes that a function, and functions within it, may name."""
    names = dict.fromkeys(code.co_names)
    for constant in code.co_consts:
        if isinstance(constant, CodeType):
            names |= dict.fromkeys(_names_in(constant))
    return list(names)


def _is_fixed(value: Any) -> bool:
    """Whether it is a module, or a library's: what does not change between steps."""
    return isinstance(value, ModuleType) or (callable(value) and _is_library(value))


def _is_library(thing: Any) -> bool:
    if isinstance(thing, nn.Module | MethodType | functools.partial):
        return False
    return _package(thing) == _OWN or _is_foreign(thing)


def _is_foreign(thing: Any) -> bool:
    return _package(thing) in _LIBRARIES


def _package(thing: Any) -> str:
    name = thing.__name__ if isinstance(thing, ModuleType) else getattr(thing, "__module__", None)
    return (name or "builtins").partition(".")[0]


def _name_of(root: Any) -> str:
    return getattr(root, "__qualname__", None) or type(root).__qualname__
