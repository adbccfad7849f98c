"""Data sets, batches and scores of representations."""

import torch

import pyrovae
from pyrovae import disentanglement

from .call import Call, Make, const, data, labels, used

__all__ = ["CALLS"]

_CODES: dict[str, Make] = {
    "codes": lambda: torch.randn(60, 3),
    "factors": lambda: torch.stack([torch.arange(60) % 3, torch.arange(60) % 2], 1),
}

_SCORE: dict[str, Make] = {
    "encode": const(lambda factors: factors.float()),
    "sample": const(lambda factors: factors),
    "factor_sizes": const((3, 2)),
    "batch_size": const(2),
    "seed": const(0),
    "progress": const(False),
}


CALLS: dict[str, Call] = {
    "Batches": Call(
        used(lambda tensors, **options: pyrovae.Batches(tensors, **options), list),
        {
            "tensors": lambda: (data(), labels()),
            "batch_size": const(3),
            "shuffle": const(True),
            "transform": const(None),
            "device": const(None),
        },
    ),
    "binarise": Call(
        pyrovae.binarise,
        {"x": lambda: data().abs(), "levels": const(1.0), "generator": const(None)},
    ),
    "data.Split": Call(
        pyrovae.data.Split,
        {"x": data, "y": labels, "exposure": lambda: torch.ones(8), "label": labels},
    ),
    "Dataset": Call(
        pyrovae.Dataset,
        {"name": const("mine")}
        | dict.fromkeys(("train", "validation", "test"), lambda: pyrovae.data.Split(data())),
    ),
    "load": Call(
        pyrovae.load,
        {
            "data": const("iris"),
            "root": const(None),
            "download": const(False),
            "label": const(None),
            "exposure": const(None),
            "words": const(False),
            "validation_fraction": const(0.1),
            "dtype": const(torch.float32),
        },
    ),
    "data.sprites": Call(
        pyrovae.data.sprites, {"factors": lambda: torch.tensor([[0, 5, 0, 16, 16]])}
    ),
    "data.load_sprites": Call(pyrovae.data.load_sprites, {"num": const(2), "seed": const(0)}),
    "data.load_dsprites": Call(pyrovae.data.load_dsprites, {"path": const("nowhere")}),
    **{
        f"disentanglement.{name}": Call(
            getattr(disentanglement, name), {**_CODES, "num_bins": const(5)}
        )
        for name in ("mutual_information", "mutual_information_gap")
    },
    "disentanglement.sap": Call(disentanglement.sap, {**_CODES, "seed": const(0)}),
    "disentanglement.dci": Call(
        disentanglement.dci, {**_CODES, "seed": const(0), "progress": const(False)}
    ),
    "disentanglement.factor_vae_score": Call(
        disentanglement.factor_vae_score,
        {**_SCORE, "num_votes": const(20), "num_samples": const(20)},
    ),
    "disentanglement.beta_vae_score": Call(
        disentanglement.beta_vae_score, {**_SCORE, "num_points": const(20)}
    ),
}
"""Valid calls by name."""
