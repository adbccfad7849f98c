"""``python -m benchmarks start``: the cost of compilation, in seconds, graphs and memory."""

import json
import os
import re
import subprocess
import sys
import tempfile
from functools import partial
from pathlib import Path
from time import perf_counter
from typing import Any

__all__ = ["measure"]


def measure(batch_size: int = 128) -> dict[str, dict[str, float]]:
    """Measure an MLP VAE in new processes: eager, and compiled with a cold and a warm cache."""
    results = {}
    with tempfile.TemporaryDirectory() as cache:
        for name, compile in (("eager", False), ("cold", True), ("warm", True)):
            command = [sys.executable, "-m", __spec__.name, str(int(compile)), str(batch_size)]
            environment = {**os.environ, "TORCHINDUCTOR_CACHE_DIR": cache}
            output = subprocess.run(
                command, env=environment, check=True, capture_output=True, text=True
            ).stdout
            results[name] = json.loads(output.splitlines()[-1])
            print(f"  {name}: {results[name]}", flush=True)
    return results


def _measure_epoch(compile: bool, batch_size: int) -> dict[str, Any]:
    from pyrovae import VAE, Batches, binarise
    from pyrovae.infer import ELBO, SVI

    from .data import images
    from .torch_steps import LATENT, fused_adam

    vae = VAE((784,), LATENT, "Bernoulli")
    batches = Batches(images(), batch_size, transform=partial(binarise, levels=255))
    svi = SVI(
        vae.model, vae.guide, fused_adam, ELBO(60_000), compile=compile, transform=batches.take
    )
    before, seconds = _private_memory(), []
    for index in batches.indices():
        start = perf_counter()
        svi.step(index)
        seconds.append(perf_counter() - start)
    recorded, compiled = svi.num_graphs
    return {
        "first three steps, s": round(sum(seconds[:3]), 2),
        "rest of an epoch, s": round(sum(seconds[3:]), 2),
        "graphs recorded after an epoch with a ragged batch": recorded,
        "graphs compiled": compiled,
        "memory above the data, MiB": round(_private_memory() - before),
    }


def _private_memory() -> float:
    """Return the resident memory of this process in MiB, without shared memory (Linux only)."""
    status = Path("/proc/self/status").read_text()
    return int(re.findall(r"RssAnon:\s+(\d+) kB", status)[0]) / 1024


if __name__ == "__main__":
    print(json.dumps(_measure_epoch(bool(int(sys.argv[1])), int(sys.argv[2]))))
