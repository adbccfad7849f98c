"""Find the random generators, and the counters, that data and programs keep for themselves."""

import functools
import random
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from types import FunctionType, GeneratorType, MethodType, ModuleType
from typing import Any

import numpy as np
import torch
from torch import Tensor

from ..errors import InputError
from ..infer.compiler.places import is_library

__all__ = ["Counters", "RandomSource", "find_counters", "find_random_sources"]

RandomSource = torch.Generator | np.random.Generator | np.random.RandomState | random.Random
"""A random generator of an object's own."""

_KINDS = (torch.Generator, np.random.Generator, np.random.RandomState, random.Random)

_SKIPPED = (str, bytes, int, float, complex, type(None), Tensor, np.ndarray, ModuleType, type)

_MOST_OBJECTS = 20_000
_LONGEST = 1000
"""The search ends after so many objects, and does not enter longer containers."""


def find_random_sources(*roots: Any, refuses: bool) -> list[RandomSource]:
    """The random generators that objects can reach, apart from those of the whole process.

    Arguments:
        roots: samplers, data sets, transforms, models, guides.
        refuses: whether to refuse what has a place that cannot be saved.

    Raises:
        InputError: if it does, and an object reads from a Python generator.
    """
    found: dict[int, RandomSource] = {}
    for path, thing in _walk(roots):
        if refuses and isinstance(thing, GeneratorType):
            raise InputError(
                f"{path} is a Python generator, whose place a checkpoint cannot hold, so that the "
                "run could not be resumed: use an object that computes its next value from a "
                "torch.Generator or a number that it counts"
            )
        if isinstance(thing, _KINDS) and not _is_global(thing):
            found[id(thing)] = thing
    return list(found.values())


@dataclass
class Counters:
    """The numbers that an object counts, such as its number of passes.

    Attributes:
        owner: the object.
        start: its numbers when the fit began.
    """

    owner: Any
    start: dict[str, Any] = field(default_factory=dict)
    _seen: set[str] = field(default_factory=set)

    def __post_init__(self) -> None:
        self.start = self._numbers()

    def changed(self) -> dict[str, Any]:
        """The numbers that are others than at the start."""
        return {n: v for n, v in self._numbers().items() if self.start.get(n) != v}

    def set(self, numbers: Mapping[str, Any]) -> None:
        """Set the numbers that had changed in a saved state, and the others as at the start.

        A number that the object did not have at the start, and that has not changed, is removed.

        Raises:
            ValueError: if the object has had no such number.
        """
        present, wanted = self._numbers(), {**self.start, **numbers}
        for name, value in wanted.items():
            if name not in self._seen or not isinstance(value, bool | int | float):
                raise ValueError(f"{type(self.owner).__name__} counts no number {name!r}")
            setattr(self.owner, name, value)
        for name in present.keys() - wanted.keys():
            delattr(self.owner, name)

    def _numbers(self) -> dict[str, Any]:
        own = vars(self.owner).items()
        numbers = {name: value for name, value in own if isinstance(value, bool | int | float)}
        self._seen |= numbers.keys()
        return numbers


def find_counters(*owners: Any) -> list[Counters]:
    """The counters of objects whose classes are the user's own."""
    return [
        Counters(each)
        for each in owners
        if hasattr(each, "__dict__") and not is_library(type(each))
    ]


def _walk(roots: Iterable[Any]) -> Iterator[tuple[str, Any]]:
    """All objects that the roots can reach, with their paths."""
    pending = [(getattr(each, "__qualname__", type(each).__name__), each) for each in roots]
    seen: set[int] = set()
    while pending and len(seen) < _MOST_OBJECTS:
        path, thing = pending.pop()
        if id(thing) in seen or isinstance(thing, _SKIPPED):
            continue
        seen.add(id(thing))
        yield path, thing
        pending += [(f"{path}.{name}", each) for name, each in _parts(thing)]


def _parts(thing: Any) -> Iterator[tuple[str, Any]]:
    if isinstance(thing, _KINDS):
        return
    if isinstance(thing, MethodType):
        yield "self", thing.__self__
        yield thing.__func__.__name__, thing.__func__
    elif isinstance(thing, functools.partial):
        yield "function", thing.func
        yield from ((str(i), each) for i, each in enumerate(thing.args))
        yield from thing.keywords.items()
    elif isinstance(thing, FunctionType):
        yield from _parts_of_function(thing)
    elif isinstance(thing, Mapping):
        if isinstance(thing, dict) and len(thing) <= _LONGEST:
            yield from ((str(name), each) for name, each in list(thing.items()))
    elif isinstance(thing, list | tuple | set | frozenset):
        if len(thing) <= _LONGEST:
            yield from ((str(i), each) for i, each in enumerate(thing))
    elif hasattr(thing, "__dict__"):
        yield from list(vars(thing).items())
        for kind in type(thing).__mro__:
            if not is_library(kind):
                methods = [each for each in vars(kind).items() if isinstance(each[1], FunctionType)]
                yield from methods


def _parts_of_function(function: FunctionType) -> Iterator[tuple[str, Any]]:
    if is_library(function):
        return
    names = function.__code__.co_freevars
    for name, cell in zip(names, function.__closure__ or (), strict=True):
        try:
            yield name, cell.cell_contents
        except ValueError:  # not bound yet
            continue
    yield from ((str(i), each) for i, each in enumerate(function.__defaults__ or ()))
    yield from (function.__kwdefaults__ or {}).items()
    here = function.__globals__
    for name in function.__code__.co_names:
        if name in here and not (callable(here[name]) and is_library(here[name])):
            yield name, here[name]


def _is_global(thing: Any) -> bool:
    """Whether a generator is one of the process, whose states are saved anyway."""
    of_numpy: Any = np.random.get_state  # a method of the global generator
    of_python: Any = random.random
    globals_ = (of_numpy.__self__, of_python.__self__, torch.default_generator)
    return any(thing is each for each in globals_)
