"""A fit that can be stopped at any step, or killed, and goes on as if it had not been."""

import signal
import threading
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path
from time import perf_counter
from types import FrameType
from typing import Any
from uuid import uuid4

from torch import Generator, Tensor

from ..data.batches import Batches, LoaderBatches
from ..errors import InputError, Interrupted
from ..infer.parallel.processes import Processes
from ..infer.parallel.shards import Shards
from ..infer.svi.state import State
from ..infer.svi.svi import SVI
from .history import Epoch, History
from .passes import Pass
from .randomness import random_state, set_random_state
from .snapshots import BEST, LAST, Snapshots

__all__ = ["Resumable", "interruptible"]


class Resumable:
    """Keeps the states of a fit, and brings back the last.

    Arguments:
        snapshots: where they are kept.
        svi: what takes the steps.
        history: of whole epochs, written to on return.
        every: seconds from one state to the next.
        generators: of random numbers, beside those that all of a process share.
        shards: parts of each batch that processes share out; the first of these writes.
    """

    def __init__(
        self,
        snapshots: Snapshots,
        svi: SVI,
        history: History,
        every: float,
        generators: Sequence[Generator] = (),
        shards: Shards | None = None,
    ) -> None:
        self._snapshots = snapshots
        self._svi = svi
        self._history = history
        self._every = every
        self._generators = generators
        self._shards = Shards(1, Processes()) if shards is None else shards
        self._fit = uuid4().hex
        self._saved_at = perf_counter()
        self._pass: Pass | None = None
        self._resumed: State | None = None
        self._form: dict[str, Any] = {}
        self._best_is_kept = True
        self.best: State | None = None
        self.interrupted_by: int | None = None

    def prepare(
        self,
        data: Batches | LoaderBatches,
        *,
        num_scheduled: int | None,
        is_new: bool,
    ) -> None:
        """Go back to the last state where there is one; the parameters have been met.

        Arguments:
            data: that are trained on.
            num_scheduled: steps over which the learning rate goes down, if it does.
            is_new: whether there is no state yet.

        Raises:
            InputError: if the optimiser or the schedule cannot be kept, or the state is of another
                fit.
        """
        self._svi.state()
        digest = data.digest() if isinstance(data, Batches) else None
        self._form = {
            "data": data.size,
            "batches": len(data),
            "batch_size": getattr(data, "batch_size", None),
            "digest": digest,
            "scheduled": num_scheduled,
        }
        if is_new:
            return
        state = self._snapshots.read(LAST)
        try:
            self._go_back(state)
        except (LookupError, TypeError, ValueError, AttributeError, RuntimeError) as error:
            if isinstance(error, InputError):
                raise
            raise InputError(
                f"{self._snapshots.folder} holds no state that can be gone on from: "
                f"{type(error).__name__}: {error}"
            ) from error

    @property
    def folder(self) -> Path:
        """Where states are kept."""
        return self._snapshots.folder

    @property
    def num_steps(self) -> int:
        """Steps that were taken before."""
        in_pass = 0 if self._resumed is None else int(self._resumed.record["steps"])
        return len(self._history.epochs) * int(self._form["batches"]) + in_pass

    def enter(self, batches: Iterable[tuple[Any, ...]]) -> Pass:
        """Begin a pass, or go on in the one that was under way."""
        if self._resumed is None:
            self._pass = Pass(iter(batches), random=random_state(*self._generators))
            return self._pass
        state, self._resumed = self._resumed, None
        start = state.get_state("start")
        set_random_state(start, *self._generators)
        left = iter(batches)
        for _ in range(state.record["steps"]):
            next(left)
        set_random_state(state.get_state("now"), *self._generators)
        (total,) = state.tensors_of("total")
        total = total.to(self._svi.parameters[0].device)
        self._pass = Pass(left, total, state.record["seen"], state.record["steps"], start)
        return self._pass

    def step_done(self) -> None:
        """Keep a state where it is time to.

        Raises:
            Interrupted: once the state is kept, if that was asked for.
            FloatingPointError: if a loss was not finite since the state before; none is kept then.
        """
        is_keeping = perf_counter() - self._saved_at > self._every
        is_stopping = self.interrupted_by is not None
        shards = self._shards
        if shards.processes.num > 1:
            # Others have to know, by the next step, and then all keep or stop at the same one.
            is_asked = is_keeping and shards.processes.is_first and not shards.should_save
            shards.request(stop=is_stopping, save=is_asked)
            is_keeping, is_stopping = shards.should_save, shards.should_stop
        if is_keeping or is_stopping:
            self._keep(is_stopping=is_stopping)

    def epoch_done(self, best: State | None, *, is_last: bool) -> None:
        """Keep a state where it is time to, and after the last epoch.

        Arguments:
            best: the state of the best epoch so far.
            is_last: whether no epoch follows.

        Raises:
            Interrupted: as :meth:`step_done`.
        """
        self._pass = None
        if best is not self.best:
            self.best, self._best_is_kept = best, False
        is_due = self._shards.processes.num == 1 and (
            perf_counter() - self._saved_at > self._every or self.interrupted_by is not None
        )
        if is_last or is_due:
            self._keep(is_stopping=self.interrupted_by is not None)

    def _keep(self, *, is_stopping: bool) -> None:
        self._svi.check_finite()
        if self._shards.processes.is_first or self._svi.is_split:
            self._write(self._svi.state())
        self._saved_at = perf_counter()
        if is_stopping:
            raise Interrupted(
                f"stopped after epoch {len(self._history.epochs)} and "
                f"{self._pass.steps if self._pass else 0} steps; go on from "
                f"{self._snapshots.folder}",
                self.interrupted_by or signal.SIGTERM,  # of another process
            )

    def _write(self, svi: State) -> None:
        if not self._shards.processes.is_first:
            return
        if self.best is not None and not self._best_is_kept:
            best = State(record={"fit": self._fit})
            best.add_state("svi", self.best)
            self._snapshots.write(BEST, best)
            self._best_is_kept = True
        state = State()
        state.add_state("svi", svi)
        state.add_state("random", random_state(*self._generators))
        state.record["fit"] = self._fit
        state.record["epochs"] = [asdict(epoch) for epoch in self._history.epochs]
        state.record["stopped_early"] = self._history.stopped_early
        state.record["has_best"] = self.best is not None
        state.record["form"] = self._form
        if self._pass is not None and self._pass.total is not None:
            state.add_state("pass", self._state_of(self._pass, self._pass.total))
        self._snapshots.write(LAST, state)

    def _state_of(self, pass_: Pass, total: Tensor) -> State:
        assert pass_.random is not None
        state = State()
        state.add("total", [total])
        state.add_state("start", pass_.random)
        state.add_state("now", random_state(*self._generators))
        state.record |= {"seen": pass_.seen, "steps": pass_.steps}
        return state

    def _go_back(self, state: State) -> None:
        form = state.record["form"]
        if form["scheduled"] != self._form["scheduled"]:
            raise InputError(
                f"the learning rate of the fit in {self._snapshots.folder} was to go down over "
                f"{form['scheduled']} steps, and is now over {self._form['scheduled']}: give the "
                "schedule and the epochs that it had"
            )
        if form != self._form:
            raise InputError(
                f"the fit in {self._snapshots.folder} was of {form['data']} data in "
                f"{form['batches']} batches; these are {self._form['data']} in "
                f"{self._form['batches']}, or other values: give the data and the batch_size that "
                "it had"
            )
        epochs = [Epoch(**epoch) for epoch in state.record["epochs"]]
        self._fit = state.record["fit"]
        if state.record["has_best"]:
            self.best = self._read_best()
        self._svi.load_state(state.get_state("svi"))
        set_random_state(state.get_state("random"), *self._generators)
        self._history.epochs[:] = epochs
        self._history.stopped_early = state.record["stopped_early"]
        if "pass" in state.record:
            self._resumed = state.get_state("pass")
            steps, seen = (self._resumed.record[name] for name in ("steps", "seen"))
            if not (type(steps) is type(seen) is int and 0 <= steps <= form["batches"]):
                raise TypeError(f"the place in a pass is {steps!r} steps, of {form['batches']}")

    def _read_best(self) -> State:
        best = self._snapshots.read(BEST)
        if best.record.get("fit") != self._fit:
            raise InputError(
                f"the best state in {self._snapshots.folder} is of another fit than the last; put "
                "back the one that was there"
            )
        return best.get_state("svi")


@contextmanager
def interruptible(resumable: Resumable | None) -> Iterator[None]:
    """Within, Ctrl-C and SIGTERM wait for the end of a step, whose state is then kept; a second
    Ctrl-C does not wait.
    """
    if resumable is None or threading.current_thread() is not threading.main_thread():
        yield
        return
    before = {sent: signal.getsignal(sent) for sent in (signal.SIGINT, signal.SIGTERM)}

    def note(number: int, frame: FrameType | None) -> None:
        if resumable.interrupted_by is not None and number == signal.SIGINT:
            raise KeyboardInterrupt
        resumable.interrupted_by = number

    for sent in before:
        signal.signal(sent, note)
    try:
        yield
        if resumable.interrupted_by is not None:  # as the last state was written
            raise Interrupted(
                f"stopped after the last epoch; go on from {resumable.folder}",
                resumable.interrupted_by,
            )
    finally:
        for sent, handler in before.items():
            signal.signal(sent, handler)
