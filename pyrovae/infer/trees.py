"""Nested arguments and results as lists of leaves, among which None counts as one."""

from collections.abc import Callable, Iterable
from typing import Any

import optree
from optree import PyTreeSpec

__all__ = ["TreeSpec", "flatten", "leaves_of", "map_leaves", "unflatten"]

TreeSpec = PyTreeSpec
"""The structure of a tree of tuples, lists, dicts and named tuples; it can be hashed."""


def flatten(tree: Any) -> tuple[list[Any], TreeSpec]:
    """The leaves of a tree, and its structure.

    >>> flatten({"x": 1, "rest": (2, None)})[0]
    [2, None, 1]
    """
    leaves, spec = optree.tree_flatten(tree, none_is_leaf=True)
    return list(leaves), spec


def unflatten(spec: TreeSpec, leaves: Iterable[Any]) -> Any:
    """The tree of that structure with these leaves."""
    return optree.tree_unflatten(spec, leaves)


def leaves_of(tree: Any) -> list[Any]:
    """The leaves of a tree."""
    return list(optree.tree_leaves(tree, none_is_leaf=True))


def map_leaves(function: Callable[[Any], Any], tree: Any) -> Any:
    """The tree with the function applied to each leaf."""
    return optree.tree_map(function, tree, none_is_leaf=True)
