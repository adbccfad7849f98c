"""One walk over everything that a program can reach, and a fast way to read it all again."""

import functools
from collections import deque
from collections.abc import Callable, Hashable, Sequence
from dataclasses import dataclass
from operator import eq, getitem, is_
from types import MappingProxyType
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.distributions import Distribution

from ..private_torch import global_module_hooks
from .places import CONTENTS, LONGEST, Slots, find_places, package_of

__all__ = ["Place", "Search", "tensor_layout"]

_SCALAR = (bool, int, float, complex, str, bytes, type(None), torch.dtype, torch.device, np.generic)

_CONTAINERS = (list, tuple, dict, deque)

_MOST_BYTES = 2**13
"""Larger arrays count as data: only their identity is watched."""

_OBJECTS = np.dtype(object)

_MOST_OBJECTS = 20_000
"""The search ends after so many objects; audits cover the rest."""


@dataclass(frozen=True)
class Place:
    """Where a program keeps a float or a tensor: an item, a variable of a closure, or a slot."""

    path: str
    owner: Any
    name: Any

    @property
    def key(self) -> tuple[int, Any]:
        """Identifies the place; the owner is kept, so that its id is not used again."""
        return id(self.owner), self.name

    def get(self) -> Any:
        """The value in this place."""
        return self._read(self.owner, self.name)

    def set(self, value: Any) -> None:
        """Put a value into this place."""
        if isinstance(self.owner, dict | list | deque):
            self.owner[self.name] = value
        else:
            setattr(self.owner, self.name, value)

    @property
    def _read(self) -> Callable[[Any, Any], Any]:
        return getitem if isinstance(self.owner, dict | list | deque) else getattr


def tensor_layout(tensor: Tensor) -> Hashable:
    """All that a graph depends on in a tensor, except its values."""
    return (tensor.shape, tensor.stride(), tensor.dtype, tensor.device)


def _kind_of_input(value: Any) -> Hashable:
    """What a graph depends on in a value that is its input; None if it cannot be one."""
    if type(value) is float:
        return float
    return tensor_layout(value) if type(value) is Tensor and not value.requires_grad else None


class Search:
    """One walk over everything that can be reached, and a fast way to read it all again.

    Arguments:
        roots: where it begins.
        free: places that are no part of the state, apart from the kind of what is there.

    Attributes:
        objects: all that was found.
        inputs: the places that may be freed, by their numbers in the state.
        freed: the places among those to free that were found.
        state: paths and values.
    """

    def __init__(self, roots: tuple[Any, ...], free: Sequence[Place]) -> None:
        self.objects: list[Any] = []
        self.inputs: dict[int, Place] = {}
        self.freed: list[Place] = []
        self._kinds: list[Hashable] = []
        self._free = {place.key for place in free}
        self._contents = _Readings(_read_content)
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
            for place, names in find_places(path, thing):
                children = self._list_values(path, place, names, found)
                pending.extend(reversed(children))
        for hooks in global_module_hooks():
            self._list_values("hooks of all modules", hooks, list(hooks), found)
        self._lengths = [len(container) for container in self._containers]
        self.state: Hashable = tuple(found)

    @functools.cached_property
    def modules(self) -> list[nn.Module]:
        """The modules among the objects, and their parts, each once."""
        found = (each for each in self.objects if isinstance(each, nn.Module))
        return list({id(part): part for each in found for part in each.modules()}.values())

    @functools.cached_property
    def buffers(self) -> list[Tensor]:
        """The buffers of all modules among the objects."""
        return list({id(b): b for module in self.modules for b in module.buffers()}.values())

    def is_current(self) -> bool:
        """Whether everything reads as it did in the walk."""
        try:
            return (
                list(map(len, self._containers)) == self._lengths
                and (
                    (self._items.all_match(is_) and self._attributes.all_match(is_))
                    or (self._items.all_match(_is_same) and self._attributes.all_match(_is_same))
                )
                and (not self._contents or self._contents.all_match(eq))
                and (not self.freed or [_kind_of_input(f.get()) for f in self.freed] == self._kinds)
            )
        except (KeyError, IndexError, ValueError, AttributeError):  # gone, or emptied
            return False

    def _list_values(
        self, path: str, place: Any, names: list[Any], found: list[tuple[str, Any]]
    ) -> list[tuple[str, Any]]:
        """List the values in one place; return those that have to be searched themselves."""
        others = []
        for name in names:
            where = f"{path}.{name}"
            if _is_cell(place):
                owner, key, readings = place, "cell_contents", self._attributes
            elif isinstance(place, Slots):
                owner, key, readings = place.owner, name, self._attributes
            else:
                owner, key, readings = place, name, self._items
            if (id(owner), key) in self._free:
                place_of_input = Place(where, owner, key)
                kind = _kind_of_input(place_of_input.get())
                if kind is not None:
                    self.freed.append(place_of_input)
                    self._kinds.append(kind)
                    found.append((where, kind))
                    continue
            value = readings.add(owner, key)
            if _kind_of_input(value) is not None and not isinstance(
                owner, tuple | MappingProxyType
            ):
                self.inputs[len(found)] = Place(where, owner, key)
            if isinstance(value, _SCALAR):
                found.append((where, (type(value), value)))
                continue
            if isinstance(value, CONTENTS) and _is_small(value):
                found.append((where, self._contents.add(value, None)))
            others.append((f"{path}.{name}" if path else str(name), value))
            # Items of a short container are listed themselves: its identity does not count.
            if _has_identity(value):
                found.append((f"{path}.{name}", (type(value), id(value))))
        if isinstance(place, dict | list | deque):
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

    def __len__(self) -> int:
        return len(self._values)

    def all_match(self, same: Callable[[Any, Any], bool]) -> bool:
        """Whether all values are still the same."""
        return all(map(same, map(self._read, self._places, self._names), self._values))


def _is_small(thing: Any) -> bool:
    """Whether the contents of an array or a set are watched."""
    if isinstance(thing, set):
        return len(thing) <= LONGEST
    num_bytes = thing.nbytes if isinstance(thing, np.ndarray) else len(memoryview(thing).cast("B"))
    return num_bytes <= _MOST_BYTES and getattr(thing, "dtype", None) is not _OBJECTS


def _read_content(thing: Any, _: None) -> Hashable:
    """The contents of an array or a set."""
    if isinstance(thing, set):
        return frozenset(thing)
    return (thing.shape, thing.tobytes()) if isinstance(thing, np.ndarray) else bytes(thing)


def _is_same(now: Any, before: Any) -> bool:
    return now is before or (
        isinstance(before, _SCALAR) and type(now) is type(before) and bool(now == before)
    )


def _has_identity(thing: Any) -> bool:
    """Whether replacing the object is a change, even by an equal one."""
    if isinstance(thing, _CONTAINERS):
        return len(thing) > LONGEST
    # Not so for Pyro's own objects: guides make new plates in each call.
    return isinstance(thing, Distribution) or package_of(type(thing)) != "pyro"


def _is_cell(place: Any) -> bool:
    return hasattr(place, "cell_contents")


def _name_of(root: Any) -> str:
    return getattr(root, "__qualname__", None) or type(root).__qualname__
