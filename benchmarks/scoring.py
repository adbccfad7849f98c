"""log p(x) of 100,000 rows of a table by ``score``, beside pythae's likelihood: rows a second.

``python -m benchmarks.scoring`` runs each library in a process of its own, with the same network
and weights, and prints rows a second and the memory that scoring took.
"""

import json
import platform
import resource
import subprocess
import sys
from time import perf_counter
from typing import Any

import torch
from cyclopts import App
from torch import Tensor
from torch.nn.functional import softplus

from pyrovae import VAE, fit

from .timing import is_installed

app = App(name="python -m benchmarks.scoring", help_format="markdown")

NUM_FEATURES, LATENT, HIDDEN = 20, 5, [64]


def _data(num: int) -> Tensor:
    generator = torch.Generator().manual_seed(0)
    factors = torch.randn(num, LATENT, generator=generator)
    weights = torch.randn(LATENT, NUM_FEATURES, generator=generator)
    return factors.tanh() @ weights + 0.5 * torch.randn(num, NUM_FEATURES, generator=generator)


def _trained() -> VAE:
    torch.manual_seed(0)
    network = {"name": "mlp", "hidden": HIDDEN}
    likelihood = {"family": "Normal", "scale": 2**-0.5}  # pythae's mse, up to a constant
    vae = VAE((NUM_FEATURES,), LATENT, likelihood, encoder=network, decoder=network)
    fit(vae.model, vae.guide, _data(10_000), epochs=5, progress=False)
    return vae.eval()


def _peak() -> float:
    """Peak memory of this process so far, in megabytes."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


@app.command
def ours(num_rows: int, num_samples: int) -> None:
    """Score with pyrovae, and print figures as JSON."""
    vae, x = _trained(), _data(num_rows)
    vae.score(x[:2000], num_samples=num_samples, progress=False)
    before, start = _peak(), perf_counter()
    scores = vae.score(x, num_samples=num_samples, progress=False)
    seconds = perf_counter() - start
    record = {"rows": num_rows, "seconds": seconds, "memory": _peak() - before, "peak": _peak()}
    record["mean"] = scores.log_likelihood[:100].mean().item()
    print(json.dumps(record))


@app.command
@torch.no_grad()
def pythae(num_rows: int, num_samples: int, limit: float = 60.0) -> None:
    """Score with pythae until a time limit, and print figures as JSON."""
    from pythae.models import VAE as PythaeVAE
    from pythae.models import VAEConfig
    from pythae.models.base.base_utils import ModelOutput
    from pythae.models.nn import BaseDecoder, BaseEncoder

    vae, x = _trained(), _data(num_rows)

    class Encoder(BaseEncoder):
        def __init__(self) -> None:
            super().__init__()
            self.body = vae.guide.encoder

        def forward(self, x: Tensor) -> Any:
            loc, raw = self.body(x).unbind(1)
            return ModelOutput(embedding=loc, log_covariance=2 * softplus(raw).log())

    class Decoder(BaseDecoder):
        def __init__(self) -> None:
            super().__init__()
            self.body = vae.model.decoder

        def forward(self, z: Tensor) -> Any:
            return ModelOutput(reconstruction=self.body(z).squeeze(1))

    config = VAEConfig(input_dim=(NUM_FEATURES,), latent_dim=LATENT, reconstruction_loss="mse")
    model = PythaeVAE(config, encoder=Encoder(), decoder=Decoder()).eval()
    model.get_nll(x[:5], num_samples, num_samples)
    before, start, num = _peak(), perf_counter(), 0
    while num < len(x) and perf_counter() - start < limit:
        model.get_nll(x[num : num + 100], num_samples, num_samples)
        num += 100
    seconds = perf_counter() - start
    print(
        json.dumps({"rows": num, "seconds": seconds, "memory": _peak() - before, "peak": _peak()})
    )


@app.default
def main(num_rows: int = 100_000, num_samples: int = 100, repeats: int = 3) -> None:
    """Time both libraries in turns, and print medians.

    Args:
        num_rows: number of rows.
        num_samples: number of samples of z for each row.
        repeats: number of times that each is measured.
    """
    names = ["ours", *(["pythae"] if is_installed("pythae") else [])]
    records: dict[str, list[dict[str, float]]] = {name: [] for name in names}
    for _ in range(repeats):
        for name in names:
            words = ["-m", "benchmarks.scoring", name, str(num_rows), str(num_samples)]
            done = subprocess.run(
                [sys.executable, *words], capture_output=True, text=True, check=True
            )
            records[name].append(json.loads(done.stdout.strip().splitlines()[-1]))
    print(f"{platform.processor() or platform.machine()}, {torch.get_num_threads()} threads")
    rates = {}
    for name, found in records.items():
        found.sort(key=lambda each: each["rows"] / each["seconds"])
        median = found[len(found) // 2]
        rates[name] = median["rows"] / median["seconds"]
        print(
            f"{name}: {rates[name]:,.0f} rows a second ({median['rows']:,} rows x {num_samples} "
            f"samples in {median['seconds']:.1f} s); scoring took {median['memory']:.0f} MB more, "
            f"{median['peak']:.0f} MB at most"
        )
    if len(rates) > 1:
        print(f"ours / pythae: {rates['ours'] / rates['pythae']:.1f}")


if __name__ == "__main__":
    app()
