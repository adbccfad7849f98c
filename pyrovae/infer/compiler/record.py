"""Record a function of a Pyro program as a graph of tensor operations.

The function runs once for real, with Pyro's messengers and the backward pass, while ``make_fx``
records each tensor operation. A program that depends on more than tensor operations is refused
rather than recorded with the values of one run: control flow on values, shapes that depend on
values, random numbers of Python or NumPy.
"""

import random
import sys
import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from sysconfig import get_path
from types import FrameType
from typing import Any

import jaxtyping
import numpy as np
import pyro
import torch
from torch import Tensor
from torch.fx import GraphModule, Node
from torch.fx.experimental.proxy_tensor import make_fx
from torch.overrides import TorchFunctionMode

from ..private_torch import is_operator, written_nodes

__all__ = ["CannotRecord", "Recording", "record"]

_TORCH = str(Path(torch.__file__).parent)
_PYRO = str(Path(pyro.__file__).parent)
_OURS = str(Path(__file__).parents[1])
_HERE = (
    __file__,
    torch.overrides.__file__,
    str(Path(torch.fx.__file__).parent),
    str(Path(jaxtyping.__file__).parent),
    "<@beartype",
)
"""Frames between a method of a tensor and its caller: this file, make_fx, and type checkers."""

_DRAW_FOR_THEMSELVES = (_TORCH, str(Path(_TORCH).with_name("sympy")), "<@beartype")
"""Libraries that draw random numbers while torch records: names of symbols, items to type-check."""

_LIBRARIES = (
    _PYRO,
    _OURS,
    "<string>",
    "<frozen",
    *_HERE,
    *(get_path(kind) for kind in ("stdlib", "purelib", "platlib")),
)

_SHARED: Any = random.random.__self__  # type: ignore[attr-defined]
"""The generator behind the functions of Python's ``random``."""

_SHAPED_BY_VALUES = frozenset(
    {"__getitem__", "masked_select", "nonzero", "argwhere", "where", "unique", "unique_consecutive"}
    | {"repeat_interleave", "bincount"}
)
"""Functions of tensors that may return a tensor whose shape depends on values."""

_READS = frozenset(
    {"item", "tolist", "numpy", "__bool__", "__float__", "__int__", "__index__", "__array__"}
    | {"equal", "allclose", "is_nonzero", "__contains__"}
)
"""Functions of tensors that read a value into Python."""

_PROPERTIES = frozenset({"__get__", "size", "dim", "stride", "__len__", "numel"})
"""Functions of tensors that compute nothing."""

_MOST_CALLS = 3000
"""Most calls of tensor functions in a program; more would take minutes to compile."""


class CannotRecord(Exception):
    """Raised where a function cannot be recorded; says why, and where in the program.

    Attributes:
        result: the results of the function, if it ran to its end.
    """

    def __init__(self, reason: str, result: list[Tensor] | None = None) -> None:
        super().__init__(reason)
        self.result = result


@dataclass(frozen=True)
class Recording:
    """A recorded function.

    Attributes:
        graph: takes the tensors of ``reads``, then the inputs; returns a list of tensors.
        reads: tensors that the function reads besides its inputs: parameters, buffers, data.
        writes: the tensors among them that it changes, such as running means.
        result: the results of the function in the recorded run.
    """

    graph: GraphModule
    reads: list[Tensor]
    writes: list[Tensor]
    result: list[Tensor]

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

    def run(*tensors: Tensor) -> list[Tensor]:
        result[:] = function(*tensors)
        return list(result)

    reading = _NoReading()
    with pyro.validation_enabled(False), warnings.catch_warnings(), reading:
        warnings.simplefilter("ignore")
        with _watch_random_draws() as draws:
            # Detached, so that a tensor in two places, or held by the program too, stays apart.
            graph = make_fx(run)(*[tensor.detach() for tensor in inputs])
    real = [tensor.detach() for tensor in result]
    if draws:
        raise CannotRecord(draws[0], real)
    for node in graph.graph.nodes:
        if _is_shaped_by_values(node):
            raise CannotRecord(
                f"{reading.place or 'the program'} makes a tensor whose shape depends on values "
                "(as in x[x > 0]); use torch.where or pyro.poutine.mask",
                real,
            )
    written = _find_written(graph)
    reads = _lift(graph)
    return Recording(graph, reads, [t for t in reads if id(t) in written], real)


@contextmanager
def _watch_random_draws() -> Iterator[list[str]]:
    """Within, list where Python or NumPy draw random numbers, in sentences."""
    draws: list[str] = []
    before = _numpy_state()

    def of_python(frame: FrameType, name: str) -> bool:
        caller = _outside(frame, random.__file__)
        is_own = caller.f_code.co_filename.startswith(_DRAW_FOR_THEMSELVES)
        if name in ("random", "getrandbits") and not is_own:  # to which all draws come down
            draws.append(f"{_describe(caller)} draws from Python's random numbers")
        return bool(draws)

    def of_numpy(frame: FrameType) -> bool:
        if not draws and _numpy_state() != before:
            draws.append(f"{_describe(frame)} draws from NumPy's random numbers")
        return bool(draws)

    # Called for every event; a lambda, as a type checker would check each call of a function.
    see: Any = lambda frame, event, called: (  # noqa: E731
        (event == "c_call" and called.__self__ is _SHARED and of_python(frame, called.__name__))
        or (event == "return" and not _is_library_frame(frame) and of_numpy(frame))
    )
    outer = sys.getprofile()
    sys.setprofile(see)
    try:
        yield draws
    finally:
        sys.setprofile(outer)
    if not draws and _numpy_state() != before:
        draws.append("the program draws from NumPy's random numbers")


def _numpy_state() -> tuple[Any, ...]:
    kind, keys, *rest = np.random.get_state()  # noqa: NPY002 - the one that programs share
    return kind, np.asarray(keys).tobytes(), *rest


def _is_shaped_by_values(node: Node) -> bool:
    target: Any = node.target
    if node.op != "call_function" or not is_operator(target):
        return False
    if target is torch.ops.aten.index.Tensor:
        return any(_is_mask(index) for index in node.args[1])  # type: ignore[union-attr]
    return torch.Tag.dynamic_output_shape in target.tags


def _is_mask(index: Any) -> bool:
    return index is not None and index.meta["tensor_meta"].dtype in (torch.bool, torch.uint8)


def _find_written(graph: GraphModule) -> set[int]:
    """Identities of the tensors held by the graph that some operation writes to."""
    written: set[int] = set()
    for node in graph.graph.nodes:
        for each in written_nodes(node):
            written |= _find_held(each, graph)
    return written


def _find_held(node: Node, graph: GraphModule) -> set[int]:
    """Identity of the tensor held by the graph that a node is, or is a view of."""
    while node.op == "call_function" and node.args and isinstance(node.args[0], Node):
        if not getattr(node.target, "is_view", False):
            break
        node = node.args[0]
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


class _NoReading(TorchFunctionMode):
    """Refuses a program that reads values of tensors; answers what Pyro reads for diagnostics.

    Attributes:
        place: where a shape first depended on values, if one did.
        calls: number of calls of tensor functions so far.
    """

    place: str | None = None
    calls = 0

    def __torch_function__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: Any = None
    ) -> Any:
        name = getattr(func, "__name__", "")
        if name in _READS:
            frame = _outside(sys._getframe(), *_HERE)
            if frame.f_code.co_filename.endswith("torch/distributions/distribution.py"):
                return True  # arguments are valid
            frame = _outside(frame, _TORCH)
            file, where = frame.f_code.co_filename, frame.f_code.co_name
            if file.startswith(_PYRO):
                if name == "item":
                    return args[0].detach()
                if where in ("warn_if_nan", "warn_if_inf"):
                    return False
                if where == "compute_expectation":
                    return True  # keep every term, as Pyro does while torch traces
            place = _describe(_outside(frame, _TORCH, _PYRO, _OURS, *_HERE))
            raise CannotRecord(f"{place} reads the value of a tensor, by {name}")
        self.calls += name not in _PROPERTIES
        if self.calls > _MOST_CALLS:
            place = _describe(_outside(sys._getframe(), _TORCH, _PYRO, *_HERE))
            raise CannotRecord(
                f"the program calls more than {_MOST_CALLS:,} functions of tensors, and would "
                f"take minutes to compile; a loop is unrolled, perhaps at {place}"
            )
        result = func(*args, **(kwargs or {}))
        if name in _SHAPED_BY_VALUES and self.place is None and _has_mask(name, args):
            self.place = _describe(_outside(sys._getframe(), _TORCH, _PYRO, _OURS, *_HERE))
        return result


def _has_mask(name: str, args: tuple[Any, ...]) -> bool:
    """Whether the arguments of a function make the shape of its result depend on values."""
    if name == "where":
        return len(args) == 1
    if name == "repeat_interleave":
        return any(isinstance(each, Tensor) for each in args[1:])
    if name != "__getitem__":
        return True
    indices = args[1] if isinstance(args[1], tuple) else (args[1],)
    return any(isinstance(i, Tensor) and i.dtype in (torch.bool, torch.uint8) for i in indices)


def _describe(frame: FrameType) -> str:
    """The file, line and function of a frame."""
    return f"{frame.f_code.co_filename}:{frame.f_lineno} (in {frame.f_code.co_name})"


def _is_library_frame(frame: FrameType) -> bool:
    return frame.f_code.co_filename.startswith(_LIBRARIES)


def _outside(frame: FrameType, *packages: str) -> FrameType:
    """The innermost frame outside these packages; the frame itself where there is none."""
    outer: FrameType | None = frame
    while outer is not None and outer.f_code.co_filename.startswith(packages):
        outer = outer.f_back
    return frame if outer is None else outer
