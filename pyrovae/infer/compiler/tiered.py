"""A function of a Pyro program that is run in tiers: as it is, recorded, and compiled.

Each kind of call (shapes and types of the arguments, Python values, state of the program) goes up
three tiers: the program itself; its recorded tensor operations, one by one; their compiled graph.
A tier is left for the next one where that pays. All draw the same random numbers.
"""

import warnings
from collections.abc import Callable, Hashable, Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from time import perf_counter
from typing import Any, Literal

import torch
from pyro.poutine.runtime import _PYRO_STACK
from torch import Tensor

from ...errors import InputError
from ..trees import flatten
from .audit import Auditor
from .break_even import BreakEven
from .call import Call, Unwatchable
from .inductor import compile_recording
from .preserve import Snapshot
from .recording.errors import CannotRecord
from .recording.frames import place_of
from .recording.record import Recording, record
from .search import tensor_layout
from .specialisations import (
    MOST_SPECIALISATIONS,
    Compiled,
    OutputSpec,
    Specialisation,
    Specialisations,
    TooManySpecialisations,
)
from .strides import CannotCompile
from .watch import Watch

__all__ = ["AUDIT_EVERY", "Compile", "TieredFunction", "compile_outputs"]

Compile = Literal["auto"] | bool
"""Whether to record and compile: ``"auto"`` where it pays, True always, False never."""

Compiler = Callable[[Recording, OutputSpec, list[Tensor]], Compiled]
"""Compiles a recording, given the structure of its results and example inputs."""

AUDIT_EVERY = 1000
"""Most calls between two comparisons of a graph with the program itself, on the same noise."""

_CHANGES = "{} changes as the program runs; keep it in a tensor, and write to that in place"

_MOST_MISSES = 100
"""Calls in a row without a graph, for want of room, after which none is looked for."""

_REPEATABLE_CALLS = 3000
"""Calls from which on a graph is likely to repay its cost, where no clock may decide."""


class TieredFunction:
    """Calls a function of tensors and other arguments in the fastest way that repays its cost.

    Arguments:
        function: returns a tree of tensors, in which None may stand for an absent one. Run again
            on the same random numbers it returns the same, apart from the buffers of modules.
        watched: what the function may read besides its arguments: models, guides, losses.
        compile: ``"auto"`` for what pays. True records from the second call on, compiles the first
            kind of call at once and others where it pays. False runs the function itself.
        num_calls: number of calls to come, if it is known.
        tolerance: largest error of results in an audit, relative to the largest entry; by their
            type unless given.
        compiler: compiles a recording, perhaps together with further work.
        on_compile: called before compiling, which takes some seconds.
        repeatable: whether no clock may decide what runs, so that the same calls give the same
            bits again. Graphs are then used from the first call of a kind on, or never. The kind
            that :meth:`expect` names is compiled, others are recorded; ``"auto"`` decides by
            num_calls alone.

    Attributes:
        expected: the kind of call that :meth:`expect` names, in words.
        kinds: the kinds of call that may have a graph, in words, where calls are repeatable. A
            run that goes on from another begins with those of the other.
        can_compile: whether recorded graphs may be compiled; False once the compiler has failed.
    """

    def __init__(
        self,
        function: Callable[..., Any],
        watched: Sequence[Any],
        *,
        compile: Compile,
        num_calls: int | None = None,
        tolerance: float | None = None,
        compiler: Compiler | None = None,
        on_compile: Callable[[], None] | None = None,
        repeatable: bool = False,
    ) -> None:
        self._function = function
        self._repeatable = repeatable
        self.expected = ""
        self.kinds: list[str] = []
        if repeatable and compile == "auto" and (num_calls or 0) < _REPEATABLE_CALLS:
            compile = False
        self._watch = Watch(*watched)
        self._compile = compile
        self._compiler = compile_outputs if compiler is None else compiler
        self._on_compile = on_compile
        self._auditor = Auditor(function, self._watch.buffers, tolerance)
        self._break_even = BreakEven(num_calls)
        self._specialisations = Specialisations(self._watch, frees_values=not repeatable)
        self._num_calls = self._num_misses = 0
        self._is_steady = False
        self._steady: tuple[tuple[Hashable, ...], Specialisation] | None = None
        self._has_warned = False
        self._refusal = ""
        self.can_compile = True

    @property
    def num_graphs(self) -> tuple[int, int]:
        """How many graphs are recorded, and how many of these are compiled."""
        return self._specialisations.num_graphs

    def buffers(self) -> list[Tensor]:
        """The buffers found so far in what is watched."""
        return self._watch.known_buffers() if self._refusal else list(self._watch.buffers())

    def expect(self, args: tuple[Any, ...]) -> None:
        """Compile calls like these, in whatever order they come, as most calls will be so."""
        self.expected = repr(_layouts(args))
        if self.expected not in self.kinds:
            self.kinds.append(self.expected)

    @contextmanager
    def steady(self) -> Iterator[None]:
        """Within, nothing changes that the function may read besides its arguments.

        What is watched, and the key, are checked once in each run of equal calls.
        """
        self._is_steady = True
        try:
            yield
        finally:
            self._is_steady, self._steady = False, None

    def __call__(
        self,
        args: tuple[Any, ...],
        kwargs: dict[str, Any],
        key: Callable[[], Hashable] = tuple,
    ) -> Any:
        """The result of the function; key returns what else it depends on.

        Raises:
            InputError: if compile is True and the function cannot be recorded.
        """
        self._num_calls += 1
        self._break_even.count()
        if self._steady is not None and not kwargs:
            signature, steady = self._steady
            if steady.calls_of_graph != steady.next_audit and signature == _layouts(args):
                assert steady.compiled is not None
                steady.calls += 1
                steady.calls_of_graph += 1
                return steady.compiled.run(*args)
        if self._refusal and self._compile is True:
            raise InputError(self._refusal)
        if self._compile is False or self._refusal or _PYRO_STACK:
            return self._function(*args, **kwargs)
        if self._repeatable and not self._may_have_graph(args):
            return self._function(*args, **kwargs)
        call = self._specialisations.as_call(args, kwargs)
        found = self._find(call, key)
        if found is None or found.is_refused:
            return self._function(*args, **kwargs)
        found.calls += 1
        if self._repeatable and found.recording is None:
            snapshot = Snapshot(self._watch.buffers())
            self._record(found, call)
            snapshot.restore()
            if found.recording is None:
                return self._function(*args, **kwargs)
        if found.recording is None and self._should_record(found):
            return self._record(found, call)
        if found.recording is None:
            start = perf_counter()
            with self._watch.test_freed():
                result = self._function(*args, **kwargs)
            found.eager.add(perf_counter() - start)
            return result
        result = self._run_graph(found, call)
        if self._is_steady:
            self._steady = self._as_steady(found, call)
        return result

    def _as_steady(
        self, found: Specialisation, call: Call
    ) -> tuple[tuple[Hashable, ...], Specialisation] | None:
        """What further calls like this one need no look for; None where they need one."""
        assert found.recording is not None
        if found.compiled is None or call.spec is not None or self._refusal:
            return None
        if found.recording.conditions or self._watch.freed():
            return None
        return _layouts(call.args), found

    def _may_have_graph(self, args: tuple[Any, ...]) -> bool:
        """Whether calls are of one of the first kinds, of which there may be so many."""
        kind = repr(_layouts(args))
        if kind not in self.kinds and len(self.kinds) < MOST_SPECIALISATIONS:
            self.kinds.append(kind)
        return kind in self.kinds

    def _find(self, call: Call, key: Callable[[], Hashable]) -> Specialisation | None:
        """The specialisation of a call; None where it has no graph and will have none."""
        try:
            found = self._specialisations.find(call, key())
        except Unwatchable as error:
            self._refuse(str(error), of_all=False)
            return None
        except TooManySpecialisations as error:
            self._num_misses += 1
            reason = (
                f"there are too many kinds of step: {error} changes again and again; make numbers "
                "that change tensors or floats, and batches of one size"
            )
            if self._compile == "auto" and self._num_misses > _MOST_MISSES:
                self._refusal = reason  # as looking for a graph costs time, too
            self._warn(
                f"further kinds of step run as ordinary Python, which is slower, since {reason}"
            )
            return None
        self._num_misses = 0
        return found

    def _should_record(self, found: Specialisation) -> bool:
        if self._num_calls == 1 or self._watch.has_untested:
            return False
        return self._compile is True or self._break_even.of_recording(found.eager, found.calls)

    def _record(self, found: Specialisation, call: Call) -> Any:
        """Run the function once for real, and record it."""

        num_freed = len(self._watch.freed())
        replaced: list[str] = []

        def flat_function(*tensors: Tensor) -> list[Tensor]:
            place = len(tensors) - num_freed
            args, kwargs = call.with_inputs(tensors[:place])
            with self._watch.replace_freed(tensors[place:]) as changed:
                values, spec = flatten(self._function(*args, **kwargs))
            replaced.extend(changed)
            found.outputs = OutputSpec(spec, [value is not None for value in values])
            return [value for value in values if value is not None]

        state = self._watch.state()
        snapshot = Snapshot(self._watch.buffers())
        inputs = self._specialisations.inputs(call)
        reason = ""
        try:
            recording = record(flat_function, inputs)
            if replaced:  # and put back, so that the program has to run again
                raise CannotRecord(_CHANGES.format(", ".join(replaced)))
            changed = self._watch.difference(state)
            if changed is not None:
                raise CannotRecord(_CHANGES.format(changed), recording.result)
        except CannotRecord as error:
            reason = str(error)
            if error.result is not None and self._compile is not True:
                assert found.outputs is not None
                found.is_refused = True
                self._refuse(reason, of_all=self._specialisations.are_refused())
                return found.outputs.unflatten(error.result)
        except Exception as error:  # make_fx cannot follow; or the user's error, raised again below
            place = place_of(error.__traceback__) or "the program"
            reason = f"torch cannot follow what {place} does ({type(error).__name__})"
        else:
            assert found.outputs is not None
            found.set_recording(recording)
            return found.outputs.unflatten(recording.result)
        snapshot.restore()
        result = self._function(*call.args, **call.kwargs)
        found.is_refused = True
        self._refuse(reason, of_all=self._specialisations.are_refused())
        return result

    def _run_graph(self, found: Specialisation, call: Call) -> Any:
        assert found.recording is not None
        inputs = call.of_graph
        if found.compiled is None and self.can_compile and self._should_compile(found, call):
            self._compile_graph(found, inputs)
        if found.calls_of_graph == found.next_audit:
            return self._audit(found, call, inputs)
        found.calls_of_graph += 1
        if found.compiled is not None:
            return found.compiled.run(*inputs)
        start = perf_counter()
        result = self._replay(found, *inputs)
        found.replayed.add(perf_counter() - start)
        return result

    def _replay(self, found: Specialisation, *inputs: Tensor) -> Any:
        assert found.recording is not None
        assert found.outputs is not None
        with torch.no_grad():
            return found.outputs.unflatten(found.recording(*inputs))

    def _should_compile(self, found: Specialisation, call: Call) -> bool:
        assert found.recording is not None
        is_first = self.num_graphs[1] == 0
        if self._repeatable:  # which of several values is read first, may differ once resumed
            has_one_value = not found.recording.conditions
            return is_first and has_one_value and repr(_layouts(call.args)) == self.expected
        if self._compile is True and is_first:
            return True
        return self._break_even.of_compiling(found.replayed, found.calls)

    def _compile_graph(self, found: Specialisation, inputs: list[Tensor]) -> None:
        assert found.recording is not None
        assert found.outputs is not None
        if self._on_compile is not None:
            self._on_compile()
        try:
            found.set_compiled(self._compiler(found.recording, found.outputs, inputs))
        except CannotCompile as error:
            self._stop_compiling(found, str(error))
        except Exception as error:  # a compiler that fails, or is missing, costs speed alone
            self._stop_compiling(
                found,
                f"torch's compiler stopped with {type(error).__name__}: {_first_line(error)}",
            )

    def _stop_compiling(self, found: Specialisation, reason: str) -> None:
        """Go on with recorded operations, one by one."""
        self.can_compile = False
        found.compiled = None
        self._warn(f"the recorded step runs uncompiled, since {reason}")

    def _audit(self, found: Specialisation, call: Call, inputs: list[Tensor]) -> Any:
        """Run the program and its graph; keep what the program did if they differ."""
        is_first = found.calls_of_graph == 0
        found.calls_of_graph += 1
        found.next_audit = min(2 * found.next_audit + 1, found.next_audit + AUDIT_EVERY)
        run = partial(self._replay, found) if found.compiled is None else found.compiled.run
        audit = self._auditor(found, call, lambda: run(*inputs))
        if audit.fault and found.compiled is not None and is_first:
            self._stop_compiling(found, f"once compiled, {audit.fault}")
        elif audit.fault:
            if self._compile is True:
                audit.before.restore()
            self._refuse(
                "the recorded step no longer computes what the program does (a tensor or an object "
                "that it uses was replaced, or it counts its own calls); up to the last "
                f"{AUDIT_EVERY} steps may have been computed by the program as it was before"
            )
        return audit.results

    def _refuse(self, reason: str, *, of_all: bool = True) -> None:
        """Run calls of this kind, or all, as ordinary Python; or raise where that is an error."""
        refusal = f"compile=True, but the step cannot be recorded: {reason}"
        if self._compile is True:
            self._refusal = refusal
            raise InputError(refusal)
        if of_all:
            self._refusal = refusal
        self._warn(f"steps run as ordinary Python, which is slower, since {reason}")

    def _warn(self, message: str) -> None:
        if not self._has_warned:
            self._has_warned = True
            warnings.warn(message, RuntimeWarning, stacklevel=2)


def compile_outputs(recording: Recording, outputs: OutputSpec, inputs: list[Tensor]) -> Compiled:
    """Compile the recording, and nothing else."""
    run = compile_recording(recording, inputs)
    return Compiled(lambda *inputs: outputs.unflatten(run(*inputs)), recording.writes)


def _layouts(args: tuple[Any, ...]) -> tuple[Hashable, ...]:
    """The layouts of plain tensors; None for other arguments, which need a closer look."""
    return tuple(
        [
            tensor_layout(arg) if isinstance(arg, Tensor) and not arg.requires_grad else None
            for arg in args
        ]
    )


def _first_line(error: Exception) -> str:
    return (str(error).strip().splitlines() or [""])[0]
