"""The arguments of a call, split into what a graph depends on and what it takes as input."""

from collections.abc import Hashable, Iterator, Sequence
from enum import Enum
from operator import attrgetter
from types import BuiltinFunctionType, FunctionType
from typing import Any

import numpy as np
import torch
from torch import Tensor

from ..trees import TreeSpec, flatten, open_data_class, unflatten
from .places import is_library
from .search import tensor_layout
from .watch import Watch

__all__ = ["Call", "Constants", "Unwatchable"]

_PLAIN = (bool, int, float, complex, str, bytes, type(None), torch.dtype, torch.device, Enum)

_MOST_CONSTANTS = 64
"""Objects among arguments that are kept; more are searched again at each call."""


class Unwatchable(Exception):
    """An argument is neither an input of a graph nor a constant; says what to give instead."""


class Constants:
    """Objects among arguments, which count by what is in them: functions, networks, sets."""

    def __init__(self) -> None:
        self._watches: dict[int, tuple[Any, Watch]] = {}

    def key(self, thing: Any) -> Hashable:
        """What a graph depends on in an object.

        Raises:
            Unwatchable: if the object may change unseen.
        """
        if isinstance(thing, set | frozenset):
            return frozenset(thing)
        if isinstance(thing, np.ndarray):
            raise Unwatchable("a NumPy array, which may change unseen; give a tensor")
        if isinstance(thing, Iterator) or not (callable(thing) or _is_users(thing)):
            raise Unwatchable(
                f"a {type(thing).__name__}, which may change unseen; give what may change as "
                "tensors, and the rest as numbers, strings, functions or a Namespace"
            )
        if id(thing) not in self._watches:
            if len(self._watches) >= _MOST_CONSTANTS:
                self._watches.clear()
            self._watches[id(thing)] = thing, Watch(thing)
        _, watch = self._watches[id(thing)]
        what: Any = type(thing)
        if isinstance(thing, FunctionType):
            what = thing.__code__
        elif isinstance(thing, BuiltinFunctionType | type):
            what = id(thing)
        return what, watch.state()

    def objects(self) -> list[Any]:
        """The objects that keys name by identity; keep them for as long as the keys."""
        return [each for _, watch in self._watches.values() for each in watch.objects()]


class Call:
    """The arguments of one call.

    Arguments:
        args: positional arguments.
        kwargs: arguments by name.
        float_inputs: for each structure of arguments, the places of floats that are inputs of the
            graph, as tensors.
        constants: looks after objects among the arguments.

    Attributes:
        of_graph: what the graph of the call takes: the inputs, and freed values of the program.
    """

    def __init__(
        self,
        args: tuple[Any, ...],
        kwargs: dict[str, Any],
        float_inputs: dict[TreeSpec | None, set[int]],
        constants: Constants,
    ) -> None:
        self.args = args
        self.kwargs = kwargs
        self.of_graph: list[Tensor] = []
        self.spec: TreeSpec | None = None
        self._constants = constants
        self._leaves: Sequence[Any] = args
        if kwargs or not _are_tensors(args):
            self._leaves, self.spec = flatten((args, kwargs))
            while any(map(open_data_class, self._leaves)):
                self._leaves, self.spec = flatten((args, kwargs))
        self._float_inputs: set[int] | frozenset[int] = float_inputs.get(self.spec, frozenset())

    def signature(self) -> Hashable:
        """All that a graph depends on, except the values of its inputs.

        Raises:
            Unwatchable: if an argument is neither an input nor a constant, and which one.
        """
        if self.spec is None:
            if any(map(_requires_grad, self._leaves)):
                self._check_gradients()
            return tuple(map(tensor_layout, self._leaves))
        self._check_gradients()
        return self._without(self._float_inputs)

    def floats(self) -> tuple[Hashable, tuple[tuple[int, float], ...]]:
        """The signature without the floats that are not inputs, and these with their places."""
        floats = tuple(
            (place, leaf)
            for place, leaf in enumerate(self._leaves)
            if isinstance(leaf, float) and place not in self._float_inputs
        )
        return self._without(self._float_inputs.union(place for place, _ in floats)), floats

    def inputs(self) -> list[Tensor]:
        """The inputs of the graph, in order: tensors, and floats made tensors."""
        if self.spec is None:
            return list(self._leaves)
        return [
            leaf if isinstance(leaf, Tensor) else torch.tensor(leaf)
            for place, leaf in enumerate(self._leaves)
            if self._is_input(place, leaf)
        ]

    def with_inputs(self, tensors: Sequence[Tensor]) -> tuple[tuple[Any, ...], dict[str, Any]]:
        """The arguments with their inputs replaced by these tensors."""
        if self.spec is None:
            return tuple(tensors), {}
        given = iter(tensors)
        leaves = [
            next(given) if self._is_input(place, leaf) else leaf
            for place, leaf in enumerate(self._leaves)
        ]
        args, kwargs = unflatten(self.spec, leaves)
        return args, kwargs

    def _is_input(self, place: int, leaf: Any) -> bool:
        return isinstance(leaf, Tensor) or (place in self._float_inputs and isinstance(leaf, float))

    def _without(self, left_out: set[int] | frozenset[int]) -> Hashable:
        return self.spec, *(
            self._key(place, leaf, is_left_out=place in left_out)
            for place, leaf in enumerate(self._leaves)
        )

    def _key(self, place: int, leaf: Any, *, is_left_out: bool) -> Hashable:
        if isinstance(leaf, Tensor):
            return tensor_layout(leaf)
        if isinstance(leaf, _PLAIN):
            return type(leaf), None if is_left_out and isinstance(leaf, float) else leaf
        try:
            return type(leaf), self._constants.key(leaf)
        except Unwatchable as error:
            raise Unwatchable(f"argument {self._name(place)} is {error}") from None

    def _check_gradients(self) -> None:
        for place, leaf in enumerate(self._leaves):
            if isinstance(leaf, Tensor) and leaf.requires_grad:
                raise Unwatchable(
                    f"argument {self._name(place)} is a tensor that needs a gradient; give "
                    "tensor.detach(), or declare it with pyro.param"
                )

    def _name(self, place: int) -> str:
        """The name of a leaf: its number among the arguments, or its name, and the way from there.

        Arguments are counted from 1.
        """
        if self.spec is None:
            return str(place + 1)
        kind, first, *rest = self.spec.paths()[place]
        name = str(first + 1) if kind == 0 else repr(first)
        return name + "".join(f"[{each!r}]" for each in rest)


_requires_grad = attrgetter("requires_grad")


def _are_tensors(args: tuple[Any, ...]) -> bool:
    for arg in args:  # noqa: SIM110 - a third of the time of all()
        if not isinstance(arg, Tensor):
            return False
    return True


def _is_users(thing: Any) -> bool:
    """Whether an object is of a class of the user's, whose attributes can be watched."""
    return hasattr(thing, "__dict__") and not is_library(type(thing))
