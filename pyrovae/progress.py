"""A progress bar for work that takes more than a few seconds."""

from time import perf_counter
from types import TracebackType

from rich.progress import BarColumn, Progress, TextColumn, TimeRemainingColumn
from rich.table import Column

__all__ = ["LateProgress", "no_wrap_column"]

_LATE = 2.0
"""Seconds after which work is long enough for a bar."""


class LateProgress:
    """A bar over steps, on a terminal, once the work has taken two seconds; then it goes.

    Arguments:
        name: what is done.
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
        self._shown = False
        self._is_seen = self._progress.console.is_terminal

    def __enter__(self) -> "LateProgress":
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        if self._shown:
            self._progress.stop()

    def advance(self) -> None:
        """One step is done."""
        self._progress.advance(self._task)
        if self._is_seen and not self._shown and perf_counter() - self._start > _LATE:
            self._shown = True
            self._progress.start()

    def finish(self, completed: int) -> None:
        """So many steps are done, or need not be."""
        self._progress.update(self._task, completed=completed)


def no_wrap_column() -> Column:
    """A column that is shown in full; the bar gives way."""
    return Column(no_wrap=True, overflow="ignore")
