"""``python -m benchmarks.streaming``: a file larger than what the process may hold.

A VAE goes once through images that are mapped from a file, in a process whose private memory is
limited to less than they are; then steps on the map are timed beside those on the same data in
memory and from a ``DataLoader`` with two workers.
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
    """Measure, print, and write as JSON.

    Args:
        gigabytes: of the file, which must fit in memory once for the race.
        limit: gigabytes of private memory, the program's own included.
        steps: in a turn of the race.
        rounds: of the race.
        output: where to write.
    """
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "images.npy"
        num = _write(path, int(gigabytes * 1e9) // _PIXELS)
        whole = _within(path, int(limit * 1e9))
        print(f"{num:,} images, {num * _PIXELS / 1e9:.2f} GB, once through fit", flush=True)
        for name, value in whole.items():
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
        "within the limit": whole,
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
    """Gathered from the file within the step."""
    return _steps_of(_opened(path))


def in_memory(path: str) -> Callable[[int], None]:
    """The same, of an array that holds all."""
    return _steps_of(np.load(path))


def from_workers(path: str) -> Callable[[int], None]:
    """Datum by datum, by two processes that map the file."""
    multiprocessing.current_process().daemon = False  # which may have no workers
    loader = DataLoader(_Images(path), _BATCH, shuffle=True, num_workers=2, persistent_workers=True)
    svi = _svi(partial(binarise, levels=255))
    endless = (batch for _ in count() for batch in loader)

    def steps(num: int) -> None:
        for batch in islice(endless, num):
            svi.step(batch)

    return steps


class _Images(Dataset[Tensor]):
    def __init__(self, path: str) -> None:
        self._images = _opened(path)

    def __getitem__(self, number: int) -> Tensor:
        return torch.tensor(self._images[number])

    def __len__(self) -> int:
        return len(self._images)


def _opened(path: str) -> Any:
    return np.load(path, mmap_mode="r", allow_pickle=False)


def _steps_of(data: Any) -> Callable[[int], None]:
    batches = Batches(data, _BATCH, transform=partial(binarise, levels=255))
    svi = _svi(batches.take)
    endless: Iterator[Tensor] = (index for _ in count() for index in batches.indices())

    def steps(num: int) -> None:
        with svi.steady():  # as fit does
            for index in islice(endless, num):
                svi.step(index)

    return steps


def _svi(transform: Callable[..., Any]) -> SVI:
    vae = _vae()
    loss = ELBO(1_000_000)
    return SVI(vae.model, vae.guide, fused_adam, loss, compile=True, transform=transform)


def _vae() -> VAE:
    torch.manual_seed(0)
    mlp = partial(MLP, hidden=(64,))
    return VAE((_PIXELS,), 10, "Bernoulli", encoder=mlp, decoder=mlp)


def _write(path: Path, num: int) -> int:
    """Images of noise around one mean, a block of which is repeated."""
    draw = np.random.default_rng(0)
    mean = draw.random(_PIXELS) ** 4 * 255
    block = (mean * draw.random((_BLOCK, _PIXELS), dtype=np.float32)).astype(np.uint8)
    file = np.lib.format.open_memmap(path, "w+", np.uint8, (num, _PIXELS))
    for start in range(0, num, _BLOCK):
        file[start : start + _BLOCK] = block[: num - start]
    file.flush()
    return num


def _within(path: Path, limit: int) -> dict[str, Any]:
    """What a fit takes in a process that may hold so many bytes."""
    context = multiprocessing.get_context("spawn")
    outcome = context.SimpleQueue()
    process = context.Process(target=_limited_fit, args=(str(path), limit, outcome))
    process.start()
    process.join()
    if process.exitcode != 0:
        raise SystemExit(f"the process that was limited ended with exit code {process.exitcode}")
    found: dict[str, Any] = outcome.get()
    return found


def _limited_fit(path: str, limit: int, outcome: Any) -> None:
    resource.setrlimit(resource.RLIMIT_DATA, (limit, limit))
    peak = _private()
    before, is_over = peak, False

    def watch() -> None:
        nonlocal peak
        while not is_over:
            peak = max(peak, _private())
            sleep(0.01)

    watcher = threading.Thread(target=watch, daemon=True)
    watcher.start()
    vae, data = _vae(), _opened(path)
    options: dict[str, Any] = {"batch_size": _BATCH, "transform": partial(binarise, levels=255)}
    start = perf_counter()
    history = fit(vae.model, vae.guide, data, epochs=1, progress=False, **options)
    seconds = perf_counter() - start
    is_over = True
    watcher.join()
    try:
        np.load(path)
        in_memory = "fits, so that the limit says nothing"
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


def _private() -> int:
    """Bytes of memory that belong to this process alone and to no file."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) * 1024 for line in lines if line.startswith("RssAnon"))


if __name__ == "__main__":
    run(main)
