"""Random numbers and tensors, put back as they were."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager

import torch
from pyro.util import get_rng_state, set_rng_state
from torch import Tensor

__all__ = ["Snapshot", "preserve_state"]


class Snapshot:
    """The random states of Python, NumPy and torch, and the values of some tensors.

    Arguments:
        tensors: those whose values are kept.

    Attributes:
        values: the tensors, each once, and their values.
    """

    def __init__(self, tensors: Sequence[Tensor]) -> None:
        self._random = get_rng_state()
        self._cuda = torch.cuda.get_rng_state_all() if torch.cuda.is_initialized() else []
        self.values = [(t, t.detach().clone()) for t in {id(t): t for t in tensors}.values()]

    @property
    def torch_state(self) -> Tensor:
        """The state of torch's generator on the CPU."""
        state: Tensor = self._random["torch"]
        return state

    @torch.no_grad()
    def restore(self) -> None:
        """Bring all of it back."""
        set_rng_state(self._random)
        if self._cuda:
            torch.cuda.set_rng_state_all(self._cuda)
        for tensor, value in self.values:
            tensor.copy_(value)


@contextmanager
def preserve_state(tensors: Sequence[Tensor]) -> Iterator[None]:
    """Within, draw random numbers and write to these tensors; both are restored at the end."""
    snapshot = Snapshot(tensors)
    try:
        yield
    finally:
        snapshot.restore()
