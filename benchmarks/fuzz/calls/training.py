"""Training, objectives and imputation."""

import tempfile
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch
from torch.optim import Adam

import pyrovae
from pyrovae import infer

from .call import TINY, Call, Make, const, data, model, pair, used

__all__ = ["CALLS"]

_TRAINING: dict[str, Make] = {
    "data": data,
    "epochs": const(1),
    "batch_size": const(4),
    "lr": const(1e-3),
    "optimiser": const(None),
    "schedule": const("constant"),
    "objective": const("elbo"),
    "clip_norm": const(None),
    "accumulate": const(1),
    "autocast": const(None),
    "compile": const(False),
    "validation": const(None),
    "patience": const(None),
    "transform": const(None),
    "device": const(None),
    "plate": const("data"),
    "non_finite": const("stop"),
    "shards": const(None),
    "group": const(None),
    "progress": const(False),
    "on_epoch": const(None),
    "checkpoint": const(None),
    "resume": const(None),
    "checkpoint_every": const(10.0),
}


def _use_objective(objective: Any) -> Any:
    vae = model("VAE")
    return objective.loss(vae.model, vae.guide, data())


def _fit(**options: Any) -> Any:
    vae = pyrovae.VAE((6,), 2, likelihood="Normal", encoder=TINY, decoder=TINY)
    with tempfile.TemporaryDirectory() as folder:
        here = Path(folder)
        for name in ("checkpoint", "resume"):
            # Words and paths are relative to a folder that goes away.
            if isinstance(options.get(name), str) and options[name] and "\0" not in options[name]:
                options[name] = here / options[name].replace("/", "_")[:100]
        return pyrovae.fit(
            options.pop("model", vae.model), options.pop("guide", vae.guide), **options
        )


def _svi(**options: Any) -> Any:
    vae = pyrovae.VAE((6,), 2, likelihood="Normal", encoder=TINY, decoder=TINY)
    svi = pyrovae.SVI(vae.model, vae.guide, **options)
    return svi.step(data())


def _table() -> pd.DataFrame:
    x = np.sin(np.arange(40.0))
    table = pd.DataFrame({"a": x, "b": 2 * x + 0.1 * np.cos(np.arange(40.0)), "c": x > 0})
    return table.astype({"c": object}).mask(
        lambda t: np.arange(40)[:, None] % 8 == np.array([0, 3, 5])
    )


CALLS: dict[str, Call] = {
    "fit": Call(_fit, _TRAINING),
    "fit (model)": Call(_fit, {**_TRAINING, **pair}),
    "SVI": Call(
        _svi,
        {
            "optimiser": const(partial(Adam, lr=1e-3)),
            "loss": const(None),
            "compile": const(False),
            "num_steps": const(None),
            "clip_norm": const(None),
            "schedule": const(None),
            "accumulate": const(1),
            "autocast": const(None),
            "transform": const(None),
            "on_compile": const(None),
            "non_finite": const("stop"),
            "shards": const(None),
            "repeatable": const(False),
        },
    ),
    "infer.objective_of": Call(infer.objective_of, {"declared": const("iwae")}),
    "infer.Linear": Call(
        used(infer.Linear, lambda weight: weight(torch.tensor(3))),
        {"steps": const(3), "start": const(0.0), "end": const(1.0)},
    ),
    "infer.Cyclical": Call(
        used(infer.Cyclical, lambda weight: weight(torch.tensor(3))),
        {
            "period": const(3),
            "cycles": const(2),
            "ramp": const(0.5),
            "start": const(0.0),
            "end": const(1.0),
        },
    ),
    **{
        f"infer.{name}": Call(
            used(getattr(infer, name), _use_objective),
            {
                **{each: const(value) for each, value in settings.items()},
                "size": const(None),
                "plate": const("data"),
            },
        )
        for name, settings in {
            "ELBO": {},
            "BetaELBO": {"beta": 2.0, "kl": "sampled", "num_particles": 2},
            "Capacity": {"capacity": 2.0, "gamma": 10.0, "num_particles": 2},
            "FreeBits": {"free": 0.25, "num_particles": 2},
            "BetaTCVAE": {"beta": 2.0, "alpha": 1.0, "gamma": 1.0},
            "InfoVAE": {"alpha": 0.0, "weight": 10.0},
            "IWAE": {"num_particles": 2},
            "CIWAE": {"beta": 0.5, "num_particles": 2},
            "MIWAE": {"num_particles": 4, "num_groups": 2},
            "PIWAE": {"num_particles": 4, "num_groups": 2},
            "RWS": {"num_particles": 2},
            "DReG": {"num_particles": 2},
            "Renyi": {"alpha": 0.5, "num_particles": 2},
            "StickingTheLanding": {"num_particles": 2},
            "WakeSleep": {"num_particles": 2},
        }.items()
    },
    "infer.EnumeratedELBO": Call(
        infer.EnumeratedELBO,
        {"num_particles": const(2), "size": const(None), "plate": const("data")},
    ),
    "impute": Call(
        pyrovae.impute,
        {
            "table": _table,
            "likelihood": const(None),
            "latent_dim": const(1),
            "hidden": const((4,)),
            "steps": const(2),
            "num_particles": const(2),
            "level": const(0.5),
            "num_samples": const(20),
            "seed": const(0),
            "compile": const(False),
            "progress": const(False),
        },
    ),
}
"""Valid calls by name."""
