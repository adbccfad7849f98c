"""``python -m benchmarks.robustness.kill_and_resume``: a run killed at random, compared to the bit.

A VAE of scikit-learn's digits is trained in a process that gets SIGKILL again and again, and is
resumed each time. Its parameters, its epochs, its test ELBO and the random numbers that come next
are compared with those of the same run left alone.
"""

import json
import multiprocessing
import os
import random
import signal
import tempfile
from collections import Counter
from pathlib import Path
from time import perf_counter, sleep

import torch
from cyclopts import run

from .training_process import PHASES, train

_PROCESSES = multiprocessing.get_context("forkserver")
_PROCESSES.set_forkserver_preload(["benchmarks.robustness.training_process"])

_LONGEST = 1.5
"""Seconds from one kill to the next, at most, by those in which the run would make its share."""


def main(
    *, kills: int = 50, compile: bool = False, seed: int = 0, output: Path = Path("soak.json")
) -> None:
    """Kill, resume, compare, print and write as JSON.

    Args:
        kills: how often.
        compile: whether the steps are compiled, at every start.
        seed: of the moments.
        output: where to write.
    """
    epochs = 6 * kills
    when = random.Random(seed)
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        print(f"{epochs} epochs, left alone", flush=True)
        start = perf_counter()
        assert _life(folder / "whole", epochs, compile, None) is None
        whole = json.loads((folder / "whole" / "result.json").read_text())
        seconds_alone = perf_counter() - start
        print(f"  {seconds_alone:.1f} s; now with {kills} kills", flush=True)
        hits: Counter[str] = Counter()
        start = perf_counter()
        for _ in range(kills):
            longest = _LONGEST * whole["seconds"] / kills
            phase = _life(folder / "killed", epochs, compile, when.uniform(0, longest))
            if phase is None:
                break
            hits[phase] += 1
            print(phase[0], end="", flush=True)
        print()
        if not (folder / "killed" / "result.json").exists():
            _life(folder / "killed", epochs, compile, None)
        killed = json.loads((folder / "killed" / "result.json").read_text())
        left = sorted(path.name for path in (folder / "killed").glob("states/.*"))
    same = {name: whole[name] == killed[name] for name in whole if name != "seconds"}
    record = {
        "kills": hits.total(),
        "kills in": {phase: hits[phase] for phase in PHASES},
        "same to the bit": same,
        "temporary files left": left,
        "epochs": epochs,
        "compiled": compile,
        "seconds left alone": round(seconds_alone, 1),
        "seconds with kills": round(perf_counter() - start, 1),
        "torch": torch.__version__,
        "cores": os.cpu_count(),
        "seed": seed,
    }
    for name, value in record.items():
        print(f"{name}: {value}")
    output.write_text(json.dumps(record, indent=2) + "\n")
    if not all(same.values()):
        raise SystemExit("the run that was killed ended elsewhere")


def _life(folder: Path, epochs: int, compile: bool, seconds: float | None) -> str | None:
    """Train until the end, or until killed, so many seconds after training is under way.

    Returns:
        What the process was at when it was killed; None if it came to its end.
    """
    folder.mkdir(exist_ok=True)
    phase = _PROCESSES.Value("i", 0)
    process = _PROCESSES.Process(target=train, args=(folder, epochs, compile, phase))
    process.start()
    if seconds is not None:
        while process.is_alive() and phase.value == 0:
            sleep(0.001)
        process.join(seconds)
        if process.is_alive():
            process.kill()
    process.join()
    if process.exitcode == -signal.SIGKILL:
        return PHASES[phase.value]
    if process.exitcode != 0:
        raise SystemExit(f"the run ended with exit code {process.exitcode}")
    return None


if __name__ == "__main__":
    run(main)
