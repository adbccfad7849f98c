"""The specialisations of a function: one graph for each kind of call."""

from collections.abc import Callable, Hashable, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from ..trees import TreeSpec, unflatten
from .break_even import RunTimes
from .call import Call
from .record import Recording
from .watch import Watch

__all__ = [
    "MOST_SPECIALISATIONS",
    "OutputSpec",
    "Specialisation",
    "Specialisations",
    "TooManySpecialisations",
]

MOST_SPECIALISATIONS = 16
"""Kinds of call that may have a graph of their own."""


@dataclass
class OutputSpec:
    """The structure of what a recorded function returns.

    Attributes:
        spec: the tree of results.
        present: for each leaf whether it is a tensor; the others are None.
    """

    spec: TreeSpec
    present: list[bool]

    def unflatten(self, values: Sequence[Tensor]) -> Any:
        """The tree with these tensors, detached, as its leaves."""
        tensors = iter(values)
        leaves = [next(tensors).detach() if is_there else None for is_there in self.present]
        return unflatten(self.spec, leaves)


@dataclass
class Specialisation:
    """What is known about one kind of call: its run times, its recording, its compiled graph.

    Attributes:
        kept: the objects that its key names by identity, kept so that no id is used again.
        calls: how many there were.
        eager: run times of the program itself.
        replayed: run times of the recording, uncompiled.
        recording: the recorded operations.
        outputs: the structure of their results.
        compiled: the compiled graph.
        calls_of_graph: calls since the recording, or the compiled graph, was made.
    """

    kept: list[Any]
    calls: int = 0
    eager: RunTimes = field(default_factory=RunTimes)
    replayed: RunTimes = field(default_factory=RunTimes)
    recording: Recording | None = None
    outputs: OutputSpec | None = None
    compiled: Callable[..., Any] | None = None
    calls_of_graph: int = 0


class TooManySpecialisations(Exception):
    """There are more kinds of call than may have graphs; says what changed between them."""


class Specialisations:
    """Finds the specialisation of a call, by all that its graph depends on.

    That is the layout of tensors, other arguments by value, the watched state of the program, what
    a key says, and torch's default type and autocast. A float argument that changes between
    otherwise equal calls becomes an input of the graph.

    Arguments:
        watch: the state of the program.
    """

    def __init__(self, watch: Watch) -> None:
        self._watch = watch
        self._by_state: dict[Hashable, dict[Hashable, Specialisation]] = {}
        self._state: Hashable = None
        self._state_before: Hashable = None
        self._of_state: dict[Hashable, Specialisation] = {}
        self._floats: dict[Hashable, tuple[Any, ...]] = {}
        self._float_inputs: dict[TreeSpec | None, set[int]] = {}

    @property
    def num_graphs(self) -> tuple[int, int]:
        """How many graphs are recorded, and how many of these are compiled."""
        each = [found for of_state in self._by_state.values() for found in of_state.values()]
        recorded = sum(found.recording is not None for found in each)
        return recorded, sum(found.compiled is not None for found in each)

    def as_call(self, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Call:
        """The arguments, with floats that are inputs of graphs taken as such."""
        return Call(args, kwargs, self._float_inputs)

    def find(self, call: Call, key: Hashable) -> Specialisation:
        """The specialisation of a call, which is new for a kind not seen before.

        Raises:
            TooManySpecialisations: if the kind is new and there are too many already.
        """
        state = self._watch.state()
        if state is not self._state:
            self._state_before, self._state = self._state, state
            self._of_state = self._by_state.get(state, {})
        signature = (call.signature(), key, _torch_settings())
        found = self._of_state.get(signature)
        if found is None:
            if self._make_changed_floats_inputs(call):
                return self.find(call, key)
            if sum(map(len, self._by_state.values())) >= MOST_SPECIALISATIONS:
                changed = self._watch.difference(self._state_before) if self._state_before else ""
                raise TooManySpecialisations(changed or "the arguments")
            self._of_state = self._by_state.setdefault(state, {})
            found = self._of_state[signature] = Specialisation(self._watch.objects())
        return found

    def _make_changed_floats_inputs(self, call: Call) -> bool:
        """Make inputs of the floats that differ from those of an otherwise equal call."""
        rest, floats = call.floats()
        if not floats or len(self._floats) >= MOST_SPECIALISATIONS:
            return False
        before = self._floats.setdefault((rest, tuple(place for place, _ in floats)), floats)
        changed = {
            place for (place, new), (_, old) in zip(floats, before, strict=True) if new != old
        }
        self._float_inputs.setdefault(call.spec, set()).update(changed)
        return bool(changed)


def _torch_settings() -> Hashable:
    """The settings of torch that change what a program computes."""
    return torch.get_default_dtype(), torch.is_autocast_enabled("cpu"), torch.is_autocast_enabled()
