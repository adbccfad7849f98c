"""Degraded observations and p(x | y)."""

import torch

from pyrovae import inverse

from .call import Call, Make, const, data, labels, model, pair, used

__all__ = ["CALLS"]

_X: dict[str, Make] = {"x": data}


CALLS: dict[str, Call] = {
    "inverse.posterior": Call(
        inverse.posterior,
        {
            **pair,
            "y": data,
            "operator": lambda: inverse.Mask(),
            "method": const("amortised"),
            "num_samples": const(3),
            "batch_size": const(4),
            "seed": const(0),
            "event_shape": const(None),
            "centre": const(None),
            "fill": const(0.0),
            "missing": const(False),
            "site": const("x"),
            "plate": const("data"),
            "progress": const(False),
        },
    ),
    "inverse.posterior (given)": Call(
        lambda y, given: inverse.posterior(
            model("ConditionalVAE").model,
            model("ConditionalVAE").guide,
            y,
            given,
            method="amortised",
            num_samples=3,
            progress=False,
        ),
        {"y": data, "given": labels},
    ),
    "inverse.Mask": Call(
        used(inverse.Mask, lambda operator: operator.observe(data())),
        {"observed": lambda: torch.ones(6, dtype=torch.bool)},
    ),
    "inverse.Noise": Call(
        used(inverse.Noise, lambda operator: operator.observe(data())),
        {"noise": const(0.1), "of": const("datum")},
    ),
    "inverse.Noise.observe": Call(lambda x: inverse.Noise(0.1).observe(x), _X),
    "inverse.Mask.observe": Call(lambda x: inverse.Mask().observe(x), _X),
    "inverse.Linear": Call(
        used(inverse.Linear, lambda operator: operator.observe(data())),
        {
            "matrix": lambda: torch.ones(1, 6),
            "noise": const(0.1),
            "of": const("datum"),
            "event_shape": const((6,)),
        },
    ),
    "inverse.Linear.observe": Call(lambda x: inverse.Linear(torch.ones(1, 6), 0.1).observe(x), _X),
    "inverse.Downsample": Call(
        used(inverse.Downsample, lambda operator: operator.observe(torch.zeros(2, 1, 4, 4))),
        {"factor": const(2), "noise": const(0.1), "of": const("datum")},
    ),
    "inverse.Blur": Call(
        used(inverse.Blur, lambda operator: operator.observe(torch.zeros(2, 1, 4, 4))),
        {"width": const(1.0), "noise": const(0.1), "of": const("mean")},
    ),
    "inverse.Blur.observe": Call(
        lambda x: inverse.Blur(1.0, 0.1).observe(x), {"x": lambda: torch.zeros(2, 1, 4, 4)}
    ),
    **{
        f"inverse.METHODS[{name!r}]": Call(
            inverse.METHODS[name], {each: const(value) for each, value in settings.items()}
        )
        for name, settings in {
            "refined": {
                "posterior": "diagonal",
                "num_steps": 2,
                "lr": 0.1,
                "num_particles": 2,
            },
            "importance": {"proposal": "amortised", "num_proposals": 4},
            "pseudo_gibbs": {"num_chains": 2, "burn_in": 1, "thin": 1},
            "metropolis_within_gibbs": {
                "num_chains": 2,
                "burn_in": 1,
                "thin": 1,
                "pseudo_gibbs": 1,
            },
            "nuts": {"num_chains": 1, "warm_up": 1, "target_acceptance": 0.8},
        }.items()
    },
}
"""Valid calls by name."""
