"""``python -m benchmarks.scaling``: data per second if two processes share the shards of a batch.

From this measurement the script computes the speed-up of hundreds of processes. Let t_c(b) be the
compute time of a shard of b data, D the bytes of gradients, and w the bandwidth between two
processes in bytes per second. A step of B data in P processes takes

    t(P) = t_c(B / P) + 2 (P - 1) / P D / w,

because a ring all-reduce moves 2 (P - 1) / P D bytes through each process. Its 2 (P - 1) latencies
are neglected. So more processes finish a batch sooner if its compute takes longer than 2 D / w, and
the speed-up stays below t_c(B) / (t_c(0) + 2 D / w).
"""

import subprocess
import sys
import tempfile
from collections.abc import Callable
from functools import partial
from pathlib import Path

import numpy as np
import torch
import torch.distributed as dist
from cyclopts import App
from torch import Tensor
from torch.optim import Adam

from pyrovae import VAE
from pyrovae.infer import ELBO, SVI
from pyrovae.infer.parallel.processes import Processes
from pyrovae.infer.parallel.shards import Shards
from pyrovae.nn import MLP

from .data import binary_batches
from .timing import Candidate, time_interleaved

__all__ = ["alone", "shared"]

Run = Callable[[int], None]

app = App(name="python -m benchmarks.scaling", help_format="markdown")

_NETWORKS = {"784-400-40": ((400,), 40), "784-2000-2000-50": ((2000, 2000), 50)}
_SIZES = (128, 512, 2048)
_STEPS = {"784-400-40": {128: 40, 512: 20, 2048: 8}, "784-2000-2000-50": {128: 6, 512: 3, 2048: 2}}
_ONE, _THREADS, _TWO = "1 process", "1 process, 2 threads", "2 processes"
_REDUCE = "all-reduce between 2"
_GBITS = (10, 400)
_NUM_PROCESSES = (2, 8, 32, 128, 512)


def alone(network: str, batch_size: int, threads: int) -> Run:
    """Compiled steps in one process."""
    torch.set_num_threads(threads)
    return _make_run(network, batch_size, None)


def shared(work: str, network: str, batch_size: int) -> Run:
    """Steps, or all-reduces of gradients alone, in this process and a second one."""
    store = Path(tempfile.mkdtemp()) / "store"
    arguments = [str(store), work, network, str(batch_size)]
    subprocess.Popen([sys.executable, "-m", "benchmarks.scaling", "second", *arguments])
    run = _join_group(0, store, work, network, batch_size)

    def run_both(num: int) -> None:
        dist.broadcast(torch.tensor([num]), 0)
        run(num)

    return run_both


@app.command(show=False)
def second(store: Path, work: str, network: str, batch_size: int) -> None:
    """The second process: runs as many steps as the first, until the first one exits."""
    run = _join_group(1, store, work, network, batch_size)
    num = torch.tensor([0])
    while True:
        try:
            dist.broadcast(num, 0)
        except RuntimeError:  # the first process has exited
            return
        run(int(num))


def _join_group(rank: int, store: Path, work: str, network: str, batch_size: int) -> Run:
    torch.set_num_threads(1)
    dist.init_process_group("gloo", store=dist.FileStore(str(store), 2), rank=rank, world_size=2)
    if work == "steps":
        return _make_run(network, batch_size, Shards(2, Processes(dist.group.WORLD)))
    gradients = torch.zeros(_count_reduced(network))

    def run(num: int) -> None:
        for _ in range(num):
            dist.all_reduce(gradients)

    return run


def _make_vae(network: str) -> VAE:
    torch.manual_seed(0)
    hidden, latent = _NETWORKS[network]
    body = partial(MLP, hidden=hidden)
    return VAE((784,), latent, "Bernoulli", encoder=body, decoder=body)


def _count_reduced(network: str) -> int:
    """Count the numbers in an all-reduce: the gradients, the loss and its two terms."""
    return sum(parameter.numel() for parameter in _make_vae(network).parameters()) + 3


def _make_run(network: str, batch_size: int, shards: Shards | None) -> Run:
    vae = _make_vae(network)
    adam = partial(Adam, lr=1e-3, fused=True)
    svi = SVI(vae.model, vae.guide, adam, ELBO(60_000), compile=True, shards=shards)
    batches: list[Tensor] = binary_batches(batch_size, num=4)

    def run(num: int) -> None:
        with svi.steady():
            for i in range(num):
                svi.step(batches[i % 4])

    return run


@app.default
def main(rounds: int = 7, sizes: tuple[int, ...] = _SIZES) -> None:
    """Time steps of two networks, and compute the speed-up of more processes.

    Parameters
    ----------
    rounds:
        Number of timings of each candidate; the result is the median.
    sizes:
        Batch sizes. Give at least two, from which t_c is fitted.
    """
    module = "benchmarks.scaling"
    if len(set(sizes)) < 2:
        raise SystemExit("give at least two different sizes, to fit the compute time of a shard")
    for network in _NETWORKS:
        num_bytes = 4 * _count_reduced(network)
        print(f"{network}: {num_bytes / 1e6:.1f} MB of gradients per step")
        compute = {}
        for size in sizes:
            options = {"network": network, "batch_size": size}
            candidates = [
                Candidate(_ONE, f"{module}:alone", {**options, "threads": 1}),
                Candidate(_THREADS, f"{module}:alone", {**options, "threads": 2}),
                Candidate(_TWO, f"{module}:shared", {**options, "work": "steps"}),
                Candidate(_REDUCE, f"{module}:shared", {**options, "work": "sums"}),
            ]
            seconds = time_interleaved(candidates, _STEPS[network].get(size, 4), rounds)
            compute[size] = seconds[_ONE]
            rates = [
                f"{name} {size / seconds[name]:,.0f} data/s (x {seconds[_ONE] / seconds[name]:.2f})"
                for name in (_ONE, _THREADS, _TWO)
            ]
            print(f"  batch {size}: {'; '.join(rates)}; {_REDUCE} {1e3 * seconds[_REDUCE]:.1f} ms")
        _extrapolate(compute, num_bytes)


def _extrapolate(compute: dict[int, float], num_bytes: int) -> None:
    """Print the computed speed-up of a batch split over P processes (strong scaling), and the
    efficiency if every process has a batch of its own (weak scaling).
    """
    sizes, seconds = np.array(list(compute)), np.array(list(compute.values()))
    slope, fixed = np.polyfit(sizes, seconds, 1, w=1 / seconds)
    fixed = max(float(fixed), 0.0)
    size = max(compute)
    print(
        f"  computed from these times, not measured: t_c(b) = {1e3 * fixed:.2f} ms + b x "
        f"{1e6 * slope:.1f} us"
    )
    for gbits in _GBITS:
        transfer = 2 * num_bytes / (gbits * 1e9 / 8)
        one_process = fixed + slope * size
        row = []
        for num in _NUM_PROCESSES:
            step = fixed + slope * size / num + (num - 1) / num * transfer
            row.append(f"P={num}: x {one_process / step:.1f}")
        half = slope * size / (fixed + transfer)
        print(
            f"  {gbits} Gbit/s, batch {size}: {', '.join(row)}; never above x "
            f"{one_process / (fixed + transfer):.1f}, 50 % efficiency at P = {half:.0f}"
        )
        shares = [f"{each}: {compute[each] / (compute[each] + transfer):.0%}" for each in compute]
        print(
            f"  {gbits} Gbit/s, efficiency of many processes, by data per process: "
            f"{', '.join(shares)}"
        )


if __name__ == "__main__":
    app()
