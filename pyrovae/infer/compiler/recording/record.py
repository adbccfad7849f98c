"""Record a function of a Pyro program as a graph of tensor operations.

The function runs once for real, with Pyro's messengers and the backward pass, while ``make_fx``
records each tensor operation. A program that depends on more than tensor operations is refused
rather than recorded with the values of one run: control flow on noise, random numbers of Python or
NumPy. Values that a program reads of its arguments, parameters and data become conditions.
"""

import warnings
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import pyro
import torch
from torch import Tensor
from torch.fx import GraphModule, Node
from torch.fx.experimental.proxy_tensor import make_fx

from ...private_torch import is_view, recording_quickly, written_nodes
from .conditions import Conditions, take_conditions
from .draws import watch_random_draws
from .errors import CannotRecord
from .reads import ReadFunctions, ReadOperators, Reads

__all__ = ["Recording", "record"]


@dataclass(frozen=True)
class Recording:
    """A recorded function.

    Attributes:
        graph: takes the tensors of ``reads``, then the inputs; returns a list of tensors.
        reads: tensors that the function reads besides its inputs: parameters, buffers, data.
        writes: the tensors among them that it changes, such as running means.
        result: the results of the function in the recorded run.
        conditions: the values that the program reads, which must be those of the recorded run.
    """

    graph: GraphModule
    reads: list[Tensor]
    writes: list[Tensor]
    result: list[Tensor]
    conditions: Conditions

    def __call__(self, *inputs: Tensor) -> list[Tensor]:
        """Run the operations one by one, without the Python code of the program."""
        result: list[Tensor] = self.graph(*self.reads, *inputs)
        return result


def record(function: Callable[..., list[Tensor]], inputs: Sequence[Tensor]) -> Recording:
    """Run a function on real tensors and record it.

    Raises:
        CannotRecord: if a replay would differ from the function.
    """
    result: list[Tensor] = []
    reads = Reads()

    def run_program(*tensors: Tensor) -> list[Tensor]:
        with ReadFunctions(reads) as functions, ReadOperators(reads):
            result[:] = function(*tensors)
        functions.check_entries()
        shaped = [tensor for tensor in reads.needed_for if tensor is not None]
        return [*result, *reads.tensors, *shaped]

    with pyro.validation_enabled(False), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        with watch_random_draws() as draws, recording_quickly():
            # Detached, so that a tensor in two places, or held by the program too, stays apart.
            graph = make_fx(run_program)(*[tensor.detach() for tensor in inputs])
    real = [tensor.detach() for tensor in result]
    if draws:
        raise CannotRecord(draws[0], real)
    written = _find_written(graph)
    held = _lift(graph)
    try:
        conditions = take_conditions(graph, len(result), reads)
    except CannotRecord as error:
        raise CannotRecord(str(error), real) from error
    return Recording(graph, held, [t for t in held if id(t) in written], real, conditions)


def _find_written(graph: GraphModule) -> set[int]:
    """Identities of the tensors held by the graph that some operation writes to."""
    written: set[int] = set()
    for node in graph.graph.nodes:
        for each in written_nodes(node):
            written |= _find_held(each, graph)
    return written


def _find_held(node: Node, graph: GraphModule) -> set[int]:
    """Identity of the tensor held by the graph that a node is, or is a view of."""
    while is_view(node):
        node = node.args[0]  # type: ignore[assignment]
    return {id(getattr(graph, str(node.target)))} if node.op == "get_attr" else set()


def _lift(graph: GraphModule) -> list[Tensor]:
    """Make inputs of the tensors that the graph holds, except constants made by Python."""
    first = next(iter(graph.graph.nodes))
    inputs: dict[int, Node] = {}
    reads: list[Tensor] = []
    constant = torch.ops.aten.lift_fresh_copy.default
    for node in list(graph.graph.nodes):
        if node.op != "get_attr" or any(user.target is constant for user in node.users):
            continue
        tensor = getattr(graph, node.target)
        if id(tensor) not in inputs:
            with graph.graph.inserting_before(first):
                inputs[id(tensor)] = graph.graph.placeholder(f"read_{len(reads)}")
            reads.append(tensor)
        node.replace_all_uses_with(inputs[id(tensor)])
        graph.graph.erase_node(node)
    graph.graph.lint()
    graph.recompile()
    return reads
