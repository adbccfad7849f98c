"""Estimates of trained pairs, and Gaussian mixtures."""

from typing import Any

import torch

import pyrovae
from pyrovae import gmm, infer

from .call import Call, Make, const, data, model, pair

__all__ = ["CALLS"]


def _points() -> torch.Tensor:
    generator = torch.Generator().manual_seed(0)
    first, second = torch.randn(2, 20, 2, generator=generator, dtype=torch.double)
    return torch.cat([first, second + 5])


def _mixture(name: str) -> Any:
    """An estimator with scikit-learn's conventions, whose checks of data raise their own errors."""
    return lambda **settings: getattr(gmm, name)(**settings).fit(_points())


_DATA: dict[str, Make] = {
    "batch_size": const(4),
    "transform": const(None),
    "device": const(None),
    "plate": const("data"),
}

CALLS: dict[str, Call] = {
    "evaluate": Call(
        pyrovae.evaluate,
        {
            **pair,
            **_DATA,
            "data": data,
            "size": const(None),
            "num_particles": const(2),
            "compile": const(False),
        },
    ),
    "importance_sample": Call(
        pyrovae.importance_sample,
        {
            **pair,
            **_DATA,
            "data": data,
            "num_samples": const(20),
            "bounds": const((1, 5)),
            "memory": const(2**20),
            "seed": const(0),
            "compile": const(False),
            "progress": const(False),
        },
    ),
    "infer.annealed_importance_sample": Call(
        infer.annealed_importance_sample,
        {
            **_DATA,
            "model": pair["model"],
            "data": data,
            "guide": const(None),
            "num_chains": const(2),
            "num_temperatures": const(3),
            "num_leapfrog": const(1),
            "seed": const(0),
            "progress": const(False),
        },
    ),
    "infer.bidirectional_check": Call(
        infer.bidirectional_check,
        {
            **_DATA,
            "model": pair["model"],
            "data": data,
            "num_chains": const(2),
            "num_temperatures": const(3),
            "num_leapfrog": const(1),
            "seed": const(0),
            "progress": const(False),
        },
    ),
    "infer.latent_report": Call(
        infer.latent_report, {**pair, **_DATA, "data": data, "max_data": const(8), "seed": const(0)}
    ),
    "infer.evaluate_bound": Call(
        lambda x, size, plate: infer.evaluate_bound(
            model("VAE").model, model("VAE").guide, x, size=size, plate=plate
        ),
        {"x": data, "size": const(None), "plate": const("data")},
    ),
    "gmm.GaussianMixture": Call(
        _mixture("GaussianMixture"),
        {
            "n_components": const(2),
            "covariance_type": const("full"),
            "tol": const(1e-3),
            "covariance_floor": const(1e-6),
            "max_iter": const(5),
            "n_init": const(1),
            "random_state": const(0),
        },
    ),
    "gmm.BayesianGaussianMixture": Call(
        _mixture("BayesianGaussianMixture"),
        {"n_components": const(2), "max_iter": const(5), "random_state": const(0)},
    ),
    "gmm.k_means_plus_plus": Call(
        gmm.k_means_plus_plus,
        {
            "x": _points,
            "num_components": const(2),
            "covariance_type": const("full"),
            "floor": lambda: gmm.floor_of(_points(), 1e-6),
            "seed": const(0),
        },
    ),
    "infer.inference_gap": Call(
        infer.inference_gap,
        {
            **pair,
            **_DATA,
            "data": data,
            "num_steps": const(2),
            "lr": const(0.05),
            "num_samples": const(20),
            "seed": const(0),
            "progress": const(False),
        },
    ),
}
"""Valid calls by name."""
