"""Strides of the program's tensors in a graph whose tensors inductor lays out anew.

Inductor stores a tensor compactly, or not at all, where the program has a view of another one. An
operator that goes by strides, ``as_strided``, is therefore given the tensor that owns the memory.
"""

from functools import cache

import torch
from torch import Tensor, library
from torch.fx import GraphModule, Node

from ..private_torch import is_recording, is_view, lower_to_stored_copy

__all__ = ["CannotCompile", "materialise", "owner_of", "use_strides_of_owners"]

_aten = torch.ops.aten

_BY_STRIDES = frozenset(
    {_aten.as_strided.default, _aten.as_strided_.default, _aten.as_strided_scatter.default}
)

_operators = library.Library("pyrovae", "FRAGMENT")
_operators.define("stored_copy(Tensor x) -> Tensor")


def _copy(x: Tensor) -> Tensor:
    return x.clone(memory_format=torch.contiguous_format)


_operators.impl("stored_copy", _copy, "CompositeExplicitAutograd")
_operators.impl("stored_copy", lambda x: x.new_empty(x.shape), "Meta")


class CannotCompile(Exception):
    """Raised where a compiled graph might differ from its recording; says why."""


def materialise(x: Tensor) -> Tensor:
    """The same values, which a compiled graph computes once and keeps, and not at each use."""
    if x.requires_grad or not is_recording():
        return x
    _lower()
    copy: Tensor = torch.ops.pyrovae.stored_copy.default(x)
    return copy


def use_strides_of_owners(graph: GraphModule) -> None:
    """Let operators that go by strides begin at the tensor that owns the memory.

    Raises:
        CannotCompile: if that tensor is not compact, so that inductor may give it other strides.
    """
    for node in graph.graph.nodes:
        if node.target not in _BY_STRIDES:
            continue
        view = node.args[0]
        owner = owner_of(view)
        is_input = owner.op == "placeholder"
        value = owner.meta["val"]
        if not is_input and not _is_compact(value):
            raise CannotCompile("as_strided is called on a tensor that is not compact")
        if owner is view:
            continue
        if node.target is not _aten.as_strided.default:
            raise CannotCompile("as_strided_ or as_strided_scatter is called on a view")
        size, stride, *rest = node.args[1:]
        given = rest[0] if rest else node.kwargs.get("storage_offset")
        offset = view.meta["val"].storage_offset() if given is None else given
        node.args = (owner, size, stride, offset)
        node.kwargs = {}
    graph.recompile()


def owner_of(node: Node) -> Node:
    """The node whose memory a node is a view of."""
    while is_view(node):
        node = node.args[0]  # type: ignore[assignment]
    return node


def _is_compact(x: Tensor) -> bool:
    """Whether the entries of a tensor fill its memory, each its own place."""
    size = 1
    for stride, length in sorted(zip(x.stride(), x.shape, strict=True)):
        if length != 1 and stride != size:
            return False
        size *= length
    return True


@cache
def _lower() -> None:
    """Tell inductor, once, how to compute the copy."""
    lower_to_stored_copy(torch.ops.pyrovae.stored_copy.default)
