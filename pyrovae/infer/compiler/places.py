"""Where objects keep what a program reads: dicts, lists, cells and slots."""

import array
import functools
import os
import sys
from argparse import Namespace
from collections import deque
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
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
from torch.distributions import Distribution, Transform

from ...described import MADE_WITH

__all__ = ["CONTENTS", "LONGEST", "Slots", "find_places", "is_library", "package_of"]

_SCALAR = (bool, int, float, complex, str, bytes, type(None), torch.dtype, torch.device, np.generic)

_LIBRARIES = frozenset({"torch", "pyro", "numpy", "scipy", "jaxtyping", "beartype"}) | frozenset(
    sys.stdlib_module_names - {"__main__"}
)
"""Packages whose functions and objects are not searched, as they hold nothing that changes."""

_OWN = "pyrovae"
"""The functions of this package are not searched; its objects are, as they may hold a user's."""

_PLAIN = (Namespace, SimpleNamespace, Distribution)
"""Classes of libraries whose objects hold a user's values."""

CONTENTS = (np.ndarray, array.array, bytearray, set)
"""Types whose contents are watched as a whole, where they are small."""

_HOOKS = ("_forward_hooks", "_forward_pre_hooks", "_backward_hooks", "_backward_pre_hooks")

_OF_PARAMETERS = ("requires_grad", "_backward_hooks", "_post_accumulate_grad_hooks")

_CLASS_ATTRIBUTES = (*_SCALAR, FunctionType, Tensor, staticmethod, classmethod, property)
"""Types of the class attributes that are watched."""

_MODULE_ATTRIBUTES = frozenset({*vars(nn.Module()), MADE_WITH}) - {"training"}
"""Attributes of every module; its tensors and submodules are listed by name instead."""

LONGEST = 100
"""Longer lists and dicts count as data: only their identity and length are watched."""


@dataclass(frozen=True)
class Slots:
    """Stands for the attributes of an object that are in slots."""

    owner: Any


def find_places(path: str, thing: Any) -> Iterator[tuple[Any, list[Any]]]:
    """The dicts, lists and cells in which an object keeps what it reads, with the names to read."""
    if isinstance(thing, nn.Module):
        own = vars(thing)
        yield own, [n for n in own if n not in _MODULE_ATTRIBUTES and not _is_cache(thing, n)]
        for field in ("_parameters", "_buffers", "_modules"):
            if own[field]:
                yield own[field], list(own[field])
        for hooks in _HOOKS:
            yield own[hooks], list(own[hooks])
        yield from _find_class_places(type(thing))
    elif isinstance(thing, nn.Parameter):
        yield Slots(thing), list(_OF_PARAMETERS)
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
    elif isinstance(thing, (Tensor, ModuleType, BuiltinFunctionType, *CONTENTS)):
        return
    elif isinstance(thing, Mapping):
        if isinstance(thing, dict) and len(thing) <= LONGEST:
            yield thing, list(thing)
    elif isinstance(thing, list | tuple | deque):
        if len(thing) <= LONGEST:
            yield thing, list(range(len(thing)))
    elif "." not in path or isinstance(thing, _PLAIN) or not _is_foreign(type(thing)):
        if hasattr(thing, "__dict__"):
            yield vars(thing), [name for name in vars(thing) if not _is_cache(thing, name)]
        slots = [name for each in type(thing).__mro__ for name in getattr(each, "__slots__", ())]
        yield Slots(thing), [n for n in slots if hasattr(thing, n) and not n.startswith("__")]
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
    if "environ" in named or "getenv" in named:
        variables = getattr(os.environ, "_data", {})
        yield variables, list(variables)
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
    return package_of(thing) == _OWN or _is_foreign(thing)


def _is_foreign(thing: Any) -> bool:
    return package_of(thing) in _LIBRARIES


def package_of(thing: Any) -> str:
    name = thing.__name__ if isinstance(thing, ModuleType) else getattr(thing, "__module__", None)
    return (name or "builtins").partition(".")[0]


def _is_cache(thing: Any, name: str) -> bool:
    """Whether an attribute keeps what a transform computed last, and new in each run."""
    return isinstance(thing, Transform) and (name.startswith("_cache") or name == "_inv")
