"""Run a compiled function of CUDA tensors as a CUDA graph: all its kernels in one launch."""

from collections.abc import Callable, Sequence

import torch
from torch import Tensor

__all__ = ["CudaGraph"]

Run = Callable[..., list[Tensor]]


class CudaGraph:
    """Calls a function of CUDA tensors, and replays its kernels from the second call on.

    The first call runs the function on a stream of its own, so that kernels are built and libraries
    allocate their workspaces. A function that waits for the device cannot be captured, and is
    called itself. Each replay draws new numbers from torch's generator, as a call would.

    Arguments:
        run: the function, which may write to ``held``.
        held: tensors that it uses besides its inputs. If their memory is replaced, the function
            is captured again.
    """

    def __init__(self, run: Run, held: Sequence[Tensor]) -> None:
        self._run = run
        self._held = held
        self._addresses: list[int] = []
        self._graph: torch.cuda.CUDAGraph | None = None
        self._inputs: list[Tensor] = []
        self._results: list[Tensor] = []
        self._can_capture = True

    def __call__(self, *inputs: Tensor) -> list[Tensor]:
        """The results of the function, in memory that later calls do not overwrite."""
        if not self._can_capture:
            return self._run(*inputs)
        addresses = [tensor.data_ptr() for tensor in self._held]
        if addresses != self._addresses:
            self._addresses, self._graph = addresses, None
            return self._warm_up(inputs)
        if self._graph is None:
            self._capture(inputs)
        if self._graph is None:
            return self._run(*inputs)
        for own, given in zip(self._inputs, inputs, strict=True):
            own.copy_(given)
        self._graph.replay()
        return [result.clone() for result in self._results]

    def _warm_up(self, inputs: Sequence[Tensor]) -> list[Tensor]:
        stream = torch.cuda.Stream()
        stream.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(stream):
            results = self._run(*inputs)
        torch.cuda.current_stream().wait_stream(stream)
        for tensor in results:
            tensor.record_stream(torch.cuda.current_stream())
        return results

    def _capture(self, inputs: Sequence[Tensor]) -> None:
        self._inputs = [tensor.clone() for tensor in inputs]
        graph = torch.cuda.CUDAGraph()
        try:
            with torch.cuda.graph(graph):
                self._results = self._run(*self._inputs)
        except RuntimeError:  # the function waits for the device, or copies from the host
            self._can_capture = False
            return
        self._graph = graph
