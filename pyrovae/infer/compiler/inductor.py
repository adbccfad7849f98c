"""Compile a recorded function, and what follows it, by inductor as one function."""

import logging
import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager

import torch
from torch import Tensor
from torch.fx import GraphModule
from torch.fx.experimental.proxy_tensor import make_fx

from ..private_torch import COMPILER_LOGGERS, compile_graph, written_nodes
from .cuda_graph import CudaGraph
from .direct_call import DirectCall
from .onednn import use_onednn
from .recording.record import Recording
from .strides import CannotCompile, owner_of, use_strides_of_owners

__all__ = ["Tail", "compile_recording"]

Tail = Callable[[list[Tensor], list[Tensor]], list[Tensor]]
"""What follows a recorded function, from the tensors that it reads and its results to new results.

It may write to tensors, as the update of an optimiser does to parameters.
"""


def compile_recording(
    recording: Recording,
    inputs: Sequence[Tensor],
    tail: Tail | None = None,
    own: Sequence[Tensor] = (),
) -> Callable[..., list[Tensor]]:
    """Compile a recording without running it.

    The compiled function draws the random numbers that Pyro would draw. Where all tensors are on a
    GPU, it runs as a CUDA graph. With torch's caches on disk, compiling the same graph again takes
    some two seconds, in any process.

    Arguments:
        recording: what to compile.
        inputs: tensors like those that the function will be given.
        tail: what follows: a function of ``own`` and the recording's ``reads`` as one list, and of
            the results of the recording.
        own: tensors of the tail.

    Raises:
        Exception: whatever stops the compiler, for example that there is none.
    """
    num_own, num_reads = len(own), len(recording.reads)

    def with_tail(*tensors: Tensor) -> list[Tensor]:
        mine, rest = list(tensors[:num_own]), tensors[num_own:]
        result = recording.graph(*rest)
        return result if tail is None else tail([*mine, *rest[:num_reads]], result)

    held = [*own, *recording.reads]
    # Detached, as make_fx would take one tensor in two places for one input.
    everything = [tensor.detach() for tensor in (*held, *inputs)]
    with torch.no_grad(), torch.random.fork_rng(), _quiet():
        graph = make_fx(with_tail, tracing_mode="fake")(*everything)
        _check_memory(graph, everything)
        _keep_torch_random_numbers(graph)
        use_onednn(graph)
        use_strides_of_owners(graph)
        try:
            compiled = compile_graph(graph, everything, cpp_wrapper=not _is_on_gpu(everything))
        except Exception:  # for example, C++ cannot call one of the operators
            compiled = compile_graph(graph, everything, cpp_wrapper=False)
    call = DirectCall(compiled)

    def run(*inputs: Tensor) -> list[Tensor]:
        return call(*held, *inputs)

    return CudaGraph(run, held) if _is_on_gpu(everything) else run


def _check_memory(graph: GraphModule, inputs: Sequence[Tensor]) -> None:
    """Check that what the graph writes to is stored apart from all else that it takes.

    Raises:
        CannotCompile: if not, as inductor would read it before or after it is written, by chance.
    """
    placeholders = [node for node in graph.graph.nodes if node.op == "placeholder"]
    written = {owner_of(each) for node in graph.graph.nodes for each in written_nodes(node)}
    pairs = zip(placeholders, inputs, strict=True)
    spans = [(_span(tensor), node in written) for node, tensor in pairs]
    last: dict[int, tuple[int, bool]] = {}
    for (storage, start, end), is_written in sorted(spans):
        last_end, is_last_written = last.get(storage, (0, False))
        if start < last_end and (is_written or is_last_written):
            raise CannotCompile(
                "a parameter or buffer that a step changes shares its memory with another tensor"
            )
        last[storage] = max(end, last_end), is_written or (start < last_end and is_last_written)


def _span(tensor: Tensor) -> tuple[int, int, int]:
    """Where the memory behind a tensor begins, and the part of it that the tensor lies in."""
    storage = tensor.untyped_storage().data_ptr()
    if not tensor.numel():
        return storage, 0, 0
    steps = zip(tensor.shape, tensor.stride(), strict=True)
    length = int(1 + sum((size - 1) * stride for size, stride in steps))
    start = int(tensor.storage_offset()) * tensor.itemsize
    return storage, start, start + length * tensor.itemsize


def _is_on_gpu(tensors: Sequence[Tensor]) -> bool:
    return all(tensor.is_cuda for tensor in tensors)


@contextmanager
def _quiet() -> Iterator[None]:
    """Within, torch does not report what it imports, nor what has to be called from Python."""
    loggers = [logging.getLogger(name) for name in COMPILER_LOGGERS]
    levels = [logger.level for logger in loggers]
    for logger in loggers:
        logger.setLevel(logging.ERROR)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        for logger, level in zip(loggers, levels, strict=True):
            logger.setLevel(level)


def _keep_torch_random_numbers(graph: GraphModule) -> None:
    """Have inductor draw random numbers by torch's own operators, in their own type."""
    aten = torch.ops.aten
    for node in list(graph.graph.nodes):
        if node.target is aten.bernoulli.default and node.meta["val"].dtype != torch.float32:
            # Inductor would draw float64 Bernoulli variables from float32 numbers.
            with graph.graph.inserting_before(node):
                empty = graph.graph.call_function(aten.empty_like.default, node.args)
                drawn = graph.graph.call_function(
                    aten.bernoulli_.Tensor, (empty, *node.args), node.kwargs
                )
            drawn.meta = node.meta
            node.replace_all_uses_with(drawn)
            graph.graph.erase_node(node)
        elif node.target in _WITHOUT_GENERATOR and node.kwargs.get("generator") is None:
            node.target = _WITHOUT_GENERATOR[node.target]
            node.kwargs = {k: value for k, value in node.kwargs.items() if k != "generator"}
    graph.recompile()


_WITHOUT_GENERATOR = {
    torch.ops.aten.rand.generator: torch.ops.aten.rand.default,
    torch.ops.aten.randn.generator: torch.ops.aten.randn.default,
    torch.ops.aten.randint.generator: torch.ops.aten.randint.default,
    torch.ops.aten.randint.low_generator: torch.ops.aten.randint.low,
    torch.ops.aten.randperm.generator: torch.ops.aten.randperm.default,
}
"""Operators that torch records for ``generator=None``, and the same ones as inductor knows them."""
