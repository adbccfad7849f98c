"""Let Ctrl-C and SIGTERM wait for the end of a step."""

import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType

from ..errors import Interrupted
from .resumable import Resumable

__all__ = ["interruptible"]


@contextmanager
def interruptible(resumable: Resumable | None) -> Iterator[None]:
    """Within, Ctrl-C and SIGTERM stop the fit at the end of a step, after its state is saved.

    A second Ctrl-C does not wait. Signals that are ignored stay ignored.

    Raises:
        Interrupted: at the end, if a signal came while the last state was saved.
    """
    if resumable is None or threading.current_thread() is not threading.main_thread():
        yield
        return
    handlers = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)}
    # A signal that the parent process ignores, as nohup does, stays ignored.
    before = {number: each for number, each in handlers.items() if each is not signal.SIG_IGN}

    def handle(number: int, frame: FrameType | None) -> None:
        if resumable.interrupted_by is not None and number == signal.SIGINT:
            raise KeyboardInterrupt
        resumable.interrupted_by = number

    for number in before:
        signal.signal(number, handle)
    try:
        yield
        if resumable.interrupted_by is not None:
            raise Interrupted(
                f"stopped after the last epoch; go on from {resumable.folder}",
                resumable.interrupted_by,
            )
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
