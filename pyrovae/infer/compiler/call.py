"""The arguments of a call, taken apart into what a graph depends on and what is its input."""

from collections.abc import Hashable, Sequence
from operator import attrgetter
from typing import Any

import torch
from torch import Tensor

from ..trees import TreeSpec, flatten, unflatten

__all__ = ["Call", "layout"]

_PLAIN = (bool, int, float, complex, str, bytes, type(None), torch.dtype, torch.device)


class Call:
    """The arguments of one call.

    Arguments:
        args: those by position.
        kwargs: those by name.
        promoted: for each tree of arguments, the places where floats are inputs, as tensors.
    """

    def __init__(
        self,
        args: tuple[Any, ...],
        kwargs: dict[str, Any],
        promoted: dict[TreeSpec | None, set[int]],
    ) -> None:
        self.args = args
        self.kwargs = kwargs
        self.spec: TreeSpec | None = None
        if not kwargs and all(isinstance(arg, Tensor) for arg in args):
            self._leaves: Sequence[Any] = args
        else:
            self._leaves, self.spec = flatten((args, kwargs))
        self._promoted: set[int] | frozenset[int] = promoted.get(self.spec, frozenset())

    @property
    def is_plain(self) -> bool:
        """Whether the arguments are all that the call depends on, but for what is watched."""
        if self.spec is None:
            return not any(map(_is_trained, self._leaves))
        return all(
            not leaf.requires_grad if isinstance(leaf, Tensor) else isinstance(leaf, _PLAIN)
            for leaf in self._leaves
        )

    def signature(self) -> Hashable:
        """All that a graph depends on but the values of tensors and of promoted floats."""
        if self.spec is None:
            return tuple(map(layout, self._leaves))
        return self._without(self._promoted)

    def floats(self) -> tuple[Hashable, tuple[tuple[int, float], ...]]:
        """The signature without the floats that are not promoted, and these with their places."""
        floats = tuple(
            (place, leaf)
            for place, leaf in enumerate(self._leaves)
            if isinstance(leaf, float) and place not in self._promoted
        )
        return self._without(self._promoted.union(place for place, _ in floats)), floats

    def inputs(self) -> list[Tensor]:
        """The tensors among the arguments, and promoted floats as such, in order."""
        if self.spec is None:
            return list(self._leaves)
        return [
            leaf if isinstance(leaf, Tensor) else torch.tensor(leaf)
            for place, leaf in enumerate(self._leaves)
            if self._is_input(place, leaf)
        ]

    def with_inputs(self, tensors: Sequence[Tensor]) -> tuple[tuple[Any, ...], dict[str, Any]]:
        """The arguments with these tensors in the places of their own."""
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
        return isinstance(leaf, Tensor) or (place in self._promoted and isinstance(leaf, float))

    def _without(self, left_out: set[int] | frozenset[int]) -> Hashable:
        return self.spec, *(
            layout(leaf)
            if isinstance(leaf, Tensor)
            else (type(leaf), None if place in left_out and isinstance(leaf, float) else leaf)
            for place, leaf in enumerate(self._leaves)
        )


_is_trained = attrgetter("requires_grad")


def layout(tensor: Tensor) -> Hashable:
    """What a graph depends on in a tensor, but its values."""
    return (tensor.shape, tensor.stride(), tensor.dtype, tensor.device)
