"""The values on which a recording depends, computed before each run of it."""

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor
from torch.fx import Graph, GraphModule, Node

from ...private_torch import is_operator, is_view, written_nodes
from .errors import CannotRecord
from .reads import Reads

__all__ = ["Conditions", "take_conditions"]


class Conditions:
    """Values that a program reads, which must be those of the recorded run.

    Arguments:
        graph: computes the values from what the recording reads and its inputs.
        values: those of the recorded run.
        places: where they are read, in words.
    """

    def __init__(self, graph: GraphModule, values: Sequence[Tensor], places: list[str]) -> None:
        self._graph = graph
        self.places = places
        self._values = list(values)

    def __bool__(self) -> bool:
        return bool(self._values)

    def hold(self, tensors: Sequence[Tensor]) -> bool:
        """Whether all values are those of the recorded run, for these reads and inputs."""
        if not self._values:
            return True
        try:
            with torch.no_grad():
                values = self._graph(*tensors)
        except (RuntimeError, IndexError):  # shapes that an earlier condition would have excluded
            return False
        return all(map(torch.equal, values, self._values))


def take_conditions(graph: GraphModule, num_results: int, reads: Reads) -> Conditions:
    """Take the values that are read out of a graph, which has them behind its results.

    Raises:
        CannotRecord: if a value depends on random numbers, or on a tensor that the step changes.
    """
    (output,) = (node for node in graph.graph.nodes if node.op == "output")
    results, rest = output.args[0][:num_results], output.args[0][num_results:]
    output.args = (results,)
    read, shaped = rest[: len(reads.values)], iter(rest[len(reads.values) :])
    needed_for = [None if each is None else next(shaped) for each in reads.needed_for]
    unused = set(_find_unused(graph))
    memory = _Memory(graph)
    copy, copies = Graph(), dict[Node, Node]()
    for node in graph.graph.nodes:
        if node.op == "placeholder":
            copies[node] = copy.node_copy(node)
    outputs, values, places = [], [], []
    all_reads = zip(read, reads.values, reads.places, needed_for, strict=True)
    for node, value, place, shaped_by_it in all_reads:
        if shaped_by_it in unused:
            continue
        needed = memory.find_needed(node)
        for each in needed:
            if _is_random(each):
                raise CannotRecord(
                    f"{place}, and it depends on random numbers; compute with tensors instead, as "
                    "by torch.where or pyro.poutine.mask"
                )
            if each.op == "placeholder" and memory.is_written(each, before=node):
                raise CannotRecord(f"{place}, which the step has changed before")
        if all(each.op != "placeholder" for each in needed):
            continue  # the same in each run
        for each in sorted(needed, key=memory.order.__getitem__):
            if each not in copies:
                copies[each] = copy.node_copy(each, copies.__getitem__)
        outputs.append(copies[node])
        values.append(value)
        places.append(place)
    copy.output(outputs)
    for node in reversed(_find_unused(graph)):
        graph.graph.erase_node(node)
    graph.recompile()
    return Conditions(GraphModule(graph, copy), values, places)


class _Memory:
    """Which nodes of a graph share their memory, and which operations write to it.

    Attributes:
        order: the places of the nodes in the graph.
    """

    def __init__(self, graph: GraphModule) -> None:
        self.order: dict[Node, int] = {}
        self._owners: dict[Node, Node] = {}
        self._writes: dict[Node, list[Node]] = {}
        for place, node in enumerate(graph.graph.nodes):
            self.order[node] = place
            written = written_nodes(node)
            is_same = is_view(node) or (node.args and node.args[0] in written)
            first: Any = node.args[0] if is_same else None
            self._owners[node] = node if first is None else self._owners[first]
            for each in written:
                self._writes.setdefault(self._owners[each], []).append(node)

    def is_written(self, node: Node, *, before: Node) -> bool:
        """Whether something has written to the memory of a node before another one ran."""
        return bool(self._find_writes(node, self.order[before]))

    def find_needed(self, node: Node) -> set[Node]:
        """The node, all that it is computed from, and what has written to any of that."""
        time = self.order[node]
        found, pending = {node}, [node]
        while pending:
            each = pending.pop()
            new = {*each.all_input_nodes, *self._find_writes(each, time)} - found
            found |= new
            pending += new
        return found

    def _find_writes(self, node: Node, time: int) -> list[Node]:
        """The operations that write to the memory of a node before a place in the graph."""
        writes = self._writes.get(self._owners[node], ())
        return [each for each in writes if self.order[each] < time]


def _is_random(node: Node) -> bool:
    target: Any = node.target
    return is_operator(target) and torch.Tag.nondeterministic_seeded in target.tags


def _root(node: Node) -> Node:
    """The node that a node is a view of, or that it writes to and returns."""
    while is_view(node) or node.args[:1] == tuple(written_nodes(node)[:1]) != ():
        node = node.args[0]  # type: ignore[assignment]
    return node


def _find_unused(graph: GraphModule) -> list[Node]:
    """The nodes that nothing needs, in the order of the graph.

    Random draws are needed, as they move the generator on.
    """
    unused: set[Node] = set()
    for node in reversed(graph.graph.nodes):
        is_pure = node.op in ("call_function", "get_attr") and not node.is_impure()
        if is_pure and not _is_random(node) and unused.issuperset(node.users):
            unused.add(node)
    return [node for node in graph.graph.nodes if node in unused]
