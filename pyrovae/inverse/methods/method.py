"""What every method of drawing from p(z | y) is."""

from abc import ABC, abstractmethod
from collections.abc import Callable
from dataclasses import dataclass

from torch import Tensor

from ...errors import InputError
from ..observed_pair import Latents, Observed, Parts

__all__ = ["Advance", "Diagnostics", "Drawn", "Method", "at_least"]

Advance = Callable[[], None]
"""Called as work goes on, :attr:`Method.num_steps_of_batch` times for a batch."""

Diagnostics = dict[str, Tensor]
"""By name, a number for each datum."""


@dataclass(frozen=True)
class Drawn:
    """Latents of a batch, and what is known of their worth.

    Attributes:
        latents: rows of one datum in succession.
        diagnostics: a number for each datum.
    """

    latents: Latents
    diagnostics: Diagnostics


class Method(ABC):
    """A way to draw from p(z | y), declared by name and settings."""

    needs_datum: bool = False
    """Whether x itself must be what is observed, not its mean."""
    needs_gradient: bool = False
    """Whether it follows the gradient of a density in the latents."""

    @property
    def num_steps_of_batch(self) -> int:
        """How often ``advance`` is called for a batch."""
        return 1

    @abstractmethod
    def draw(self, pair: Observed, parts: Parts, num_samples: int, advance: Advance) -> Drawn:
        """Latents of each datum of a batch.

        Arguments:
            pair: p(y, z) and q(z | start(y)), to be called in its store.
            parts: of the batch.
            num_samples: draws for each datum.
            advance: called as work goes on.
        """


def at_least(lowest: int, **given: int) -> None:
    """Refuse settings that are too small.

    Raises:
        InputError: naming the first.
    """
    for name, value in given.items():
        if value < lowest:
            raise InputError(f"{name} is {value}; it must be {lowest} or more")
