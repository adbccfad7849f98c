"""What a recording raises where a replay would differ from the program."""

from torch import Tensor

__all__ = ["CannotRecord"]


class CannotRecord(Exception):
    """Raised where a function cannot be recorded; says why, and where in the program.

    Attributes:
        result: the results of the function, if it ran to its end.
    """

    def __init__(self, reason: str, result: list[Tensor] | None = None) -> None:
        super().__init__(reason)
        self.result = result
