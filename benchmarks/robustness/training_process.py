"""The run that ``benchmarks.robustness.kill_and_resume`` kills."""

import hashlib
import json
import warnings
from collections.abc import Callable
from pathlib import Path
from time import perf_counter
from typing import Any

import torch

from pyrovae import VAE, evaluate, fit, load
from pyrovae.infer.svi.svi import SVI
from pyrovae.training.resumable import Resumable
from pyrovae.training.snapshots import Snapshots

__all__ = ["PHASES", "train"]

PHASES = ("starting", "training", "evaluation", "writing")
"""What it may be at."""


def _noted(owner: Any, name: str, phase: Any, number: int) -> None:
    """A method that says that it is at work; then training goes on."""
    method: Callable[..., Any] = getattr(owner, name)

    def noted(*args: Any, **kwargs: Any) -> Any:
        phase.value = number
        result = method(*args, **kwargs)
        phase.value = 1
        return result

    setattr(owner, name, noted)


def train(folder: Path, epochs: int, compile: bool, phase: Any) -> None:
    """Begin, or go on; at the end leave what it came to.

    Arguments:
        folder: for states and the result.
        epochs: passes through the digits.
        compile: whether steps are compiled.
        phase: shared with whoever kills; the number of what is going on.
    """
    warnings.simplefilter("ignore")
    torch.set_num_threads(1)
    torch.manual_seed(0)
    _noted(Resumable, "prepare", phase, 0)
    _noted(SVI, "evaluate_loss", phase, 2)
    _noted(Snapshots, "write", phase, 3)
    digits = load("digits")
    vae = VAE((1, 8, 8), 8, {"family": "Binomial", "total_count": 16})
    vae.standardise(digits.train.x)
    states = folder / "states"
    start = perf_counter()
    history = fit(
        vae.model,
        vae.guide,
        digits.train.x,
        validation=digits.validation.x,
        epochs=epochs,
        schedule="cosine",
        clip_norm=100.0,
        patience=epochs,
        compile=compile,
        progress=False,
        checkpoint_every=0.02,
        **{"resume" if Snapshots(states).exist() else "checkpoint": states},
    )
    seconds = perf_counter() - start
    phase.value = 2
    elbo = evaluate(vae.model, vae.guide, digits.test.x).elbo
    parameters = b"".join(value.numpy().tobytes() for value in vae.state_dict().values())
    result = {
        "parameters": hashlib.sha256(parameters).hexdigest(),
        "epochs": [{k: v for k, v in row.items() if k != "seconds"} for row in history.rows()],
        "test ELBO": elbo.mean,
        "next random number": torch.rand(()).item(),
        "seconds": seconds,
    }
    (folder / "result.json").write_text(json.dumps(result))
