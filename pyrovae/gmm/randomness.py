"""Random numbers of a method, independent of all other draws."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch

from ..arguments import as_whole

__all__ = ["Randomness", "as_seed"]


def as_seed(seed: Any) -> int:
    """A seed of torch's generators.

    Raises:
        InputError: if it is no whole number from 0 to 2^63 - 2.
    """
    return as_whole("seed", seed, 0, 2**63 - 2)


class Randomness:
    """A stream of random numbers on a device, for code that draws from torch's global ones.

    Arguments:
        seed: seed of the stream.
        device: the device that draws use, in addition to the CPU.
    """

    def __init__(self, seed: int, device: torch.device) -> None:
        self._devices = [device] if device.type == "cuda" else []
        with torch.random.fork_rng(self._devices):
            torch.manual_seed(seed)
            self.state = self._read()

    @contextmanager
    def use(self) -> Iterator[None]:
        """Draw from this stream within the context; torch's own state does not change."""
        with torch.random.fork_rng(self._devices):
            cpu, others = self.state
            torch.set_rng_state(cpu)
            for device, state in zip(self._devices, others, strict=True):
                torch.cuda.set_rng_state(state, device)
            yield
            self.state = self._read()

    def _read(self) -> tuple[torch.Tensor, list[torch.Tensor]]:
        return torch.get_rng_state(), [torch.cuda.get_rng_state(d) for d in self._devices]
