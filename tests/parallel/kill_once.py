"""``python -m tests.parallel.kill_once ARGUMENTS...``: run pyrovae, and kill its second process.

The first time that it is started, in a step of training.

States are kept at each step; the first process leaves a line in ``steps`` for each that it takes.
"""

import os
import signal
import sys
from pathlib import Path

from pyrovae import cli
from pyrovae.training.resumable import Resumable

from .signals import send_at

STEP = 8


def _note_steps(file: Path) -> None:
    step_done = Resumable.step_done

    def noted(resumable: Resumable) -> None:
        resumable._every = 0.0
        with file.open("a") as lines:
            lines.write("taken\n")
        step_done(resumable)

    Resumable.step_done = noted  # type: ignore[method-assign]


if __name__ == "__main__":
    if os.environ["RANK"] == "0":
        _note_steps(Path("steps"))
    elif os.environ["TORCHELASTIC_RESTART_COUNT"] == "0":
        send_at(STEP, signal.SIGKILL)
    cli.main(sys.argv[1:])
