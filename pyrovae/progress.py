"""A progress bar for work that takes more than a few seconds."""

from time import perf_counter
from types import TracebackType

from rich.progress import BarColumn, Progress, TextColumn, TimeRemainingColumn
from rich.table import Column

__all__ = ["LateProgress", "no_wrap_column"]

_DELAY = 2.0
"""The bar appears after this many seconds."""


class LateProgress:
    """A progress bar that a terminal shows once the work has taken two seconds.

    The bar disappears when the work is done.

    Arguments:
        name: label of the bar.
        total: number of steps.
    """

    def __init__(self, name: str, total: int) -> None:
        self._progress = Progress(
            TextColumn("{task.description}"),
            BarColumn(bar_width=None),
            TextColumn("{task.completed:.0f}/{task.total:.0f}", table_column=no_wrap_column()),
            TimeRemainingColumn(
                compact=True, elapsed_when_finished=True, table_column=no_wrap_column()
            ),
            transient=True,
            expand=True,
        )
        self._task = self._progress.add_task(name, total=total)
        self._start = perf_counter()
        self._is_started = False
        self._is_terminal = self._progress.console.is_terminal

    def __enter__(self) -> "LateProgress":
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        if self._is_started:
            self._progress.stop()

    def advance(self) -> None:
        """Count one more step as done."""
        self._progress.advance(self._task)
        if self._is_terminal and not self._is_started and perf_counter() - self._start > _DELAY:
            self._is_started = True
            self._progress.start()

    def finish(self, completed: int) -> None:
        """Set the number of steps that are done or are no longer needed."""
        self._progress.update(self._task, completed=completed)


def no_wrap_column() -> Column:
    """A column that is shown in full; the bar shrinks instead."""
    return Column(no_wrap=True, overflow="ignore")
