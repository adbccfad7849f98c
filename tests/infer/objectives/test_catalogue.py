"""Objectives by name: each trains a pair, and errors name the wrong setting."""

import re
from typing import Any

import pytest
import torch

from pyrovae import VAE, InputError, fit
from pyrovae.infer import DReG, Linear, objective_of
from pyrovae.infer.objectives import OBJECTIVES
from pyrovae.models.mixture import MixtureVAE

REQUIRED: dict[str, dict[str, Any]] = {
    "capacity": {"capacity": {"steps": 10, "end": 0.5}, "gamma": 2.0},
    "miwae": {"num_particles": 4, "num_groups": 2},
    "piwae": {"num_particles": 4, "num_groups": 2},
}


@pytest.mark.slow
@pytest.mark.parametrize("name", OBJECTIVES)
def test_each_objective_trains_by_name(name: str) -> None:
    torch.manual_seed(0)
    x = torch.randint(2, (64, 1)).float().expand(64, 6).contiguous()
    vae = MixtureVAE((6,), 2, 3) if name == "enumerated" else VAE((6,), 2)
    history = fit(
        vae.model,
        vae.guide,
        x,
        epochs=15,
        batch_size=16,
        lr=1e-2,
        validation=x,
        objective={"name": name, **REQUIRED.get(name, {})},
        compile=False,
        progress=False,
    )
    validation = history["validation_loss"]
    assert validation[-1] < validation[0]


def test_settings_become_schedules_and_objects_pass_through() -> None:
    objective: Any = objective_of({"name": "beta", "beta": {"steps": 5, "end": 4}})
    assert objective.beta == Linear(5, end=4.0)
    dreg = DReG(3)
    assert objective_of(dreg) is dreg


@pytest.mark.parametrize(
    ("declared", "message"),
    [
        ("iwea", "objective cannot be 'iwea': did you mean 'iwae'?"),
        ({"beta": 4}, "choose from elbo, "),
        ({"name": "beta", "bata": 4}, "unknown setting 'bata' of objective 'beta': did you mean"),
        (
            {"name": "elbo", "beta": 4},
            "setting 'beta' of objective 'elbo': it has no settings",
        ),
        ({"name": "capacity"}, "needs capacity, as in {name: capacity, capacity: ...}"),
        (
            {"name": "beta", "beta": {"step": 3}},
            "give its settings as {steps, start, end} or",
        ),
        ({"name": "iwae", "num_particles": "ten"}, "num_particles of objective 'iwae' cannot be"),
        ({"name": "free_bits", "free": -1}, "free is -1.0; it must be 0 or more and finite"),
    ],
)
def test_errors_name_the_setting(declared: Any, message: str) -> None:
    with pytest.raises(InputError, match=re.escape(message)):
        objective_of(declared)
