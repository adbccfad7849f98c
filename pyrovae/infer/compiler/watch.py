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

from .search import Place, Search

__all__ = ["Watch"]

_LONGEST_KNOWN = 100
"""Calls after which modules are searched again where nothing else needs the search."""


class Watch:
    """The Python state that functions can reach, with some exceptions.

    It does not detect what changes within a large array, a file, an iterator or a library, nor an
    object of a class of a library. A float that changes, or a tensor that is replaced, may be
    freed: it is then no part of the state, and may be replaced by an input of a graph.

    Arguments:
        roots: models, guides, losses: functions, methods, modules or other objects.
    """

    def __init__(self, *roots: Any) -> None:
        self._roots = roots
        self._free: list[Place] = []
        self._untested: list[Place] = []
        self._written: set[tuple[int, Any]] = set()
        self._search: Search | None = None
        self._num_known = 0

    def state(self) -> Hashable:
        """A key of the present state; the same object for as long as nothing changes."""
        if self._search is None or not self._search.is_current():
            self._search = Search(self._roots, self._free)
        return self._search.state

    def free_changes(self, before: Hashable) -> bool:
        """Free the floats and tensors in which the state differs from an earlier one.

        False, and nothing is freed, if it differs in anything else, or not at all. Not freed are
        parameters, buffers, and what the program was seen to change itself.
        """
        after = self.state()
        assert self._search is not None
        assert isinstance(before, tuple)
        assert isinstance(after, tuple)
        if len(before) != len(after):
            return False
        inputs = self._search.inputs
        pairs = enumerate(zip(before, after, strict=True))
        changed = [(place, *pair) for place, pair in pairs if pair[0] != pair[1]]
        for place, (old_path, old), (path, new) in changed:
            if old_path != path or place not in inputs or not isinstance(old, tuple):
                return False
            if old[0] is not new[0] or self._is_buffer(inputs[place].get()):
                return False
            if inputs[place].key in self._written:
                return False
        self._untested += [inputs[place] for place, _, _ in changed]
        self._free += self._untested
        self._search = None
        return bool(changed)

    @property
    def has_untested(self) -> bool:
        """Whether the program has to run in :meth:`test_freed`."""
        return bool(self._untested)

    @contextmanager
    def test_freed(self) -> Iterator[None]:
        """Free no longer what the program changes itself, when it runs in this context."""
        before = [(place, place.get(), _version(place.get())) for place in self._untested]
        try:
            yield
        finally:
            for place, value, version in before:
                if place.get() is not value or _version(value) != version:
                    self._written.add(place.key)
                    self._free.remove(place)
                    self._search = None
            self._untested = []

    def freed(self) -> list[Any]:
        """The freed floats and tensors that could be reached in the last :meth:`state`."""
        return [] if self._search is None else [place.get() for place in self._search.freed]

    @contextmanager
    def replace_freed(self, values: Sequence[Any]) -> Iterator[list[str]]:
        """Within, these values are in the places of what is freed.

        All is put back at the end; the list then names what had been changed.
        """
        assert self._search is not None
        places = self._search.freed
        own = [place.get() for place in places]
        changed: list[str] = []
        for place, value in zip(places, values, strict=True):
            place.set(value)
        try:
            yield changed
        finally:
            for place, value, old in zip(places, values, own, strict=True):
                if place.get() is not value:
                    changed.append(place.path)
                place.set(old)

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

    def known_buffers(self) -> list[Tensor]:
        """The buffers of the modules that were found in the last search, which is up to a hundred
        calls old."""
        self._num_known += 1
        if self._search is None or self._num_known % _LONGEST_KNOWN == 0:
            self.state()
        assert self._search is not None
        return [each for module in self._search.modules for each in module.buffers(recurse=False)]

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

    def _is_buffer(self, value: Any) -> bool:
        return any(value is buffer for buffer in self.buffers())


def _version(value: Any) -> int:
    """How often something was written to a tensor; 0 for other values."""
    return value._version if isinstance(value, Tensor) else 0
