"""``python -m benchmarks.streaming``: train on a file that is larger than the memory limit.

First, ``fit`` trains a VAE for one epoch on images in a memory-mapped file, in a process with a
limit on private memory that is below the size of the file. Then the script compares the time of a
step on the mapped file with the same data in memory, and from a ``DataLoader`` with two workers.
"""

import json
import multiprocessing
import os
import resource
import tempfile
import threading
from collections.abc import Callable, Iterator
from functools import partial
from itertools import count, islice
from pathlib import Path
from statistics import median
from time import perf_counter, sleep
from typing import Any

import numpy as np
import torch
from cyclopts import run
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from pyrovae import SVI, VAE, Batches, binarise, fit
from pyrovae.infer import ELBO
from pyrovae.nn import MLP

from .timing import Candidate, time_interleaved
from .torch_steps import fused_adam

_PIXELS = 64 * 64
_BLOCK = 10_000
_BATCH = 256


def main(
    *,
    gigabytes: float = 2.0,
    limit: float = 1.5,
    steps: int = 200,
    rounds: int = 5,
    output: Path = Path("streaming.json"),
) -> None:
    """Measure, print, and write the result as JSON.

    Args:
        gigabytes: size of the file. For the comparison of times, it must fit in memory once.
        limit: limit on private memory in gigabytes, including that of the program itself.
        steps: steps in a turn of the timing.
        rounds: number of timings of each variant.
        output: path of the JSON file.
    """
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "images.npy"
        num = _write_images(path, int(gigabytes * 1e9) // _PIXELS)
        limited = _fit_with_limit(path, int(limit * 1e9))
        print(f"{num:,} images, {num * _PIXELS / 1e9:.2f} GB, one epoch of fit", flush=True)
        for name, value in limited.items():
            print(f"  {name}: {value}", flush=True)
        candidates = [
            Candidate(name, f"benchmarks.streaming:{function}", {"path": str(path)})
            for name, function in (
                ("mapped", "mapped"),
                ("in memory", "in_memory"),
                ("DataLoader, 2 workers", "from_workers"),
            )
        ]
        seconds = time_interleaved(candidates, steps, rounds)
    record = {
        "images": num,
        "gigabytes": round(num * _PIXELS / 1e9, 3),
        "limit of private memory, GB": limit,
        "within the limit": limited,
        "data a second": {name: round(_BATCH / each) for name, each in seconds.items()},
        "time over that in memory": {
            name: round(each / seconds["in memory"], 3) for name, each in seconds.items()
        },
        "torch": torch.__version__,
        "cores": os.cpu_count(),
        "threads": torch.get_num_threads(),
    }
    for name in ("data a second", "time over that in memory"):
        print(f"{name}: {record[name]}")
    output.write_text(json.dumps(record, indent=2) + "\n")


def mapped(path: str) -> Callable[[int], None]:
    """The step gathers its batch from the mapped file."""
    return _make_run(_open_mapped(path))


def in_memory(path: str) -> Callable[[int], None]:
    """The step gathers its batch from an array in memory."""
    return _make_run(np.load(path))


def from_workers(path: str) -> Callable[[int], None]:
    """Two worker processes map the file and load it datum by datum."""
    multiprocessing.current_process().daemon = False  # a daemon must not have child processes
    loader = DataLoader(_Images(path), _BATCH, shuffle=True, num_workers=2, persistent_workers=True)
    svi = _make_svi(partial(binarise, levels=255))
    endless = (batch for _ in count() for batch in loader)

    def steps(num: int) -> None:
        for batch in islice(endless, num):
            svi.step(batch)

    return steps


class _Images(Dataset[Tensor]):
    def __init__(self, path: str) -> None:
        self._images = _open_mapped(path)

    def __getitem__(self, number: int) -> Tensor:
        return torch.tensor(self._images[number])

    def __len__(self) -> int:
        return len(self._images)


def _open_mapped(path: str) -> Any:
    return np.load(path, mmap_mode="r", allow_pickle=False)


def _make_run(data: Any) -> Callable[[int], None]:
    batches = Batches(data, _BATCH, transform=partial(binarise, levels=255))
    svi = _make_svi(batches.take)
    endless: Iterator[Tensor] = (index for _ in count() for index in batches.indices())

    def steps(num: int) -> None:
        with svi.steady():  # as fit does
            for index in islice(endless, num):
                svi.step(index)

    return steps


def _make_svi(transform: Callable[..., Any]) -> SVI:
    vae = _make_vae()
    loss = ELBO(1_000_000)
    return SVI(vae.model, vae.guide, fused_adam, loss, compile=True, transform=transform)


def _make_vae() -> VAE:
    torch.manual_seed(0)
    mlp = partial(MLP, hidden=(64,))
    return VAE((_PIXELS,), 10, "Bernoulli", encoder=mlp, decoder=mlp)


def _write_images(path: Path, num: int) -> int:
    """Write random images around one mean. The file repeats one block of them."""
    rng = np.random.default_rng(0)
    mean = rng.random(_PIXELS) ** 4 * 255
    block = (mean * rng.random((_BLOCK, _PIXELS), dtype=np.float32)).astype(np.uint8)
    file = np.lib.format.open_memmap(path, "w+", np.uint8, (num, _PIXELS))
    for start in range(0, num, _BLOCK):
        file[start : start + _BLOCK] = block[: num - start]
    file.flush()
    return num


def _fit_with_limit(path: Path, limit: int) -> dict[str, Any]:
    """Measure an epoch of ``fit`` in a process with a limit on private memory, in bytes."""
    context = multiprocessing.get_context("spawn")
    outcome = context.SimpleQueue()
    process = context.Process(target=_limited_fit, args=(str(path), limit, outcome))
    process.start()
    process.join()
    if process.exitcode != 0:
        raise SystemExit(f"the process with the limit failed with exit code {process.exitcode}")
    figures: dict[str, Any] = outcome.get()
    return figures


def _limited_fit(path: str, limit: int, outcome: Any) -> None:
    resource.setrlimit(resource.RLIMIT_DATA, (limit, limit))
    peak = _private_memory()
    before, is_over = peak, False

    def watch() -> None:
        nonlocal peak
        while not is_over:
            peak = max(peak, _private_memory())
            sleep(0.01)

    watcher = threading.Thread(target=watch, daemon=True)
    watcher.start()
    vae, data = _make_vae(), _open_mapped(path)
    options: dict[str, Any] = {"batch_size": _BATCH, "transform": partial(binarise, levels=255)}
    start = perf_counter()
    history = fit(vae.model, vae.guide, data, epochs=1, progress=False, **options)
    seconds = perf_counter() - start
    is_over = True
    watcher.join()
    try:
        np.load(path)
        in_memory = "fits within the limit, so the limit proves nothing"
    except MemoryError:
        in_memory = "MemoryError"
    outcome.put(
        {
            "private memory before, MB": round(before / 1e6),
            "private memory at its peak, MB": round(peak / 1e6),
            "seconds with the check before the first step": round(seconds, 1),
            "data a second in the pass": round(len(data) / median(history["seconds"])),
            "the same data read into memory": in_memory,
        }
    )


def _private_memory() -> int:
    """Return the bytes of memory that belong to this process alone and to no file (Linux only)."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) * 1024 for line in lines if line.startswith("RssAnon"))


if __name__ == "__main__":
    run(main)
