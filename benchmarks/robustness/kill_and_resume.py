"""``python -m benchmarks.robustness.kill_and_resume``: kill a run at random times, and resume it.

The script trains a VAE on scikit-learn's digits in a process that it kills with SIGKILL again and
again, and resumes each time. At the end it compares the parameters, the history of the epochs, the
test ELBO and the next random number, to the bit, with those of the same run without interruption.
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

_MAX_INTERVAL = 1.5
"""Longest time between two kills, in units of (time of the uninterrupted run / number of kills)."""


def main(
    *, kills: int = 50, compile: bool = False, seed: int = 0, output: Path = Path("soak.json")
) -> None:
    """Kill and resume a run, compare it with an uninterrupted one, and write the result as JSON.

    Args:
        kills: number of kills.
        compile: whether every process compiles its steps.
        seed: seed of the times of the kills.
        output: path of the JSON file.
    """
    epochs = 6 * kills
    times = random.Random(seed)
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        print(f"{epochs} epochs without interruption", flush=True)
        start = perf_counter()
        assert _run_process(folder / "uninterrupted", epochs, compile, None) is None
        uninterrupted = json.loads((folder / "uninterrupted" / "result.json").read_text())
        seconds_alone = perf_counter() - start
        print(f"  {seconds_alone:.1f} s; now with {kills} kills", flush=True)
        kills_by_phase: Counter[str] = Counter()
        start = perf_counter()
        for _ in range(kills):
            longest = _MAX_INTERVAL * uninterrupted["seconds"] / kills
            phase = _run_process(folder / "killed", epochs, compile, times.uniform(0, longest))
            if phase is None:
                break
            kills_by_phase[phase] += 1
            print(phase[0], end="", flush=True)
        print()
        if not (folder / "killed" / "result.json").exists():
            _run_process(folder / "killed", epochs, compile, None)
        killed = json.loads((folder / "killed" / "result.json").read_text())
        left = sorted(path.name for path in (folder / "killed").glob("states/.*"))
    same = {
        name: value == killed[name] for name, value in uninterrupted.items() if name != "seconds"
    }
    record = {
        "kills": kills_by_phase.total(),
        "kills in": {phase: kills_by_phase[phase] for phase in PHASES},
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
        raise SystemExit("the killed run gave other results than the uninterrupted run")


def _run_process(folder: Path, epochs: int, compile: bool, seconds: float | None) -> str | None:
    """Train in a process, and kill it ``seconds`` after training has started (None: never).

    Returns:
        The phase in which the process was killed; None if training completed.
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
        raise SystemExit(f"the training process failed with exit code {process.exitcode}")
    return None


if __name__ == "__main__":
    run(main)
