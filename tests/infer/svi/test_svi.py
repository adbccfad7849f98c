"""A recorded and compiled step does what the step of the program does, on the same noise."""

import warnings
from contextlib import nullcontext
from functools import partial
from typing import Any

import pyro
import pytest
import torch
from pyro.infer import SVI as PyroSVI
from pyro.infer import Trace_ELBO
from torch import Tensor, nn
from torch.optim import Adam

from pyrovae import InputError
from pyrovae.errors import NotFinite
from pyrovae.infer import ELBO, SVI
from tests.infer.programs import PROGRAMS, Networks, adam, each_batch

from .runs import TOLERANCE, mean_of_data, repeat, run_eagerly, run_steps


@pytest.mark.slow
@pytest.mark.usefixtures("float64")
@pytest.mark.parametrize("name", PROGRAMS)
def test_compiled_steps_end_where_eager_ones_do(name: str) -> None:
    eager, eager_losses = run_eagerly(name)
    with warnings.catch_warnings():
        warnings.simplefilter("error", RuntimeWarning)
        compiled, losses, svi = run_steps(PROGRAMS[name], compile=True)
    recorded, num_compiled = svi.num_graphs
    assert num_compiled == 1
    assert recorded == (2 if name in ("a ragged last batch", "data on the device") else 1)
    torch.testing.assert_close(compiled, eager, **TOLERANCE)
    torch.testing.assert_close(losses, eager_losses, **TOLERANCE)


@pytest.mark.slow
@pytest.mark.usefixtures("float64")
def test_a_steady_loop_follows_batches_and_learning_rates() -> None:
    def run(compile: bool, steady: bool) -> tuple[dict[str, Tensor], SVI]:
        torch.manual_seed(3)
        program = PROGRAMS["a ragged last batch"]()
        svi = SVI(program.model, program.guide, adam, program.loss, compile=compile)
        for start in (0, 20):
            with svi.steady() if steady else nullcontext():
                for i in range(start, start + 20):
                    svi.step(*program.arguments(i)[0])
                    if i == 30:
                        assert svi.optimiser is not None
                        svi.optimiser.param_groups[0]["lr"] = 1e-3
            if start == 0:
                next(program.modules[0].parameters()).requires_grad_(False)
        return dict(program.modules[0].named_parameters()), svi

    eager, _ = run(compile=False, steady=False)
    steady, svi = run(compile=True, steady=True)
    assert svi.num_graphs[1] == 1
    torch.testing.assert_close(steady, eager, **TOLERANCE)
    (batch,), _ = PROGRAMS["a ragged last batch"]().arguments(1)
    with svi.steady():
        svi.step(batch)
        with pytest.raises(InputError, match="argument 1 is a tensor that needs a gradient"):
            svi.step(batch.clone().requires_grad_())


@pytest.mark.slow
@pytest.mark.usefixtures("float64")
@pytest.mark.parametrize("name", PROGRAMS)
def test_recorded_steps_end_there_too(name: str) -> None:
    eager, eager_losses = run_eagerly(name)
    replayed, losses, svi = run_steps(PROGRAMS[name], compile=True, can_compile=False)
    assert svi.num_graphs[0] >= 1
    assert svi.num_graphs[1] == 0
    torch.testing.assert_close(replayed, eager, **TOLERANCE)
    torch.testing.assert_close(losses, eager_losses, **TOLERANCE)


@pytest.mark.slow
@pytest.mark.usefixtures("float64", "no_compiler")
def test_without_a_compiler_recorded_steps_are_taken() -> None:
    eager, _ = run_eagerly("our VAE")
    with pytest.warns(RuntimeWarning, match="runs uncompiled, since torch's compiler stopped"):
        replayed, _, svi = run_steps(PROGRAMS["our VAE"], compile=True)
    assert svi.num_graphs == (1, 0)
    torch.testing.assert_close(replayed, eager, **TOLERANCE)


@pytest.mark.usefixtures("float64")
def test_eager_steps_are_those_of_pyros_svi() -> None:
    mine, losses, _ = run_steps(PROGRAMS["score function"], compile=False, steps=20)
    pyro.clear_param_store()
    torch.manual_seed(3)
    program = PROGRAMS["score function"]()
    theirs = PyroSVI(program.model, program.guide, pyro.optim.Adam({"lr": 1e-2}), program.loss)
    their_losses = [theirs.step(*program.arguments(i)[0]) for i in range(20)]
    assert losses.tolist() == pytest.approx(their_losses, rel=1e-10)
    for name, value in pyro.get_param_store().items():
        torch.testing.assert_close(mine[name], value.detach(), **TOLERANCE)


@pytest.mark.slow
@pytest.mark.parametrize("compile", [False, True])
def test_a_loss_that_is_not_finite_is_noticed_within_a_hundred_steps(compile: bool) -> None:
    svi = SVI(mean_of_data, lambda x: None, partial(Adam, lr=1e-3), ELBO(), compile=compile)
    batches = [torch.full((5, 3), 0.0)] * 29 + [torch.full((5, 3), torch.nan)] * 121
    taken: list[int] = []

    def step(i: int) -> None:
        taken.append(i)
        svi.step(batches[i])

    with pytest.raises(NotFinite, match="parameters are as before that step") as error:
        repeat(150, step)
    assert len(taken) == 100
    assert error.value.step == 30


@pytest.mark.slow
@pytest.mark.parametrize("compile", [False, True])
def test_autocast(compile: bool) -> None:
    """Products in bfloat16 move the loss by no more than their eight bits do."""
    make = PROGRAMS["our VAE"]
    _, exact, _ = run_steps(make, steps=6, compile=False)
    _, cast, svi = run_steps(make, steps=6, compile=compile, autocast=torch.bfloat16)
    torch.testing.assert_close(cast, exact, rtol=0.05, atol=0.05)
    assert (cast != exact).any()
    assert svi.num_graphs == ((1, 1) if compile else (0, 0))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"accumulate": 0}, "accumulate is 0"),
        ({"loss": "elbo"}, "loss must be an ELBO.*got str"),
        ({"optim": Adam}, "give one optimiser"),
        (
            {"loss_and_grads": print, "loss": Trace_ELBO()},
            "together with a loss that is a function",
        ),
    ],
)
def test_refused(options: dict[str, Any], message: str) -> None:
    networks = Networks()
    with pytest.raises(InputError, match=message):
        SVI(networks.model, networks.guide, **({"optimiser": adam} | options))


@pytest.mark.slow
def test_evaluate_loss_is_in_eval_mode_and_takes_no_step() -> None:
    networks = Networks(nn.Dropout(0.5))
    svi = SVI(networks.model, networks.guide, adam, ELBO(400), compile=True)
    x = each_batch(0)[0][0]
    svi.step(x)
    before = {name: p.detach().clone() for name, p in networks.named_parameters()}
    losses = []
    for _ in range(4):
        torch.manual_seed(2)
        losses.append(svi.evaluate_loss(x).loss.item())
    networks.eval()
    torch.manual_seed(2)
    want = ELBO(400).loss(networks.model, networks.guide, x).loss.item()
    assert losses == pytest.approx([want] * 4, rel=1e-6)
    torch.testing.assert_close(dict(networks.named_parameters()), before, rtol=0, atol=0)
