"""Train an ordinary Pyro program with compiled steps: pyrovae.SVI in place of pyro.infer.SVI.

python examples/compiled_svi.py
"""

from functools import partial
from time import perf_counter
from typing import Any

import pyro
import pyro.distributions as dist
import torch
from cyclopts import run
from pyro.infer import Trace_ELBO
from pyro.infer.autoguide import AutoNormal
from torch import Tensor
from torch.optim import Adam

from pyrovae import SVI

EFFECTS = torch.tensor([28.0, 8.0, -3.0, 7.0, -1.0, 1.0, 18.0, 12.0])
ERRORS = torch.tensor([15.0, 10.0, 16.0, 11.0, 9.0, 11.0, 10.0, 18.0])


def model(effects: Tensor) -> None:
    """Eight schools (Rubin 1981): how much does coaching raise a test score?"""
    mean = pyro.sample("mean", dist.Normal(0.0, 5.0))
    spread = pyro.sample("spread", dist.HalfCauchy(5.0))
    with pyro.plate("schools", len(effects)):
        effect = pyro.sample("effect", dist.Normal(mean, spread))
        pyro.sample("observed", dist.Normal(effect, ERRORS), obs=effects)


def train(num_steps: int, compile: Any) -> tuple[float, float]:
    """Return the milliseconds per step after warm-up, and the posterior median of the mean."""
    torch.manual_seed(0)
    guide = AutoNormal(model)
    svi = SVI(model, guide, partial(Adam, lr=0.01), Trace_ELBO(), compile=compile)
    for _ in range(3):  # warm-up: an ordinary step, then one that records, then one that compiles
        svi.step(EFFECTS)
    start = perf_counter()
    for _ in range(num_steps):
        svi.step(EFFECTS)
    seconds = perf_counter() - start
    return 1e3 * seconds / num_steps, guide.median()["mean"].item()


def main(num_steps: int = 1000) -> None:
    """Take the same steps with the same noise, first uncompiled, then compiled."""
    for name, compile in (("uncompiled", False), ("compiled", True)):
        milliseconds, mean = train(num_steps, compile)
        print(f"{name}: {milliseconds:.3f} ms per step, posterior median of the mean {mean:.2f}")


if __name__ == "__main__":
    run(main)
