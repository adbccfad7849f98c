"""Model families and the methods of trained models."""

from typing import Any

import torch

from pyrovae import models

from .call import TINY, Call, Make, const, data, labels, method, used

__all__ = ["CALLS"]

_FAMILY: dict[str, Make] = {
    "event_shape": const((6,)),
    "latent_dim": const(2),
    "likelihood": const("Normal"),
    "encoder": const(TINY),
    "decoder": const(TINY),
    "missing": const(False),
}

_PARTS: dict[str, Make] = {"prior": const("learned"), "posterior": const("full_rank")}

_X: dict[str, Make] = {"x": data}

_XY: dict[str, Make] = {"x": data, "y": labels}

_Z: dict[str, Make] = {"z": lambda: torch.zeros(8, 2)}


def _use_model(model: Any) -> Any:
    return model.embed(torch.zeros(2, *model.event_shape))


def _use_labelled(model: Any) -> Any:
    return model.embed(torch.zeros(2, *model.event_shape), torch.zeros(2, dtype=torch.long))


CALLS: dict[str, Call] = {
    "VAE": Call(
        used(models.VAE, _use_model), {**_FAMILY, **_PARTS, "inference": const("amortised")}
    ),
    "VAE (semi-amortised)": Call(
        models.VAE,
        {**_FAMILY, "inference": const({"name": "semi_amortised", "num_steps": 2, "lr": 0.1})},
    ),
    "Autoencoder": Call(used(models.Autoencoder, _use_model), _FAMILY),
    "MixtureVAE": Call(
        used(models.MixtureVAE, _use_model), {**_FAMILY, "num_components": const(3)}
    ),
    "HierarchicalVAE": Call(
        used(models.HierarchicalVAE, _use_model),
        {
            **{name: make for name, make in _FAMILY.items() if name != "latent_dim"},
            "latent_dims": const((3, 2)),
            "guide": const("top_down"),
            "hidden": const((4,)),
        },
    ),
    "ProbabilisticPCA": Call(
        used(models.ProbabilisticPCA, _use_model),
        {"event_shape": const((6,)), "latent_dim": const(2), "missing": const(False)},
    ),
    "ConditionalVAE": Call(
        used(models.ConditionalVAE, _use_labelled),
        {
            **_FAMILY,
            **_PARTS,
            "num_classes": const(3),
            "condition_shape": const(None),
            "conditional_prior": const(False),
            "condition": const("mlp"),
            "width": const(4),
        },
    ),
    "ConditionalVAE (images)": Call(
        models.ConditionalVAE,
        {
            **_FAMILY,
            "condition_shape": const((1, 4, 4)),
            "conditional_prior": const(True),
            "condition": const(TINY),
            "width": const(4),
        },
    ),
    "SemiSupervisedVAE": Call(
        used(models.SemiSupervisedVAE, _use_labelled),
        {
            **_FAMILY,
            **_PARTS,
            "num_classes": const(3),
            "classifier": const(TINY),
            "width": const(4),
            "weight": const(0.1),
        },
    ),
    **{
        f"{kind}.{name}": Call(method(kind, name), _X)
        for kind in ("VAE", "Autoencoder", "MixtureVAE", "HierarchicalVAE", "ProbabilisticPCA")
        for name in ("embed", "reconstruct", "standardise", "encode", "score", "predict", "impute")
    },
    **{
        f"{kind}.sample": Call(
            method(kind, "sample", ("num_samples",)),
            {"num_samples": const(3), "mean": const(False)},
        )
        for kind in ("VAE", "MixtureVAE", "HierarchicalVAE", "ProbabilisticPCA")
    },
    **{
        f"{kind}.{name}": Call(method(kind, name), _XY)
        for kind in ("ConditionalVAE", "SemiSupervisedVAE")
        for name in ("embed", "standardise", "q")
    },
    **{
        f"{kind}.{name}": Call(method(kind, name, ("x", "y")), _XY)
        for kind in ("ConditionalVAE", "SemiSupervisedVAE")
        for name in ("reconstruct", "encode", "score", "predict", "impute")
    },
    **{
        f"{kind}.{name}": Call(method(kind, name), {**_Z, "y": labels, "given": const(None)})
        for kind in ("ConditionalVAE", "SemiSupervisedVAE")
        for name in ("decode", "decode_mean")
    }
    | {
        f"{kind}.sample": Call(
            method(kind, "sample", ("num_samples", "y")),
            {"num_samples": const(8), "y": labels, "mean": const(True)},
        )
        for kind in ("ConditionalVAE", "SemiSupervisedVAE")
    },
    "VAE.encode (draws)": Call(
        method("VAE", "encode"), {**_X, "num_draws": const(2), "seed": const(1)}
    ),
    "VAE.score (samples)": Call(method("VAE", "score"), {**_X, "num_samples": const(20)}),
    "VAE.reconstruct (centre)": Call(method("VAE", "reconstruct"), {**_X, "num_samples": const(0)}),
    "VAE.q": Call(method("VAE", "q"), _X),
    "VAE.embed (given)": Call(method("VAE", "embed", ("x", "given")), {**_X, "given": labels}),
    "VAE.decode": Call(method("VAE", "decode"), _Z),
    "VAE.decode_mean": Call(method("VAE", "decode_mean"), _Z),
    "VAE.interpolate": Call(
        method("VAE", "interpolate"),
        {"start": lambda: data()[0], "end": lambda: data()[1], "num_steps": const(3)},
    ),
    "VAE.posterior": Call(
        method("VAE", "posterior", ("y",)),
        {
            "y": data,
            "operator": const(None),
            "method": const("amortised"),
            "num_samples": const(3),
            "batch_size": const(4),
            "seed": const(0),
            "progress": const(False),
        },
    ),
    "MixtureVAE.cluster": Call(method("MixtureVAE", "cluster"), _X),
    "MixtureVAE.component_probabilities": Call(method("MixtureVAE", "component_probabilities"), _X),
    "MixtureVAE.initialise": Call(method("MixtureVAE", "initialise"), {**_X, "seed": const(0)}),
    "HierarchicalVAE.layer_kl": Call(
        method("HierarchicalVAE", "layer_kl"), {**_X, "num_samples": const(2)}
    ),
    "HierarchicalVAE.means": Call(method("HierarchicalVAE", "means"), _X),
    "ProbabilisticPCA.fit": Call(
        method("ProbabilisticPCA", "fit"),
        {**_X, "method": const("em"), "max_iter": const(2), "tol": const(1e-9)},
    ),
    "ProbabilisticPCA.log_prob": Call(method("ProbabilisticPCA", "log_prob"), _X),
    "ConditionalVAE.transfer": Call(method("ConditionalVAE", "transfer"), {**_XY, "new_y": labels}),
    "SemiSupervisedVAE.classify": Call(method("SemiSupervisedVAE", "classify"), _X),
    "SemiSupervisedVAE.label_accuracy": Call(method("SemiSupervisedVAE", "label_accuracy"), _XY),
}
"""Valid calls by name."""
