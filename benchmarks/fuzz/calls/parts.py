"""Networks, priors, posteriors and likelihoods."""

from typing import Any

import numpy as np
import pandas as pd
import pyro
import torch

import pyrovae
from pyrovae import likelihoods, nn, posteriors, priors
from pyrovae.likelihoods.families import FAMILIES

from .call import TINY, Call, const, data, model, used

__all__ = ["CALLS"]

_DISCRETE = {
    "latent_dim": const(2),
    "num_classes": const(3),
    "temperature": const(0.5),
}

_FLOW = {
    "latent_dim": const(2),
    "num_transforms": const(1),
    "hidden": const((4,)),
    "context": const(2),
}

_BODY = {"in_shape": const((6,)), "out_shape": const((2, 3))}

_IMAGE = {"in_shape": const((1, 4, 4)), "out_shape": const((2, 3))}


def _use_prior(prior: Any) -> Any:
    return prior().log_prob(prior().sample())


def _use_posterior(posterior: Any) -> Any:
    q = posterior(torch.zeros(2, *posterior.in_shape))
    return q.log_prob(q.rsample()), posterior.prior()


def _use_network(network: Any) -> Any:
    return network(torch.zeros(2, 6))


def _register(**arguments: Any) -> None:
    before = dict(FAMILIES)
    try:
        pyrovae.register(**arguments)
    finally:
        FAMILIES.clear()
        FAMILIES.update(before)


def _blocks() -> list[Any]:
    return [("a", "Normal"), (("b", "c"), {"family": "Normal", "scale": 1.0})]


def _table() -> pd.DataFrame:
    x = np.sin(np.arange(40.0))
    table = pd.DataFrame({"a": x, "b": 2 * x + 0.1 * np.cos(np.arange(40.0)), "c": x > 0})
    return table.astype({"c": object}).mask(
        lambda t: np.arange(40)[:, None] % 8 == np.array([0, 3, 5])
    )


CALLS: dict[str, Call] = {
    "nn.MLP": Call(
        used(nn.MLP, _use_network),
        {**_BODY, "hidden": const((4,)), "activation": const(torch.nn.ReLU)},
    ),
    "nn.ResidualMLP": Call(
        used(nn.ResidualMLP, _use_network),
        {**_BODY, "hidden": const((4,)), "activation": const(torch.nn.ReLU)},
    ),
    "nn.ConvEncoder": Call(nn.ConvEncoder, _IMAGE),
    "nn.ResidualEncoder": Call(nn.ResidualEncoder, _IMAGE),
    "nn.ConvDecoder": Call(
        nn.ConvDecoder, {"in_shape": const((2,)), "out_shape": const((1, 1, 4, 4))}
    ),
    "nn.ResidualDecoder": Call(
        nn.ResidualDecoder, {"in_shape": const((2,)), "out_shape": const((1, 1, 4, 4))}
    ),
    "nn.Joint": Call(
        nn.Joint,
        {
            **_BODY,
            "body": const(TINY),
            "context_dim": const(3),
            "num_features": const(4),
            "hidden": const(4),
        },
    ),
    "nn.joint_network": Call(
        nn.joint_network,
        {**_BODY, "encoder": const(TINY), "context_dim": const(3), "width": const(4)},
    ),
    "nn.concatenate": Call(
        nn.concatenate, {"z": lambda: torch.zeros(7, 2), "c": lambda: torch.zeros(7, 3)}
    ),
    "nn.Standardise": Call(nn.Standardise, {"event_shape": const((6,))}),
    "nn.Standardise.set": Call(
        lambda **arguments: nn.Standardise((6,)).set(**arguments),
        {"loc": lambda: torch.zeros(6), "scale": lambda: torch.ones(6)},
    ),
    "priors.StandardNormal": Call(
        used(priors.StandardNormal, _use_prior), {"latent_dim": const(2)}
    ),
    "priors.LearnedNormal": Call(used(priors.LearnedNormal, _use_prior), {"latent_dim": const(2)}),
    "priors.NormalMixture": Call(
        used(priors.NormalMixture, _use_prior),
        {"latent_dim": const(2), "num_components": const(3)},
    ),
    "priors.NormalMixture.set": Call(
        lambda **arguments: priors.NormalMixture(2, 3).set(**arguments),
        {
            "weights": lambda: torch.ones(3) / 3,
            "loc": lambda: torch.zeros(3, 2),
            "scale": lambda: torch.ones(3, 2),
        },
    ),
    "priors.VampPrior": Call(
        priors.VampPrior, {"event_shape": const((6,)), "num_components": const(3)}
    ),
    "priors.VampPrior.bind": Call(
        lambda guide: priors.VampPrior((6,), 3).bind(guide),
        {"guide": lambda: model("VAE").guide},
    ),
    "priors.VampPrior.start_at": Call(
        lambda standard: priors.VampPrior((6,), 3).start_at(standard), {"standard": data}
    ),
    "priors.FlowPrior": Call(
        used(priors.FlowPrior, _use_prior),
        {"latent_dim": const(2), "num_transforms": const(1), "hidden": const((4,))},
    ),
    "posteriors.DiagonalNormal": Call(
        used(posteriors.DiagonalNormal, _use_posterior), {"latent_dim": const(2)}
    ),
    "posteriors.FullRankNormal": Call(
        used(posteriors.FullRankNormal, _use_posterior), {"latent_dim": const(2)}
    ),
    "posteriors.LowRankNormal": Call(
        used(posteriors.LowRankNormal, _use_posterior),
        {"latent_dim": const(2), "rank": const(1)},
    ),
    "posteriors.Concrete": Call(used(posteriors.Concrete, _use_posterior), _DISCRETE),
    "posteriors.StraightThrough": Call(used(posteriors.StraightThrough, _use_posterior), _DISCRETE),
    "posteriors.InverseAutoregressive": Call(
        used(posteriors.InverseAutoregressive, _use_posterior), _FLOW
    ),
    "posteriors.SplineFlow": Call(
        used(posteriors.SplineFlow, _use_posterior), {**_FLOW, "num_bins": const(3)}
    ),
    "Likelihood": Call(
        used(pyrovae.Likelihood, lambda p: p.build((6,))),
        {
            "family": const("Normal"),
            "num_components": const(None),
            "exposure": const(False),
            "links": const(None),
            "loc": const("predicted"),
            "scale": const(1.0),
        },
    ),
    "Likelihood (Categorical)": Call(
        used(pyrovae.Likelihood, lambda p: p.build((6,))),
        {"family": const("Categorical"), "num_classes": const(3)},
    ),
    "Likelihood.of": Call(pyrovae.Likelihood.of, {"spec": const("Normal")}),
    "Likelihood.build": Call(
        lambda event_shape: pyrovae.Likelihood("Normal").build(event_shape),
        {"event_shape": const((6,))},
    ),
    "Mixed": Call(pyrovae.Mixed, {"blocks": _blocks, "d": const("Bernoulli")}),
    "Mixed.from_dict": Call(
        pyrovae.Mixed.from_dict, {"spec": lambda: pyrovae.Mixed(_blocks()).to_dict()}
    ),
    "likelihoods.infer": Call(
        likelihoods.infer, {"table": _table, "report": const(lambda line: None)}
    ),
    "likelihoods.LikelihoodLayer": Call(
        likelihoods.LikelihoodLayer,
        {"likelihood": lambda: pyrovae.Likelihood("Normal"), "event_shape": const((6,))},
    ),
    "register": Call(
        _register,
        {
            "name": const("Soft"),
            "distribution": const(pyro.distributions.SoftLaplace),
            "exposure": const(None),
            "scale": const("shared"),
        },
    ),
}
"""Valid calls by name."""
