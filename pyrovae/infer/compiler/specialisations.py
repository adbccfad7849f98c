"""The specialisations of a function: one graph for each kind of call."""

from collections.abc import Callable, Hashable, Sequence
from dataclasses import dataclass, field
from operator import attrgetter
from typing import Any

import torch
from torch import Tensor

from ..trees import TreeSpec, unflatten
from .break_even import RunTimes
from .call import Call, Constants
from .recording.record import Recording
from .watch import Watch

__all__ = [
    "MOST_SPECIALISATIONS",
    "Compiled",
    "OutputSpec",
    "Specialisation",
    "Specialisations",
    "TooManySpecialisations",
]

MOST_SPECIALISATIONS = 16
"""Kinds of call that may have a graph of their own."""

_MOST_UNUSED = 4
"""Values that a program may read without one of them having come again."""


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


@dataclass(frozen=True)
class Compiled:
    """A compiled recording, perhaps together with what follows it.

    Attributes:
        run: takes the inputs of the recording; returns the tree of results.
        writes: the tensors that a run may change.
        finish: does to the function's own results, and to ``writes``, what a run does after the
            recorded operations, and returns what a run returns; None if nothing follows.
        sync: brings ``writes`` up to date; called before they are read or put back.
    """

    run: Callable[..., Any]
    writes: Sequence[Tensor]
    finish: Callable[[Any], Any] | None = None
    sync: Callable[[], None] = lambda: None


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
        next_audit: the number of calls of the graph before the next audit.
        is_refused: whether calls of this kind run as ordinary Python.
    """

    kept: list[Any]
    calls: int = 0
    eager: RunTimes = field(default_factory=RunTimes)
    replayed: RunTimes = field(default_factory=RunTimes)
    recording: Recording | None = None
    outputs: OutputSpec | None = None
    compiled: Compiled | None = None
    calls_of_graph: int = 0
    next_audit: int = 0
    is_refused: bool = False
    _shapes: list[Hashable] = field(default_factory=list)
    _strides: list[Hashable] = field(default_factory=list)
    _written: frozenset[int] = frozenset()

    def set_recording(self, recording: Recording) -> None:
        """Take up a recording of the function."""
        self.recording = recording
        self._shapes = list(map(_shape, recording.reads))
        self._strides = list(map(Tensor.stride, recording.reads))

    def set_compiled(self, compiled: Compiled) -> None:
        """Take up a compiled graph of the recording."""
        self.compiled = compiled
        self.calls_of_graph = self.next_audit = 0
        self._written = frozenset(map(_address, compiled.writes))

    def serves(self, inputs: Sequence[Tensor]) -> bool:
        """Whether the recording holds for these inputs, and for the present parameters and data.

        They have the layouts, and the values that the program reads, of the recorded run, and no
        input is stored where the graph writes.
        """
        assert self.recording is not None
        reads = self.recording.reads
        if list(map(Tensor.stride, reads)) != self._strides:
            return False
        if list(map(_shape, reads)) != self._shapes:
            return False
        if self._written:
            for each in inputs:
                if _address(each) in self._written:
                    return False
        conditions = self.recording.conditions
        return not conditions or conditions.hold([*reads, *inputs])


class TooManySpecialisations(Exception):
    """There are more kinds of call than may have graphs; says what changed between them."""


class Specialisations:
    """Finds the specialisation of a call, by all that its graph depends on.

    That is the layout of tensors, other arguments by value, the watched state of the program, what
    a key says, torch's default type and autocast, and the values that the program reads. A float
    that changes between otherwise equal calls becomes an input of the graph, be it an argument or
    in the state of the program; so does a tensor in that state which is replaced by another.

    Arguments:
        watch: the state of the program.
        frees_values: whether what changes in the state of the program may become inputs.
    """

    def __init__(self, watch: Watch, *, frees_values: bool = True) -> None:
        self._watch = watch
        self._frees_values = frees_values
        self._by_state: dict[Hashable, dict[Hashable, list[Specialisation]]] = {}
        self._state: Hashable = None
        self._state_before: Hashable = None
        self._of_state: dict[Hashable, list[Specialisation]] = {}
        self._floats: dict[Hashable, tuple[Any, ...]] = {}
        self._float_inputs: dict[TreeSpec | None, set[int]] = {}
        self._constants = Constants()
        self._first: Specialisation | None = None

    @property
    def num_graphs(self) -> tuple[int, int]:
        """How many graphs are recorded, and how many of these are compiled."""
        each = self._all()
        recorded = sum(found.recording is not None for found in each)
        return recorded, sum(found.compiled is not None for found in each)

    def as_call(self, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Call:
        """The arguments, with floats that are inputs of graphs taken as such."""
        return Call(args, kwargs, self._float_inputs, self._constants)

    def inputs(self, call: Call) -> list[Tensor]:
        """The inputs of the graph of a call: tensors, and floats made tensors."""
        freed = self._watch.freed()
        if not freed:
            return call.inputs()
        return call.inputs() + [v if isinstance(v, Tensor) else torch.tensor(v) for v in freed]

    def find(self, call: Call, key: Hashable) -> Specialisation:
        """The specialisation of a call, which is new for a kind not seen before.

        Raises:
            TooManySpecialisations: if the kind is new and there are too many already.
            Unwatchable: if an argument may change unseen.
        """
        state = self._watch.state()
        if state is not self._state:
            self._state_before, self._state = self._state, state
            self._of_state = self._by_state.get(state, {})
        signature = (call.signature(), key, _torch_settings())
        variants = self._of_state.get(signature)
        if variants is None:
            if self._make_changed_floats_inputs(call) or self._free_changes():
                return self.find(call, key)
            variants = []
        call.of_graph = inputs = self.inputs(call)
        for found in variants:
            if found.recording is None or found.serves(inputs):
                return found
        if len(self._all()) >= MOST_SPECIALISATIONS or _are_useless(variants):
            changed = self._watch.difference(self._state_before) if self._state_before else ""
            raise TooManySpecialisations(_describe_reads(variants) or changed or "the arguments")
        self._of_state = self._by_state.setdefault(state, {})
        found = Specialisation([*self._watch.objects(), *self._constants.objects()])
        self._of_state.setdefault(signature, []).append(found)
        self._first = self._first or found
        return found

    def are_refused(self) -> bool:
        """Whether all kinds of call so far run as ordinary Python, but for that of the first call.

        What the first call sets up makes later ones another kind.
        """
        return all(
            each.is_refused or (each is self._first and each.calls == 1) for each in self._all()
        )

    def _all(self) -> list[Specialisation]:
        of_states = self._by_state.values()
        return [each for found in of_states for variants in found.values() for each in variants]

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

    def _free_changes(self) -> bool:
        """Make inputs of the watched floats and tensors that alone differ from the state before."""
        before = self._state_before
        if before is None or not self._frees_values:
            return False
        if not self._watch.free_changes(before):
            return False
        self._state_before = None
        return True


def _are_useless(variants: list[Specialisation]) -> bool:
    """Whether a value that is read is a new one in nearly each call."""
    return len(variants) >= _MOST_UNUSED and all(each.calls <= 2 for each in variants)


def _describe_reads(variants: list[Specialisation]) -> str:
    """Where the values are read in which recordings of one kind of call differ."""
    recordings = [each.recording for each in variants if each.recording is not None]
    return recordings[0].conditions.places[0] if recordings and recordings[0].conditions else ""


def _torch_settings() -> Hashable:
    """The settings of torch that change what a program computes."""
    return torch.get_default_dtype(), torch.is_autocast_enabled("cpu"), torch.is_autocast_enabled()


_shape = attrgetter("shape")


def _address(tensor: Tensor) -> int:
    """Where the memory of a tensor, or of what it is a view of, begins."""
    return tensor.untyped_storage().data_ptr()
