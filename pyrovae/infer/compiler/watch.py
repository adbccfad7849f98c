"""List what a Pyro program reads besides its arguments, and detect changes.

A recorded step holds the Python numbers and flags of the moment when it was recorded. This file
therefore lists what a program can reach: attributes of its modules and objects, variables of its
closures, globals that its functions name, and which tensors are where. Reading the list again takes
microseconds.
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

__all__ = ["Watch", "is_library"]

_SCALAR = (bool, int, float, complex, str, bytes, type(None), torch.dtype, torch.device, np.generic)

_LIBRARIES = frozenset({"torch", "pyro", "numpy", "scipy", "jaxtyping", "beartype"}) | frozenset(
    sys.stdlib_module_names - {"__main__"}
)
"""Packages whose functions and objects are not searched, as they hold nothing that changes."""

_OWN = "pyrovae"
"""The functions of this package are not searched; its objects are, as they may hold a user's."""

_PLAIN = (Namespace, SimpleNamespace, Distribution)
"""Classes of libraries whose objects hold a user's values."""

_CONTAINERS = (list, tuple, dict)

_CLASS_ATTRIBUTES = (*_SCALAR, FunctionType, Tensor, staticmethod, classmethod, property)
"""Types of the class attributes that are watched."""

_MODULE_ATTRIBUTES = frozenset(vars(nn.Module())) - {"training"}
"""Attributes of every module; its tensors and submodules are listed by name instead."""

_MOST_OBJECTS = 20_000
"""The search ends after so many objects; audits cover the rest."""

_LONGEST = 100
"""Longer lists and dicts count as data: only their identity and length are watched."""


class Watch:
    """The Python state that functions can reach, with some exceptions.

    It does not detect numbers that change within an array or a set, in a file, a generator or a
    library.

    Arguments:
        roots: models, guides, losses: functions, methods, modules or other objects.
    """

    def __init__(self, *roots: Any) -> None:
        self._roots = roots
        self._search: _Search | None = None

    def state(self) -> Hashable:
        """A key of the present state; the same object for as long as nothing changes."""
        if self._search is None or not self._search.is_current():
            self._search = _Search(self._roots)
        return self._search.state

    def objects(self) -> list[Any]:
        """The objects that :meth:`state` names by identity; keep them for as long as the key."""
        self.state()
        assert self._search is not None
        return self._search.objects

    def buffers(self) -> list[Tensor]:
        """The buffers of all modules that the functions can reach."""
        self.state()
        assert self._search is not None
        return self._search.buffers

    def difference(self, before: Hashable) -> str | None:
        """The names of what changed since an earlier state, three at most; None if nothing did."""
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
    """Stands for the attributes of an object that are in slots."""

    owner: Any


class _Search:
    """One walk over everything that can be reached, and a fast way to read it all again."""

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
            for place, names in _find_places(path, thing):
                children = self._list_values(path, place, names, found)
                pending.extend(reversed(children))
        self._lengths = [len(container) for container in self._containers]
        parameters = [each for each in self.objects if isinstance(each, nn.Parameter)]
        for parameter in parameters:
            self._attributes.add(parameter, "requires_grad")
            found.append(("requires_grad", parameter.requires_grad))
        self.state: Hashable = tuple(found)

    @functools.cached_property
    def buffers(self) -> list[Tensor]:
        """The buffers of all modules among the objects."""
        modules = (each for each in self.objects if isinstance(each, nn.Module))
        return list({id(b): b for module in modules for b in module.buffers()}.values())

    def is_current(self) -> bool:
        """Whether everything reads as it did in the walk."""
        try:
            return list(map(len, self._containers)) == self._lengths and (
                (self._items.all_match(is_) and self._attributes.all_match(is_))
                or (self._items.all_match(_is_same) and self._attributes.all_match(_is_same))
            )
        except (KeyError, IndexError, ValueError, AttributeError):  # gone, or emptied
            return False

    def _list_values(
        self, path: str, place: Any, names: list[Any], found: list[tuple[str, Any]]
    ) -> list[tuple[str, Any]]:
        """List the values in one place; return those that have to be searched themselves."""
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
            # Items of a short container are listed themselves: its identity does not count.
            if _has_identity(value):
                found.append((f"{path}.{name}", id(value)))
        if isinstance(place, dict | list):
            self._containers.append(place)
        return others


class _Readings:
    """Values read in many places, which can be read again in one go, without a Python call each."""

    def __init__(self, read: Callable[[Any, Any], Any]) -> None:
        self._read = read
        self._places: list[Any] = []
        self._names: list[Any] = []
        self._values: list[Any] = []

    def add(self, place: Any, name: Any) -> Any:
        """Read a name in a place, and remember to read it again."""
        value = self._read(place, name)
        self._places.append(place)
        self._names.append(name)
        self._values.append(value)
        return value

    def all_match(self, same: Callable[[Any, Any], bool]) -> bool:
        """Whether all values are still the same."""
        return all(map(same, map(self._read, self._places, self._names), self._values))


def _is_same(now: Any, before: Any) -> bool:
    return now is before or (
        isinstance(before, _SCALAR) and type(now) is type(before) and bool(now == before)
    )


def _has_identity(thing: Any) -> bool:
    """Whether replacing the object is a change, even by an equal one."""
    if isinstance(thing, _CONTAINERS):
        return len(thing) > _LONGEST
    # Not so for Pyro's own objects: guides make new plates in each call.
    return isinstance(thing, Distribution) or _package(type(thing)) != "pyro"


def _is_cell(place: Any) -> bool:
    return hasattr(place, "cell_contents")


def _find_places(path: str, thing: Any) -> Iterator[tuple[Any, list[Any]]]:
    """The dicts, lists and cells in which an object keeps what it reads, with the names to read."""
    if isinstance(thing, nn.Module):
        own = vars(thing)
        yield own, [name for name in own if name not in _MODULE_ATTRIBUTES]
        for field in ("_parameters", "_buffers", "_modules"):
            if own[field]:
                yield own[field], list(own[field])
        for hooks in (own["_forward_hooks"], own["_forward_pre_hooks"]):
            yield hooks, list(hooks)
        yield from _find_class_places(type(thing))
    elif isinstance(thing, FunctionType):
        yield from _find_function_places(thing)
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
        yield from _find_class_places(thing)
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
        yield from _find_class_places(type(thing))


def _find_class_places(kind: type) -> Iterator[tuple[Any, list[Any]]]:
    """The watched attributes and methods of a class and its bases, without those of libraries."""
    for each in kind.__mro__:
        if not is_library(each):
            names = [
                name
                for name, value in vars(each).items()
                if isinstance(value, _CLASS_ATTRIBUTES)
                and (name == "__call__" or not name.startswith("__"))
            ]
            if names:
                yield vars(each), names


def _find_function_places(function: FunctionType) -> Iterator[tuple[Any, list[Any]]]:
    for cell in function.__closure__ or ():
        try:
            cell.cell_contents  # noqa: B018 - raises where a variable is not bound yet
        except ValueError:
            continue
        yield cell, ["variable"]
    defaults = function.__defaults__
    if defaults:
        yield defaults, list(range(len(defaults)))
    if function.__kwdefaults__:
        yield function.__kwdefaults__, list(function.__kwdefaults__)
    yield vars(function), list(vars(function))
    if is_library(function):
        return
    named = _find_names(function.__code__)
    here = function.__globals__
    names = [n for n in named if n in here and not _is_fixed(here[n])]
    if names:
        yield here, names
    for name in named:
        module = here.get(name)
        if isinstance(module, ModuleType) and not is_library(module):
            inner = [n for n in named if n in vars(module) and not _is_fixed(vars(module)[n])]
            if inner:
                yield vars(module), inner


def _find_names(code: CodeType) -> list[str]:
    """The globals and attributes that a function, or a function within it, may name."""
    names = dict.fromkeys(code.co_names)
    for constant in code.co_consts:
        if isinstance(constant, CodeType):
            names |= dict.fromkeys(_find_names(constant))
    return list(names)


def _is_fixed(value: Any) -> bool:
    """Whether a value is a module, or a function or class of a library, which do not change."""
    return isinstance(value, ModuleType) or (callable(value) and is_library(value))


def is_library(thing: Any) -> bool:
    """Whether a function or class belongs to a library, and so holds nothing of the user's."""
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
