"""Nested arguments and results as lists of leaves, among which None counts as one."""

from argparse import Namespace
from collections.abc import Callable, Iterable
from dataclasses import fields, is_dataclass
from types import SimpleNamespace
from typing import Any

import optree
from optree import PyTreeSpec

__all__ = ["TreeSpec", "flatten", "leaves_of", "map_leaves", "open_data_class", "unflatten"]

_OURS = "pyrovae"
"""The namespace of optree in which classes are opened; other users of optree do not see it."""

TreeSpec = PyTreeSpec
"""The structure of a tree of tuples, lists, dicts and named tuples; it can be hashed."""


def flatten(tree: Any) -> tuple[list[Any], TreeSpec]:
    """The leaves of a tree, and its structure.

    >>> flatten({"x": 1, "rest": (2, None)})[0]
    [2, None, 1]
    """
    leaves, spec = optree.tree_flatten(tree, none_is_leaf=True, namespace=_OURS)
    return list(leaves), spec


def unflatten(spec: TreeSpec, leaves: Iterable[Any]) -> Any:
    """The tree of that structure with these leaves."""
    return optree.tree_unflatten(spec, leaves)


def leaves_of(tree: Any) -> list[Any]:
    """The leaves of a tree."""
    return list(optree.tree_leaves(tree, none_is_leaf=True, namespace=_OURS))


def map_leaves(function: Callable[[Any], Any], tree: Any) -> Any:
    """The tree with the function applied to each leaf."""
    return optree.tree_map(function, tree, none_is_leaf=True, namespace=_OURS)


def open_data_class(thing: Any) -> bool:
    """Take objects of a data class apart from now on; False if this is none.

    >>> from dataclasses import dataclass
    >>> @dataclass
    ... class Point:
    ...     x: float
    ...     y: float
    >>> flatten(Point(1.0, 2.0))[0] == [Point(1.0, 2.0)]
    True
    >>> open_data_class(Point(1.0, 2.0)), flatten(Point(3.0, 4.0))[0]
    (True, [3.0, 4.0])
    """
    if not is_dataclass(thing) or isinstance(thing, type):
        return False
    _open(type(thing))
    return True


def _open(kind: type) -> None:
    """Let the attributes of objects of a class be branches of a tree."""

    def take_apart(thing: Any) -> tuple[list[Any], tuple[str, ...], tuple[str, ...]]:
        if hasattr(thing, "__dict__"):
            names = tuple(vars(thing))
        else:
            names = tuple(field.name for field in fields(thing))
        return [getattr(thing, name) for name in names], names, names

    def put_together(names: Any, children: Iterable[Any]) -> Any:
        thing: Any = object.__new__(kind)
        for name, child in zip(names, children, strict=True):
            object.__setattr__(thing, name, child)
        return thing

    optree.register_pytree_node(kind, take_apart, put_together, namespace=_OURS)


_open(Namespace)
_open(SimpleNamespace)
