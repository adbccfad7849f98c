"""The training process that ``benchmarks.robustness.kill_and_resume`` kills."""

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
"""What the process is doing. The parent process reads the index of the current phase."""

_STARTING, _TRAINING, _EVALUATION, _WRITING = range(4)


def _track_phase(owner: Any, name: str, phase: Any, number: int) -> None:
    """Wrap a method so that it sets the phase while it runs; afterwards the phase is training."""
    method: Callable[..., Any] = getattr(owner, name)

    def tracked(*args: Any, **kwargs: Any) -> Any:
        phase.value = number
        result = method(*args, **kwargs)
        phase.value = _TRAINING
        return result

    setattr(owner, name, tracked)


def train(folder: Path, epochs: int, compile: bool, phase: Any) -> None:
    """Start or resume training, and write ``result.json`` when it is complete.

    Arguments:
        folder: folder for checkpoints and the result.
        epochs: passes through the digits.
        compile: whether steps are compiled.
        phase: index of the current phase, in memory shared with the parent process.
    """
    warnings.simplefilter("ignore")
    torch.set_num_threads(1)
    torch.manual_seed(0)
    _track_phase(Resumable, "prepare", phase, _STARTING)
    _track_phase(SVI, "evaluate_loss", phase, _EVALUATION)
    _track_phase(Snapshots, "write", phase, _WRITING)
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
    phase.value = _EVALUATION
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
