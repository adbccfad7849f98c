"""Save the state of a fit from time to time and when it is interrupted, and resume it."""

import signal
from collections.abc import Iterable
from pathlib import Path
from time import perf_counter
from typing import Any

from ..data.batches import Batches, LoaderBatches
from ..errors import InputError, Interrupted
from ..infer.parallel.processes import Processes
from ..infer.parallel.shards import Shards
from ..infer.svi.state import State
from ..infer.svi.svi import SVI
from .fit_state import FitState
from .history import History
from .passes import Pass
from .snapshots import BEST, LAST, Snapshots
from .sources import Sources

__all__ = ["Resumable"]


class Resumable:
    """Decides when to save the state of a fit, and restores the last one.

    Arguments:
        snapshots: where states are saved.
        svi: takes the steps.
        history: the epochs so far; resuming writes to it.
        every: seconds between two states.
        sources: what data and programs draw from and count.
        shards: parts of each batch that processes share; the first process saves.

    Attributes:
        best: the state of SVI after the best epoch so far.
        interrupted_by: number of the signal that asked to stop, if one did.
    """

    def __init__(
        self,
        snapshots: Snapshots,
        svi: SVI,
        history: History,
        every: float,
        sources: Sources,
        shards: Shards | None = None,
    ) -> None:
        self._snapshots = snapshots
        self._svi = svi
        self._history = history
        self._every = every
        self._sources = sources
        self._shards = Shards(1, Processes()) if shards is None else shards
        self._saved_at = perf_counter()
        self._pass: Pass | None = None
        self._is_best_saved = True
        self.best: State | None = None
        self.interrupted_by: int | None = None

    def prepare(
        self,
        data: Batches | LoaderBatches,
        *,
        num_scheduled: int | None,
        is_new: bool,
    ) -> None:
        """Restore the last state, if there is one, after the parameters have been met.

        Arguments:
            data: the training data.
            num_scheduled: steps over which the learning rate decays, if it does.
            is_new: whether there is no state yet.

        Raises:
            InputError: if the optimiser or the schedule cannot be saved, or the state is of another
                fit.
        """
        self._svi.state()
        self._state = FitState(self._svi, self._history, data, num_scheduled, self._sources)
        if is_new:
            return
        state = self._snapshots.read(LAST)
        try:
            self._state.check(state, self.folder)
            if state.record["has_best"]:
                self.best = self._read_best()
            self._state.restore(state)
        except (LookupError, TypeError, ValueError, AttributeError, RuntimeError) as error:
            if isinstance(error, InputError):
                raise
            raise InputError(
                f"{self.folder} holds no state from which a fit can go on: "
                f"{type(error).__name__}: {error}"
            ) from error

    @property
    def folder(self) -> Path:
        """Where states are saved."""
        return self._snapshots.folder

    @property
    def num_steps(self) -> int:
        """Number of steps taken before the fit was resumed."""
        return self._state.num_steps

    def begin_pass(self, batches: Iterable[tuple[Any, ...]]) -> Pass:
        """Begin a pass, or go on with the one that was under way."""
        self._pass = self._state.begin_pass(batches)
        return self._pass

    def step_done(self) -> None:
        """Save a state if it is time to.

        Raises:
            Interrupted: after saving, if a signal asked to stop.
            FloatingPointError: if a loss since the last state was not finite; none is saved then.
        """
        is_saving = perf_counter() - self._saved_at > self._every
        is_stopping = self.interrupted_by is not None
        shards = self._shards
        if shards.processes.num > 1:
            # The others must know by the next step, so that all save or stop at the same one.
            is_asked = is_saving and shards.processes.is_first and not shards.should_save
            shards.request(stop=is_stopping, save=is_asked)
            is_saving, is_stopping = shards.should_save, shards.should_stop
        if is_saving or is_stopping:
            self._save(is_stopping=is_stopping)

    def epoch_done(self, best: State | None, *, is_last: bool) -> None:
        """Save a state if it is time to, and after the last epoch.

        Arguments:
            best: the state of SVI after the best epoch so far.
            is_last: whether no epoch follows.

        Raises:
            Interrupted: as :meth:`step_done`.
        """
        self._pass = None
        if best is not self.best:
            self.best, self._is_best_saved = best, False
        is_due = self._shards.processes.num == 1 and (
            perf_counter() - self._saved_at > self._every or self.interrupted_by is not None
        )
        if is_last or is_due:
            self._save(is_stopping=self.interrupted_by is not None)

    def _save(self, *, is_stopping: bool) -> None:
        self._svi.check_finite()
        if self._shards.processes.is_first or self._svi.is_split:
            self._write(self._svi.state())
        self._saved_at = perf_counter()
        if is_stopping:
            raise Interrupted(
                f"stopped after epoch {len(self._history.epochs)} and "
                f"{self._pass.steps if self._pass else 0} steps; go on from {self.folder}",
                self.interrupted_by or signal.SIGTERM,  # another process got the signal
            )

    def _write(self, svi: State) -> None:
        if not self._shards.processes.is_first:
            return
        if self.best is not None and not self._is_best_saved:
            best = State(record={"fit": self._state.fit_id})
            best.add_state("svi", self.best)
            self._snapshots.write(BEST, best)
            self._is_best_saved = True
        has_best = self.best is not None
        self._snapshots.write(LAST, self._state.capture(svi, self._pass, has_best=has_best))

    def _read_best(self) -> State:
        best = self._snapshots.read(BEST)
        if best.record.get("fit") != self._state.fit_id:
            raise InputError(
                f"the best state in {self.folder} is of another fit than the last state; put back "
                "the best state that was there"
            )
        return best.get_state("svi")
