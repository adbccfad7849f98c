"""The base class of methods that draw from p(z | y).

To write another method, subclass :class:`Method`; ``Amortised`` in ``proposals.py`` is the
shortest.
"""

from abc import ABC, abstractmethod
from collections.abc import Callable
from dataclasses import dataclass

from torch import Tensor

from ...arguments import as_whole
from ..observed_pair import Inputs, Latents, ObservedPair

__all__ = ["Advance", "Diagnostics", "LatentDraws", "Method", "check_at_least"]

Advance = Callable[[], None]
"""Advances the progress bar; called :attr:`Method.num_steps_of_batch` times for a batch."""

Diagnostics = dict[str, Tensor]
"""A number for each datum, by name."""


@dataclass(frozen=True)
class LatentDraws:
    """Latents of a batch, and diagnostics of how good they are.

    Attributes:
        latents: values by site; the draws of a datum follow each other.
        diagnostics: a number for each datum.
    """

    latents: Latents
    diagnostics: Diagnostics


class Method(ABC):
    """A way to draw from p(z | y), declared by name and settings."""

    needs_datum: bool = False
    """Whether the operator must observe x itself, not its mean."""
    needs_gradient: bool = False
    """Whether the method uses gradients of a density with respect to the latents."""

    @property
    def num_steps_of_batch(self) -> int:
        """How often ``advance`` is called for a batch."""
        return 1

    @abstractmethod
    def draw(
        self, pair: ObservedPair, inputs: Inputs, num_samples: int, advance: Advance
    ) -> LatentDraws:
        """Draw latents for each datum of a batch.

        Arguments:
            pair: p(y, z) and q(z | start(y)); called within its parameter store.
            inputs: arguments of the pair for this batch.
            num_samples: draws for each datum.
            advance: advances the progress bar.
        """


def check_at_least(lowest: int, **given: int) -> None:
    """Refuse settings below ``lowest``.

    Raises:
        InputError: if one is, naming the first.
    """
    for name, value in given.items():
        as_whole(name, value, lowest)
