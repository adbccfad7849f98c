"""The progress bar of training, which seldom waits for the device."""

from time import perf_counter
from types import TracebackType

from rich.progress import BarColumn, Progress, TextColumn, TimeRemainingColumn

from ..progress import no_wrap_column
from .history import Epoch
from .passes import Pass

__all__ = ["TrainingProgress"]

_READ_EVERY = 0.5
"""Seconds between two readings of the running loss; each reading waits for the device."""


class TrainingProgress:
    """Shows epoch, loss, reconstruction, KL (nats per datum) and data per second.

    Arguments:
        epochs: number of passes through the data.
        num_batches: number of steps in a pass.
        enabled: whether to show anything.
    """

    def __init__(self, epochs: int, num_batches: int, *, enabled: bool = True) -> None:
        self._epochs = epochs
        self._progress = Progress(
            TextColumn("epoch {task.fields[epoch]}/" + str(epochs)),
            BarColumn(bar_width=None),
            TextColumn("{task.fields[figures]}", table_column=no_wrap_column()),
            TimeRemainingColumn(
                compact=True, elapsed_when_finished=True, table_column=no_wrap_column()
            ),
            disable=not enabled,
            expand=True,
        )
        self._task = self._progress.add_task("", total=epochs * num_batches, epoch=1, figures="")
        self._epoch = 1
        self._rate = ""
        self._validation = ""
        self._epoch_start = self._last_read = perf_counter()

    def __enter__(self) -> "TrainingProgress":
        self._progress.start()
        self._epoch_start = self._last_read = perf_counter()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._progress.stop()

    def start_at(self, epochs: int, steps: int) -> None:
        """Begin after this many finished epochs and steps."""
        self._epoch = min(epochs + 1, self._epochs)
        self._progress.update(self._task, epoch=self._epoch, completed=steps)

    def step_done(self, pass_: Pass) -> None:
        """Advance by a step of a pass."""
        if self._progress.disable:
            return
        self._progress.advance(self._task)
        now = perf_counter()
        if now - self._last_read > _READ_EVERY:
            self._last_read = now
            self._rate = f", {pass_.seen / (now - self._epoch_start):,.0f}/s"
            self._show(*pass_.figures())

    def show_compiling(self) -> None:
        """Show that training waits for the compiler."""
        self._progress.update(self._task, figures="compiling the step once: about 15 s")
        self._progress.refresh()

    def epoch_done(self, epoch: Epoch, size: int) -> None:
        """Show the means of a finished epoch over ``size`` data."""
        self._rate = f", {size / epoch.seconds:,.0f}/s"
        if epoch.validation_loss is not None:
            self._validation = f", val {epoch.validation_loss:.2f}"
        self._show(epoch.loss, epoch.reconstruction, epoch.kl)
        self._epoch = min(epoch.epoch + 1, self._epochs)
        self._epoch_start = perf_counter()

    def _show(self, loss: float, reconstruction: float, kl: float) -> None:
        figures = f"loss {loss:.2f}, rec {reconstruction:.2f}, KL {kl:.2f}"
        self._progress.update(
            self._task, epoch=self._epoch, figures=figures + self._validation + self._rate
        )
