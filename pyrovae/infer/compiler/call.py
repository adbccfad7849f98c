"""The arguments of a call, split into what a graph depends on and what it takes as input."""

from collections.abc import Hashable, Sequence
from operator import attrgetter
from typing import Any

import torch
from torch import Tensor

from ..trees import TreeSpec, flatten, unflatten

__all__ = ["Call", "tensor_layout"]

_PLAIN = (bool, int, float, complex, str, bytes, type(None), torch.dtype, torch.device)


class Call:
    """The arguments of one call.

    Arguments:
        args: positional arguments.
        kwargs: arguments by name.
        float_inputs: for each structure of arguments, the places of floats that are inputs of the
            graph, as tensors.
    """

    def __init__(
        self,
        args: tuple[Any, ...],
        kwargs: dict[str, Any],
        float_inputs: dict[TreeSpec | None, set[int]],
    ) -> None:
        self.args = args
        self.kwargs = kwargs
        self.spec: TreeSpec | None = None
        if not kwargs and all(isinstance(arg, Tensor) for arg in args):
            self._leaves: Sequence[Any] = args
        else:
            self._leaves, self.spec = flatten((args, kwargs))
        self._float_inputs: set[int] | frozenset[int] = float_inputs.get(self.spec, frozenset())

    @property
    def is_plain(self) -> bool:
        """Whether all arguments are plain: tensors without gradients, numbers, strings or None."""
        if self.spec is None:
            return not any(map(_requires_grad, self._leaves))
        return all(
            not leaf.requires_grad if isinstance(leaf, Tensor) else isinstance(leaf, _PLAIN)
            for leaf in self._leaves
        )

    def signature(self) -> Hashable:
        """All that a graph depends on, except the values of its inputs."""
        if self.spec is None:
            return tuple(map(tensor_layout, self._leaves))
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
            tensor_layout(leaf)
            if isinstance(leaf, Tensor)
            else (type(leaf), None if place in left_out and isinstance(leaf, float) else leaf)
            for place, leaf in enumerate(self._leaves)
        )


_requires_grad = attrgetter("requires_grad")


def tensor_layout(tensor: Tensor) -> Hashable:
    """All that a graph depends on in a tensor, except its values."""
    return (tensor.shape, tensor.stride(), tensor.dtype, tensor.device)
