"""The Python state that a program reads besides its arguments, and its changes.

A recorded step holds the Python numbers and flags of the moment when it was recorded. This file
therefore keeps a list of what a program can reach: attributes of its modules and objects, variables
of its closures, globals that its functions name, and which tensors are where. Reading the list
again takes microseconds.
"""

from collections.abc import Hashable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

from torch import Tensor

from .search import FloatPlace, Search

__all__ = ["Watch"]


class Watch:
    """The Python state that functions can reach, with some exceptions.

    It does not detect what changes within a large array, a file, an iterator or a library, nor an
    object of a class of a library. A float that changes may be freed: it is then no part of the
    state, and may be replaced by a tensor.

    Arguments:
        roots: models, guides, losses: functions, methods, modules or other objects.
    """

    def __init__(self, *roots: Any) -> None:
        self._roots = roots
        self._free: list[FloatPlace] = []
        self._search: Search | None = None

    def state(self) -> Hashable:
        """A key of the present state; the same object for as long as nothing changes."""
        if self._search is None or not self._search.is_current():
            self._search = Search(self._roots, self._free)
        return self._search.state

    def free_changed_floats(self, before: Hashable) -> bool:
        """Free the floats in which the state differs from an earlier one, if it does in no more."""
        after = self.state()
        assert self._search is not None
        assert isinstance(before, tuple)
        assert isinstance(after, tuple)
        if len(before) != len(after):
            return False
        floats = self._search.floats
        pairs = enumerate(zip(before, after, strict=True))
        changed = [(place, *pair) for place, pair in pairs if pair[0] != pair[1]]
        for place, (old_path, old), (path, _) in changed:
            was_float = isinstance(old, tuple) and old[0] is float
            if old_path != path or place not in floats or not was_float:
                return False
        self._free += [floats[place] for place, _, _ in changed]
        self._search = None
        return bool(changed)

    def freed(self) -> list[float]:
        """The values of the freed floats that could be reached in the last :meth:`state`."""
        return [] if self._search is None else [place.get() for place in self._search.freed]

    @contextmanager
    def replace_freed(self, values: Sequence[Any]) -> Iterator[list[str]]:
        """Within, these values are in the places of the freed floats.

        The floats are put back at the end; the list then names those that had been changed.
        """
        assert self._search is not None
        places = self._search.freed
        floats = [place.get() for place in places]
        changed: list[str] = []
        for place, value in zip(places, values, strict=True):
            place.set(value)
        try:
            yield changed
        finally:
            for place, value, number in zip(places, values, floats, strict=True):
                if place.get() is not value:
                    changed.append(place.path)
                place.set(number)

    def objects(self) -> list[Any]:
        """The objects that :meth:`state` names by identity; keep them for as long as the key."""
        self.state()
        assert self._search is not None
        return self._search.objects

    def buffers(self) -> list[Tensor]:
        """The buffers of all modules that the functions can reach."""
        self.state()
        assert self._search is not None
        return self._search.buffers

    def difference(self, before: Hashable) -> str | None:
        """The names of what changed since an earlier state, three at most; None if nothing did."""
        after = self.state()
        if after == before:
            return None
        assert isinstance(before, tuple)
        assert isinstance(after, tuple)
        new, old = dict(after), dict(before)
        names = [name for name, value in after if name not in old or old[name] != value]
        names += [name for name in old if name not in new]
        return ", ".join(names[:3])
