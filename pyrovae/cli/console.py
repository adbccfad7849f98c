"""The console that commands print to."""

from typing import Any

from rich.console import Console
from rich.text import Text

from ..errors import printable

__all__ = ["PlainConsole"]


class PlainConsole(Console):
    """A console that prints control characters as escapes.

    Names of columns and files come from other people, and a terminal would obey them. A reader that
    closes the pipe ends the command by a ``BrokenPipeError``.
    """

    def render_str(self, text: str, **options: Any) -> Text:
        """Render a string, of a cell of a table too."""
        return super().render_str(printable(text), **options)

    def on_broken_pipe(self) -> None:
        """Leave it to the command line to end the program."""
        raise BrokenPipeError
