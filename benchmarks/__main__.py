"""``python -m benchmarks``: every comparison whose peer is installed, as medians and ratios."""

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

_HERE = "benchmarks.torch_steps"
_NUMPYRO = "benchmarks.numpyro_steps"
_EPOCHS = "benchmarks.epochs"
_MLP_STEPS = {32: 100, 128: 40, 256: 20}
_CONV_STEPS = {32: 20, 128: 8}
_STEADY = "ours, nothing else changing"
_SEED = 0


def _candidates(network: str, batch_size: int, steps: int) -> list[Candidate]:
    of = {"network": network, "batch_size": batch_size}
    candidates = [
        Candidate("ours", f"{_HERE}:ours", of),
        Candidate("Pyro SVI", f"{_HERE}:plain_pyro", of),
        Candidate("PyTorch by hand, fused Adam", f"{_HERE}:by_hand", of),
        Candidate("PyTorch by hand, compiled", f"{_HERE}:by_hand", {**of, "compiled": True}),
        Candidate("floor", f"{_HERE}:floor", of),
    ]
    if network == "mlp":
        size = {"batch_size": batch_size}
        candidates.insert(1, Candidate(_STEADY, f"{_HERE}:ours", {**of, "steady": True}))
        candidates += [
            Candidate("NumPyro jit", f"{_NUMPYRO}:jitted", size, "numpyro"),
            Candidate("NumPyro scan", f"{_NUMPYRO}:scanned", {**size, "steps": steps}, "numpyro"),
        ]
    return candidates


def _tiny() -> list[Candidate]:
    return [
        Candidate("ours", f"{_HERE}:schools_in_ours"),
        Candidate("Pyro SVI", f"{_HERE}:schools_in_pyro"),
        Candidate("NumPyro jit", f"{_NUMPYRO}:schools", needs="numpyro"),
    ]


def _epoch(batch_size: int) -> list[Candidate]:
    size = {"batch_size": batch_size}
    return [
        Candidate("ours", f"{_EPOCHS}:ours", size),
        Candidate("Pyro's example", f"{_EPOCHS}:pyros_example", size),
        Candidate("pythae's trainer", f"{_EPOCHS}:pythaes_trainer", size, "pythae"),
        Candidate("NumPyro scan", f"{_NUMPYRO}:epoch", size, "numpyro"),
    ]


def _report(title: str, seconds: dict[str, float]) -> dict[str, Any]:
    """Print and return the medians, and the ratios of ours to each."""
    print(title, flush=True)
    record: dict[str, Any] = {"seconds": seconds}
    for ours in (name for name in ("ours", _STEADY) if name in seconds):
        record[f"{ours} / other"] = {n: seconds[ours] / each for n, each in seconds.items()}
    for name, each in seconds.items():
        ratios = [ratios[name] for key, ratios in record.items() if key != "seconds"]
        shown = "".join(f"{ratio:8.3f}" for ratio in ratios)
        print(f"  {name:30s} {1e3 * each:12.3f} ms   ours / this {shown}", flush=True)
    return record


def _machine() -> dict[str, Any]:
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
    """Measure, print and write as JSON.

    Set `PYROVAE_DATA` to a folder that holds MNIST; images are drawn where it is not set.
    `pip install -e '.[bench]'` installs the peers.

    Args:
        sections: which comparisons; all unless given.
        rounds: turns of each candidate.
        output: where to write.
    """
    record: dict[str, Any] = {"machine": _machine(), "rounds": rounds}
    chosen = sections or ("mlp", "conv", "tiny", "epoch", "start", "likelihood")
    for network, sizes in (("mlp", _MLP_STEPS), ("conv", _CONV_STEPS)):
        for batch_size, steps in sizes.items() if network in chosen else ():
            title = f"{network}, batch {batch_size}"
            seconds = time_interleaved(_candidates(network, batch_size, steps), steps, rounds)
            record[title] = _report(title, seconds)
    if "tiny" in chosen:
        record["eight schools"] = _report("eight schools", time_interleaved(_tiny(), 100, rounds))
    if "epoch" in chosen:
        title = "an epoch of 60,000 images, batch 128"
        record[title] = _report(
            title, time_interleaved(_epoch(128), 1, max(3, rounds // 5), warm_up=1)
        )
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
