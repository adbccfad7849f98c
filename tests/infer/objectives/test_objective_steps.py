"""Recorded and compiled steps on each objective match eager steps."""

from functools import partial
from typing import Any

import pyro
import pytest
import torch
from pyro.infer import SVI as PyroSVI
from torch import Tensor, nn
from torch.optim import Adam

from pyrovae import SVI, VAE
from pyrovae.infer import BetaELBO, DReG, Linear, objective_of
from pyrovae.nn import MLP

pytestmark = pytest.mark.usefixtures("float64")

STEPS = 8
SETTINGS: dict[str, dict[str, Any]] = {
    "beta": {"beta": {"steps": 10}},
    "piwae": {"num_particles": 4, "num_groups": 2},
}


def train(
    objective: Any, compile: bool, compiler: bool = True
) -> tuple[dict[str, Tensor], tuple[int, int]]:
    torch.manual_seed(3)
    small = partial(MLP, hidden=(8,))
    vae = VAE((5,), 2, "Bernoulli", encoder=small, decoder=small)
    svi = SVI(vae.model, vae.guide, partial(Adam, lr=1e-2), objective, compile=compile)
    svi._gradients.tiered.can_compile = compiler
    for _ in range(STEPS):
        svi.step(torch.rand(12, 5).round())
    state = {name: tensor.detach().clone() for name, tensor in vae.named_parameters()}
    return state | {"step": torch.as_tensor(getattr(objective, "step", STEPS))}, svi.num_graphs


@pytest.mark.slow
@pytest.mark.parametrize("name", ["beta", "info", "dreg", "piwae", "rws"])
def test_recorded_steps_match_eager_steps(name: str) -> None:
    declared = {"name": name, **SETTINGS.get(name, {})}
    eager, _ = train(objective_of(declared), compile=False)
    recorded, graphs = train(objective_of(declared), compile=True, compiler=False)
    assert graphs == (1, 0)
    assert eager["step"] == STEPS
    torch.testing.assert_close(recorded, eager, rtol=1e-9, atol=1e-9)


@pytest.mark.slow
def test_compiled_steps_match_eager_steps() -> None:
    eager, _ = train(DReG(4), compile=False)
    compiled, graphs = train(DReG(4), compile=True)
    assert graphs == (1, 1)
    torch.testing.assert_close(compiled, eager, rtol=1e-9, atol=1e-9)


def test_pyros_own_svi_takes_the_same_steps() -> None:
    class Pair(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            torch.manual_seed(3)
            small = partial(MLP, hidden=(8,))
            self.vae = VAE((5,), 2, "Bernoulli", encoder=small, decoder=small)

    x = torch.rand(12, 5).round()
    ours, theirs = Pair(), Pair()
    svi = SVI(
        ours.vae.model,
        ours.vae.guide,
        partial(Adam, lr=1e-2),
        BetaELBO(Linear(4)),
        compile=False,
    )
    loss = BetaELBO(Linear(4)).differentiable_loss
    pyros = PyroSVI(theirs.vae.model, theirs.vae.guide, pyro.optim.Adam({"lr": 1e-2}), loss)
    for step in range(6):
        torch.manual_seed(step)
        mine = svi.step(x).loss
        torch.manual_seed(step)
        assert pyros.step(x) == pytest.approx(float(mine), rel=1e-9)
    torch.testing.assert_close(
        dict(ours.named_parameters()), dict(theirs.named_parameters()), rtol=1e-7, atol=1e-9
    )
