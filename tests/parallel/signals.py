"""Let a process send itself a signal in a step of training."""

import os

from pyrovae.training.resumable import Resumable


def send_at(step: int, number: int) -> None:
    """Send a signal in the step of this number, counted from now, before its state is saved."""
    num_done = 0
    step_done = Resumable.step_done

    def step_done_and_signal(resumable: Resumable) -> None:
        nonlocal num_done
        num_done += 1
        if num_done == step:
            os.kill(os.getpid(), number)
        step_done(resumable)

    Resumable.step_done = step_done_and_signal  # type: ignore[method-assign]
