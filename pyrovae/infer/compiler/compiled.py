"""A recorded function with what follows it, compiled by inductor as one function."""

import logging
import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor
from torch.fx import GraphModule
from torch.fx.experimental.proxy_tensor import make_fx

from .cuda_graph import CudaGraph
from .direct import Direct
from .products import multiply_by_onednn
from .record import Recording

__all__ = ["Tail", "compile_recording", "stored"]

Tail = Callable[[list[Tensor], list[Tensor]], list[Tensor]]
"""What follows a recorded function: from the tensors that it reads, and what it gives, to results.

It may write to tensors of its own; such as an optimiser's update, which writes to parameters.
"""


def compile_recording(
    recording: Recording,
    inputs: Sequence[Tensor],
    tail: Tail | None = None,
    own: Sequence[Tensor] = (),
) -> Callable[..., list[Tensor]]:
    """Compile a recording, which is not run.

    The random numbers are those that Pyro would draw. Where all tensors are on a GPU, what is
    compiled runs as a CUDA graph. torch's caches on disk make the second compilation of the same
    graph, in any process, a matter of some two seconds.

    Arguments:
        recording: what to compile.
        inputs: tensors like those that it will be given.
        tail: what follows, as a function of ``own`` with the recording's ``reads``, and of its
            results.
        own: tensors of the tail.

    Raises:
        Exception: whatever stops the compiler, such as that there is none.
    """
    num_own, num_reads = len(own), len(recording.reads)

    def whole(*tensors: Tensor) -> list[Tensor]:
        mine, rest = list(tensors[:num_own]), tensors[num_own:]
        result = recording.graph(*rest)
        return result if tail is None else tail([*mine, *rest[:num_reads]], result)

    held = [*own, *recording.reads]
    # As tensors of their own: one in two places would be taken for one input.
    everything = [tensor.detach() for tensor in (*held, *inputs)]
    with torch.no_grad(), torch.random.fork_rng(), _quiet():
        graph = make_fx(whole, tracing_mode="fake")(*everything)
        _draw_as_torch_does(graph)
        multiply_by_onednn(graph)
        try:
            compiled = _compiled(graph, everything, cpp_wrapper=not _is_on_gpu(everything))
        except Exception:  # such as of an operator that C++ cannot call
            compiled = _compiled(graph, everything, cpp_wrapper=False)
    call = Direct(compiled)

    def run(*inputs: Tensor) -> list[Tensor]:
        return call(*held, *inputs)

    return CudaGraph(run, held) if _is_on_gpu(everything) else run


def stored(x: Tensor) -> Tensor:
    """The same tensor, in a view that makes inductor store it, not derive it at each reading."""
    return x.as_strided(x.shape, x.stride())


def _compiled(graph: GraphModule, inputs: list[Any], *, cpp_wrapper: bool) -> Any:
    """The graph for tensors of just these shapes: its kernels, called from C++ or from Python."""
    options = {"fallback_random": True, "cpp_wrapper": cpp_wrapper}
    return torch._inductor.standalone_compile(
        graph,
        inputs,
        # Others would have dynamic shapes, whose guards nobody checks.
        dynamic_shapes="from_example_inputs",
        options={"config_patches": options},
    )


def _is_on_gpu(tensors: Sequence[Tensor]) -> bool:
    return all(tensor.is_cuda for tensor in tensors)


@contextmanager
def _quiet() -> Iterator[None]:
    """Without torch's notes on what it imports, and on what has to be called from Python."""
    loggers = [logging.getLogger(f"torch.{name}") for name in ("utils.cpp_extension", "_inductor")]
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


def _draw_as_torch_does(graph: GraphModule) -> None:
    """Name random draws so that inductor has torch make them, with the numbers of their type."""
    aten = torch.ops.aten
    for node in list(graph.graph.nodes):
        if node.target is aten.bernoulli.default and node.meta["val"].dtype != torch.float32:
            # Coins of float64 would be tossed with float32 numbers.
            with graph.graph.inserting_before(node):
                empty = graph.graph.call_function(aten.empty_like.default, node.args)
                drawn = graph.graph.call_function(
                    aten.bernoulli_.Tensor, (empty, *node.args), node.kwargs
                )
            drawn.meta = node.meta
            node.replace_all_uses_with(drawn)
            graph.graph.erase_node(node)
        elif node.target in _NEEDLESS_GENERATOR and node.kwargs.get("generator") is None:
            node.target = _NEEDLESS_GENERATOR[node.target]
            node.kwargs = {k: value for k, value in node.kwargs.items() if k != "generator"}
    graph.recompile()


_NEEDLESS_GENERATOR = {
    torch.ops.aten.rand.generator: torch.ops.aten.rand.default,
    torch.ops.aten.randn.generator: torch.ops.aten.randn.default,
    torch.ops.aten.randint.generator: torch.ops.aten.randint.default,
    torch.ops.aten.randint.low_generator: torch.ops.aten.randint.low,
    torch.ops.aten.randperm.generator: torch.ops.aten.randperm.default,
}
"""What torch records for ``generator=None``, with what is the same and known to inductor."""
