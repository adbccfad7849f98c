"""``python -m tests.parallel.kill_once ARGUMENTS...``: run pyrovae, and kill its second process.

The process is killed in a step of training, unless torchrun has restarted it before. States are
saved at each step, and the first process writes a line to the file ``steps`` for each step.
"""

import os
import signal
import sys
from pathlib import Path

from pyrovae import cli
from pyrovae.training.resumable import Resumable

from .signals import send_at

STEP = 8


def _log_steps(file: Path) -> None:
    step_done = Resumable.step_done

    def log_step(resumable: Resumable) -> None:
        resumable._every = 0.0
        with file.open("a") as lines:
            lines.write("step\n")
        step_done(resumable)

    Resumable.step_done = log_step  # type: ignore[method-assign]


if __name__ == "__main__":
    if os.environ["RANK"] == "0":
        _log_steps(Path("steps"))
    elif os.environ["TORCHELASTIC_RESTART_COUNT"] == "0":
        send_at(STEP, signal.SIGKILL)
    cli.main(sys.argv[1:])
