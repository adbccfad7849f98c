"""What a saved state of a fit holds, and how a fit goes on from it."""

from collections.abc import Iterable
from dataclasses import asdict
from pathlib import Path
from typing import Any
from uuid import uuid4

from torch import Tensor

from ..data.batches import Batches, LoaderBatches
from ..errors import InputError
from ..infer.svi.state import State
from ..infer.svi.svi import SVI
from .history import Epoch, History
from .passes import Pass
from .sources import Sources

__all__ = ["FitState"]


class FitState:
    """Captures the state of a fit at a step, and restores it.

    A state holds the parameters, optimiser and schedule, the random states, the history, and the
    place in the pass that is under way.

    Arguments:
        svi: takes the steps.
        history: the epochs so far; restoring writes to it.
        data: the training data.
        num_scheduled: steps over which the learning rate decays, if it does.
        sources: what data and programs draw from and count.

    Attributes:
        fit_id: identifies the fit, so that its best state is told from that of another.
    """

    def __init__(
        self,
        svi: SVI,
        history: History,
        data: Batches | LoaderBatches,
        num_scheduled: int | None,
        sources: Sources,
    ) -> None:
        self._svi = svi
        self._history = history
        self._sources = sources
        self._resumed_pass: State | None = None
        self.fit_id = uuid4().hex
        self._form: dict[str, Any] = {
            "data": data.size,
            "batches": len(data),
            "batch_size": getattr(data, "batch_size", None),
            "digest": data.digest() if isinstance(data, Batches) else None,
            "scheduled": num_scheduled,
        }

    @property
    def num_steps(self) -> int:
        """Number of steps taken before the fit was resumed."""
        in_pass = 0 if self._resumed_pass is None else int(self._resumed_pass.record["steps"])
        return len(self._history.epochs) * int(self._form["batches"]) + in_pass

    def capture(self, svi: State, pass_: Pass | None, *, has_best: bool) -> State:
        """The state of the fit now.

        Arguments:
            svi: the state of SVI.
            pass_: the pass that is under way, if one is.
            has_best: whether a best state belongs to it.
        """
        state = State()
        state.add_state("svi", svi)
        state.add_state("random", self._sources.state())
        state.record["fit"] = self.fit_id
        state.record["epochs"] = [asdict(epoch) for epoch in self._history.epochs]
        state.record["stopped_early"] = self._history.stopped_early
        state.record["has_best"] = has_best
        state.record["form"] = self._form
        if pass_ is not None and pass_.total is not None:
            state.add_state("pass", self._capture_pass(pass_, pass_.total))
        return state

    def check(self, state: State, folder: Path) -> None:
        """Check that a state is of this fit, and take its identity.

        Arguments:
            state: the state.
            folder: where it was saved, for messages.

        Raises:
            InputError: if its data, batches or schedule differ.
        """
        form = state.record["form"]
        if form["scheduled"] != self._form["scheduled"]:
            raise InputError(
                f"the learning rate of the fit in {folder} decays over {form['scheduled']} steps, "
                f"and would now decay over {self._form['scheduled']}: give the schedule and epochs "
                "that it had"
            )
        if form != self._form:
            raise InputError(
                f"the fit in {folder} has {form['data']} data in {form['batches']} batches; these "
                f"are {self._form['data']} in {self._form['batches']}, or other values: give the "
                "data and the batch_size that it had"
            )
        self.fit_id = state.record["fit"]

    def restore(self, state: State) -> None:
        """Bring parameters, random states and history back to a state of this fit.

        Raises:
            InputError: if its parameters or settings differ.
            TypeError: if its place in a pass is not valid.
        """
        epochs = [Epoch(**epoch) for epoch in state.record["epochs"]]
        self._svi.load_state(state.get_state("svi"))
        self._sources.restore(state.get_state("random"))
        self._history.epochs[:] = epochs
        self._history.stopped_early = state.record["stopped_early"]
        if "pass" in state.record:
            self._resumed_pass = state.get_state("pass")
            steps, seen = (self._resumed_pass.record[name] for name in ("steps", "seen"))
            if not (type(steps) is type(seen) is int and 0 <= steps <= self._form["batches"]):
                raise TypeError(
                    f"the place in a pass is {steps!r} steps, of {self._form['batches']}"
                )

    def begin_pass(self, batches: Iterable[tuple[Any, ...]]) -> Pass:
        """Begin a pass, or go on with the one that was under way in the restored state."""
        if self._resumed_pass is None:
            return Pass(iter(batches), random=self._sources.state())
        state, self._resumed_pass = self._resumed_pass, None
        start = state.get_state("start")
        self._sources.restore(start)
        left = iter(batches)
        for _ in range(state.record["steps"]):
            next(left)
        self._sources.restore(state.get_state("now"))
        (total,) = state.tensors_of("total")
        total = total.to(self._svi.parameters[0].device)
        return Pass(left, total, state.record["seen"], state.record["steps"], start)

    def _capture_pass(self, pass_: Pass, total: Tensor) -> State:
        assert pass_.random is not None
        state = State()
        state.add("total", [total])
        state.add_state("start", pass_.random)
        state.add_state("now", self._sources.state())
        state.record |= {"seen": pass_.seen, "steps": pass_.steps}
        return state
