"""A function of a Pyro program that comes to run without Python, once that pays.

Each kind of call (shapes and types of the arguments, Python values, state of the program) goes up
three steps: the program as it is; its recorded operations, one by one; the compiled graph of them.
The random numbers are the same on all three.
"""

import warnings
from collections.abc import Callable, Hashable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from time import perf_counter
from typing import Any, Literal

import torch
from pyro.poutine.runtime import _PYRO_STACK
from pyro.util import get_rng_state, set_rng_state
from torch import Tensor

from ...errors import InputError
from ..trees import TreeSpec, flatten, leaves_of, unflatten
from .call import Call, layout
from .compiled import compile_recording
from .payoff import Pace, Payoff
from .record import CannotRecord, Recording, record
from .watch import Watch

__all__ = ["HALF_PRECISION", "Captured", "Compile", "Results", "compile_results", "without_trace"]

Compile = Literal["auto"] | bool
"""Whether to run recorded and compiled graphs: where it pays, always, or never."""

Compiler = Callable[[Recording, "Results", list[Tensor]], Callable[..., Any]]
"""Makes a compiled function of a recording, of the form of its results, and of its inputs."""

_MOST_KINDS = 16
"""Kinds of call that may have a graph of their own."""

_AUDIT_EVERY = 1000
"""Calls between two comparisons of a graph with the program itself, on the same noise."""

_REPEATABLE_CALLS = 3000
"""Calls from which on a graph is likely to repay its cost, where no clock may tell."""

_TOLERANCE = {torch.float64: 1e-8, torch.float32: 1e-4}
HALF_PRECISION = 0.02
"""How far a graph may be off in an audit, relative to the result, or to one where it is smaller."""


@dataclass
class Results:
    """The form of what a recorded function gives.

    Attributes:
        spec: the tree of results.
        present: for each of its leaves, whether it is there; others are None.
    """

    spec: TreeSpec
    present: list[bool]

    def tree(self, values: Sequence[Tensor]) -> Any:
        """The values, without gradients, in their places."""
        there = iter(values)
        leaves = [next(there).detach() if is_there else None for is_there in self.present]
        return unflatten(self.spec, leaves)


@dataclass
class _Kind:
    """What is known of one kind of call."""

    kept: list[Any]
    calls: int = 0
    eager: Pace = field(default_factory=Pace)
    replayed: Pace = field(default_factory=Pace)
    recording: Recording | None = None
    results: Results | None = None
    compiled: Callable[..., Any] | None = None
    calls_of_graph: int = 0


class Captured:
    """Calls a function of tensors and other arguments, in the fastest way that repays its cost.

    Arguments:
        function: gives a tree of tensors, in which None may stand for what is not there; run again
            on the same random numbers it does the same, but for the buffers of modules.
        watched: what the function may read beside its arguments: models, guides, losses.
        compile: ``"auto"`` for what pays; True to record from the second call on, and compile the
            first kind of call at once, others where it pays; False for the function as it is.
        num_calls: how many calls there will be, if that is known.
        tolerance: how far results may be off in an audit, relative to them or to one where they
            are smaller; what their type allows unless given.
        compiler: makes the compiled function; may let it do more than the recording.
        on_compile: called before the compiler is, which takes some seconds.
        repeatable: whether what runs may not depend on a clock, so that the same calls give the
            same bits again: graphs are then used from the first call of a kind on, or never. The
            kind that :meth:`expect` was told of is compiled, others are recorded; ``"auto"`` goes
            by num_calls alone.
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
        self._expected_layouts: tuple[Hashable, ...] | None = None
        if repeatable and compile == "auto" and (num_calls or 0) < _REPEATABLE_CALLS:
            compile = False
        self._watch = Watch(*watched)
        self._compile = compile
        self._compiler = compile_results if compiler is None else compiler
        self._on_compile = on_compile
        self._tolerance = tolerance
        self._payoff = Payoff(num_calls)
        self._kinds: dict[Hashable, dict[Hashable, _Kind]] = {}
        self._state: Hashable = None
        self._state_before: Hashable = None
        self._kinds_of_state: dict[Hashable, _Kind] = {}
        self._floats: dict[Hashable, tuple[Any, ...]] = {}
        self._promoted: dict[TreeSpec | None, set[int]] = {}
        self._num_calls = 0
        self._is_steady = False
        self._steady: tuple[tuple[Hashable, ...], _Kind] | None = None
        self._has_warned = False
        self._refusal = ""
        self._can_compile = True

    @property
    def num_graphs(self) -> tuple[int, int]:
        """How many graphs were recorded, and how many of these compiled."""
        kinds = [kind for kinds in self._kinds.values() for kind in kinds.values()]
        recorded = sum(kind.recording is not None for kind in kinds)
        return recorded, sum(kind.compiled is not None for kind in kinds)

    def buffers(self) -> list[Tensor]:
        """The buffers of what is watched, as far as it was met."""
        return list(self._watch.buffers())

    def expect(self, args: tuple[Any, ...]) -> None:
        """Most calls will be like these: the kind to compile, in whatever order they come."""
        self._expected_layouts = _layouts(args)

    @contextmanager
    def steady(self) -> Iterator[None]:
        """Within, nothing changes that the function may read beside its arguments.

        What is watched and the key are looked at once for each run of calls that are alike.
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
        """The result of the function; key says what else it depends on.

        Raises:
            InputError: if compile is True and the function cannot be recorded.
        """
        self._num_calls += 1
        self._payoff.count()
        if self._steady is not None and not kwargs:
            signature, steady = self._steady
            if steady.calls_of_graph % _AUDIT_EVERY and signature == _layouts(args):
                assert steady.compiled is not None
                steady.calls += 1
                steady.calls_of_graph += 1
                return steady.compiled(*args)
        if self._refusal and self._compile is True:
            raise InputError(self._refusal)
        if self._compile is False or self._refusal or _PYRO_STACK:
            return self._function(*args, **kwargs)
        call = Call(args, kwargs, self._promoted)
        kind = self._kind_of(call, key())
        if kind is None:
            return self._function(*args, **kwargs)
        kind.calls += 1
        if self._repeatable and kind.recording is None:
            undo = _Undo(self._watch.buffers())
            self._record(kind, call)
            undo()
            if kind.recording is None:
                return self._function(*args, **kwargs)
        if kind.recording is None and not (
            self._num_calls > 1
            and (self._compile is True or self._payoff.of_recording(kind.eager, kind.calls))
        ):
            start = perf_counter()
            result = self._function(*args, **kwargs)
            kind.eager.add(perf_counter() - start)
            return result
        if kind.recording is None:
            return self._record(kind, call)
        result = self._run_graph(kind, call)
        is_alike = self._is_steady and kind.compiled is not None and call.spec is None
        self._steady = (_layouts(args), kind) if is_alike and not self._refusal else None
        return result

    def _kind_of(self, call: Call, key: Hashable) -> _Kind | None:
        """The kind of a call; None where it has no graph and will have none."""
        state = self._watch.state()
        if state is not self._state:
            self._state_before, self._state = self._state, state
            self._kinds_of_state = self._kinds.get(state, {})
        if not call.is_plain:
            self._refuse(
                "an argument is neither a tensor without a gradient nor a number, string or None; "
                "give what may change as tensors"
            )
            return None
        signature = (call.signature(), key, _surroundings())
        kind = self._kinds_of_state.get(signature)
        if kind is None:
            if self._promote(call):
                return self._kind_of(call, key)
            if sum(map(len, self._kinds.values())) >= _MOST_KINDS:
                changing = self._watch.difference(self._state_before) if self._state_before else ""
                self._warn(
                    f"there are more than {_MOST_KINDS} kinds of step, and further ones run as "
                    f"plain Python, since {changing or 'the arguments'} changed again; make "
                    "numbers that change tensors, and batches of one size"
                )
                return None
            self._kinds_of_state = self._kinds.setdefault(state, {})
            kind = self._kinds_of_state[signature] = _Kind(self._watch.objects())
        return kind

    def _promote(self, call: Call) -> bool:
        """Make tensors of the floats that changed since a call that was otherwise the same."""
        rest, floats = call.floats()
        if not floats or len(self._floats) >= _MOST_KINDS:
            return False
        before = self._floats.setdefault((rest, tuple(place for place, _ in floats)), floats)
        changed = {
            place for (place, new), (_, old) in zip(floats, before, strict=True) if new != old
        }
        self._promoted.setdefault(call.spec, set()).update(changed)
        return bool(changed)

    def _record(self, kind: _Kind, call: Call) -> Any:
        """Run the function once for real, and record it."""

        def flat(*tensors: Tensor) -> list[Tensor]:
            args, kwargs = call.with_inputs(tensors)
            values, spec = flatten(self._function(*args, **kwargs))
            kind.results = Results(spec, [value is not None for value in values])
            return [value for value in values if value is not None]

        state = self._watch.state()
        undo = _Undo(self._watch.buffers())
        reason = ""
        try:
            recording = record(flat, call.inputs())
            changed = self._watch.difference(state)
            if changed is not None:
                raise CannotRecord(f"{changed} changes as the program runs", recording.result)
        except CannotRecord as error:
            reason = str(error)
            if error.result is not None and self._compile is not True:
                assert kind.results is not None
                self._refuse(reason)
                return kind.results.tree(error.result)
        except Exception as error:  # what make_fx cannot follow; or the user's, which comes again
            reason = f"{type(error).__name__}: {_first_line(error)}"
        else:
            assert kind.results is not None
            kind.recording = recording
            return kind.results.tree(recording.result)
        undo()
        result = self._function(*call.args, **call.kwargs)
        self._refuse(reason)
        return result

    def _run_graph(self, kind: _Kind, call: Call) -> Any:
        assert kind.recording is not None
        assert kind.results is not None
        inputs = call.inputs()
        if kind.compiled is None and self._can_compile and self._should_compile(kind, call):
            self._compile_kind(kind, inputs)
        audit = kind.calls_of_graph % _AUDIT_EVERY == 0
        kind.calls_of_graph += 1
        expected = self._expected(kind, call) if audit else None
        if kind.compiled is None:
            start = perf_counter()
            with torch.no_grad():
                result = kind.results.tree(kind.recording(*inputs))
            kind.replayed.add(perf_counter() - start)
        else:
            result = kind.compiled(*inputs)
        if expected is not None:
            self._compare(expected, leaves_of(result))
        return result

    def _should_compile(self, kind: _Kind, call: Call) -> bool:
        is_first = self.num_graphs[1] == 0
        if self._repeatable:
            return is_first and _layouts(call.args) == self._expected_layouts
        if self._compile is True and is_first:
            return True
        return self._payoff.of_compiling(kind.replayed, kind.calls)

    def _compile_kind(self, kind: _Kind, inputs: list[Tensor]) -> None:
        assert kind.recording is not None
        assert kind.results is not None
        if self._on_compile is not None:
            self._on_compile()
        try:
            kind.compiled = self._compiler(kind.recording, kind.results, inputs)
            kind.calls_of_graph = 0
        except Exception as error:  # a compiler that fails, or is not there, costs its speed alone
            self._can_compile = False
            self._warn(
                "the recorded step runs uncompiled, since torch's compiler stopped with "
                f"{type(error).__name__}: {_first_line(error)}"
            )

    def _expected(self, kind: _Kind, call: Call) -> list[Any]:
        """What the program itself makes of a call, leaving no trace."""
        assert kind.recording is not None
        undo = _Undo([*kind.recording.writes, *self._watch.buffers()])
        results, _ = flatten(self._function(*call.args, **call.kwargs))
        undo()
        return results

    def _compare(self, expected: list[Any], results: list[Any]) -> None:
        """Refuse a graph that no longer computes what the program does."""
        for want, got in zip(expected, results, strict=False):
            if want is None or got is None:  # a compiled step keeps its gradients to itself
                continue
            tolerance = self._tolerance or _TOLERANCE.get(got.dtype, HALF_PRECISION)
            finite = want.nan_to_num(0.0, 0.0, 0.0)
            scale = finite.abs().max().clamp_min(1.0) if want.numel() else want.new_ones(())
            if not torch.allclose(want, got, rtol=0, atol=float(tolerance * scale), equal_nan=True):
                self._refuse(
                    "the recorded step no longer computes what the program does (a tensor or an "
                    "object that it uses was replaced, or it counts its own calls); the last "
                    f"{_AUDIT_EVERY} steps, or fewer, may have been of the program as it was"
                )
                return

    def _refuse(self, reason: str) -> None:
        self._refusal = f"compile=True, but the step cannot be recorded: {reason}"
        if self._compile is True:
            raise InputError(self._refusal)
        self._warn(f"steps run as plain Python, which is slower, since {reason}")

    def _warn(self, message: str) -> None:
        if not self._has_warned:
            self._has_warned = True
            warnings.warn(message, RuntimeWarning, stacklevel=2)


@contextmanager
def without_trace(tensors: Sequence[Tensor]) -> Iterator[None]:
    """Within, random numbers are drawn and these tensors written to; afterwards none were."""
    undo = _Undo(tensors)
    try:
        yield
    finally:
        undo()


class _Undo:
    """Brings random numbers and tensors back to what they were when it was made."""

    def __init__(self, tensors: Sequence[Tensor]) -> None:
        self._random = get_rng_state()
        self._cuda = torch.cuda.get_rng_state_all() if torch.cuda.is_initialized() else []
        self._values = [(t, t.clone()) for t in {id(t): t for t in tensors}.values()]

    @torch.no_grad()
    def __call__(self) -> None:
        set_rng_state(self._random)
        if self._cuda:
            torch.cuda.set_rng_state_all(self._cuda)
        for tensor, value in self._values:
            tensor.copy_(value)


def _layouts(args: tuple[Any, ...]) -> tuple[Hashable, ...]:
    """Those of plain tensors; None for what is looked at more closely."""
    return tuple(
        [layout(arg) if isinstance(arg, Tensor) and not arg.requires_grad else None for arg in args]
    )


def _surroundings() -> Hashable:
    """What in torch changes the meaning of a program."""
    return torch.get_default_dtype(), torch.is_autocast_enabled("cpu"), torch.is_autocast_enabled()


def compile_results(
    recording: Recording, results: Results, inputs: list[Tensor]
) -> Callable[..., Any]:
    """The recording compiled, and nothing else."""
    run = compile_recording(recording, inputs)
    return lambda *inputs: results.tree(run(*inputs))


def _first_line(error: Exception) -> str:
    return (str(error).strip().splitlines() or [""])[0]
