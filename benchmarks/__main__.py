"""``python -m benchmarks``: time pyrovae against every other library that is installed."""

import importlib.metadata
import json
import os
import platform
from pathlib import Path
from typing import Any, Literal

from cyclopts import App

from . import log_likelihood, start
from .timing import Candidate, time_interleaved

Section = Literal["mlp", "conv", "tiny", "epoch", "start", "likelihood"]
app = App(name="python -m benchmarks", help_format="markdown")

_TORCH = "benchmarks.torch_steps"
_NUMPYRO = "benchmarks.numpyro_steps"
_EPOCHS = "benchmarks.epochs"
_MLP_STEPS = {32: 100, 128: 40, 256: 20}
_CONV_STEPS = {32: 20, 128: 8}
_STEADY = "ours, nothing else changing"
_SEED = 0


def _step_candidates(network: str, batch_size: int, steps: int) -> list[Candidate]:
    options = {"network": network, "batch_size": batch_size}
    compiled, steady = {**options, "compiled": True}, {**options, "steady": True}
    candidates = [
        Candidate("ours", f"{_TORCH}:ours", options),
        Candidate("Pyro SVI", f"{_TORCH}:plain_pyro", options),
        Candidate("PyTorch by hand, fused Adam", f"{_TORCH}:by_hand", options),
        Candidate("PyTorch by hand, compiled", f"{_TORCH}:by_hand", compiled),
        Candidate("floor", f"{_TORCH}:floor", options),
    ]
    if network == "mlp":
        size = {"batch_size": batch_size}
        candidates.insert(1, Candidate(_STEADY, f"{_TORCH}:ours", steady))
        candidates += [
            Candidate("NumPyro jit", f"{_NUMPYRO}:jitted", size, "numpyro"),
            Candidate("NumPyro scan", f"{_NUMPYRO}:scanned", {**size, "steps": steps}, "numpyro"),
        ]
    return candidates


def _eight_schools_candidates() -> list[Candidate]:
    return [
        Candidate("ours", f"{_TORCH}:schools_in_ours"),
        Candidate("Pyro SVI", f"{_TORCH}:schools_in_pyro"),
        Candidate("NumPyro jit", f"{_NUMPYRO}:schools", needs="numpyro"),
    ]


def _epoch_candidates(batch_size: int) -> list[Candidate]:
    size = {"batch_size": batch_size}
    return [
        Candidate("ours", f"{_EPOCHS}:ours", size),
        Candidate("Pyro's example", f"{_EPOCHS}:pyros_example", size),
        Candidate("pythae's trainer", f"{_EPOCHS}:pythaes_trainer", size, "pythae"),
        Candidate("NumPyro scan", f"{_NUMPYRO}:epoch", size, "numpyro"),
    ]


def _report(title: str, seconds: dict[str, float]) -> dict[str, Any]:
    """Print and return the median seconds, and the ratio of our time to each."""
    print(title, flush=True)
    record: dict[str, Any] = {"seconds": seconds}
    for ours in (name for name in ("ours", _STEADY) if name in seconds):
        record[f"{ours} / other"] = {n: seconds[ours] / each for n, each in seconds.items()}
    for name, each in seconds.items():
        ratios = [ratios[name] for key, ratios in record.items() if key != "seconds"]
        columns = "".join(f"{ratio:8.3f}" for ratio in ratios)
        print(f"  {name:30s} {1e3 * each:12.3f} ms   ours / this {columns}", flush=True)
    return record


def _describe_machine() -> dict[str, Any]:
    packages = ("torch", "pyro-ppl", "numpyro", "jax", "pythae", "numpy")
    versions = {}
    for package in packages:
        try:
            versions[package] = importlib.metadata.version(package)
        except importlib.metadata.PackageNotFoundError:
            versions[package] = None
    cpu = next(
        (
            line.partition(":")[2].strip()
            for line in Path("/proc/cpuinfo").read_text().splitlines()
            if line.startswith("model name")
        ),
        platform.processor(),
    )
    return {
        "cpu": cpu,
        "cores": os.cpu_count(),
        "system": platform.platform(),
        "python": platform.python_version(),
        "versions": versions,
        "data": "MNIST" if os.environ.get("PYROVAE_DATA") else "drawn",
        "seed": _SEED,
    }


@app.default
def main(*sections: Section, rounds: int = 25, output: Path = Path("benchmarks.json")) -> None:
    """Time each candidate, print the medians and ratios, and write them as JSON.

    Set `PYROVAE_DATA` to a folder that contains MNIST; without it the images are random.
    `pip install -e '.[bench]'` installs the other libraries.

    Args:
        sections: comparisons to run; all by default.
        rounds: number of timings of each candidate.
        output: path of the JSON file.
    """
    record: dict[str, Any] = {"machine": _describe_machine(), "rounds": rounds}
    chosen = sections or ("mlp", "conv", "tiny", "epoch", "start", "likelihood")
    for network, sizes in (("mlp", _MLP_STEPS), ("conv", _CONV_STEPS)):
        for batch_size, steps in sizes.items() if network in chosen else ():
            title = f"{network}, batch {batch_size}"
            candidates = _step_candidates(network, batch_size, steps)
            record[title] = _report(title, time_interleaved(candidates, steps, rounds))
    if "tiny" in chosen:
        seconds = time_interleaved(_eight_schools_candidates(), 100, rounds)
        record["eight schools"] = _report("eight schools", seconds)
    if "epoch" in chosen:
        title = "an epoch of 60,000 images, batch 128"
        candidates, num_rounds = _epoch_candidates(128), max(3, rounds // 5)
        record[title] = _report(title, time_interleaved(candidates, 1, num_rounds, warm_up=1))
    if "start" in chosen:
        print("start")
        record["start"] = start.measure()
    if "likelihood" in chosen:
        print("log p(x) of test images")
        record["likelihood"] = log_likelihood.measure()
    output.write_text(json.dumps(record, indent=2) + "\n")
    print(f"written to {output}")


if __name__ == "__main__":
    app()
