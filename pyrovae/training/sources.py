"""What data and programs draw from and count, besides parameters and buffers."""

from typing import Any

from ..data.batches import Batches, LoaderBatches
from ..infer.svi.state import State
from .generators import find_counters, find_random_sources
from .randomness import random_state, set_random_state

__all__ = ["Sources"]


class Sources:
    """The random generators of a fit, and the numbers that its data count.

    Arguments:
        programs: model, guide, objective and transform.
        data: training and validation data.
        is_saved: whether their states are to be saved, so that what cannot be saved is refused.

    Raises:
        InputError: if an object holds its place in a way that cannot be saved.
    """

    def __init__(
        self,
        programs: tuple[Any, ...],
        data: tuple[Batches | LoaderBatches | None, ...],
        *,
        is_saved: bool,
    ) -> None:
        parts = [part for each in data if each is not None for part in each.parts()]
        unique = {id(part): part for part in parts}
        self._generators = find_random_sources(*unique.values(), *programs, refuses=is_saved)
        self._counters = find_counters(*unique.values())

    def state(self) -> State:
        """The state of all generators, those of the process included, and the counted numbers."""
        state = random_state(*self._generators)
        state.record["counters"] = [each.changed() for each in self._counters]
        return state

    def restore(self, state: State) -> None:
        """Restore a state of :meth:`state`.

        Raises:
            ValueError: if it is of other generators or counters, or not valid.
        """
        set_random_state(state, *self._generators)
        counters = state.record["counters"]
        for counter, numbers in zip(self._counters, counters, strict=True):
            counter.set(numbers)
