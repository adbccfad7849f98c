"""What users of ``pyro.infer.SVI`` do, with both classes: the results are the same."""

import json
from functools import partial
from pathlib import Path
from typing import Any

import pyro
import pyro.distributions as dist
import pytest
import torch
from pyro.infer import SVI as PyroSVI
from pyro.infer import Predictive, Trace_ELBO
from pyro.infer.autoguide import AutoDelta, AutoNormal
from torch import Tensor

from pyrovae import VAE
from pyrovae.infer import SVI

from .scripts import (
    SCRIPTS,
    Make,
    Script,
    X,
    adam,
    guide,
    model,
    optimiser_of_two_svis,
    optimiser_state_saved_and_loaded,
    options_by_parameter,
    steps,
    store,
    two_svis_in_turns,
)


def recorded(*args: Any, **options: Any) -> SVI:
    """An SVI that replays recorded steps, without the compiler."""
    svi = SVI(*args, compile=True, **options)
    svi._gradients.tiered.can_compile = False
    return svi


OURS = {"eager": partial(SVI, compile=False), "recorded": recorded}


def result_of(script: Script, make: Make) -> Any:
    pyro.clear_param_store()
    torch.manual_seed(2)
    return script(make)


@pytest.mark.parametrize("kind", OURS)
@pytest.mark.parametrize("name", SCRIPTS)
@pytest.mark.usefixtures("float64")
@pytest.mark.filterwarnings("ignore::UserWarning", "ignore::RuntimeWarning")
def test_same_as_pyro(name: str, kind: str) -> None:
    theirs = result_of(SCRIPTS[name], PyroSVI)
    ours = result_of(SCRIPTS[name], OURS[kind])
    torch.testing.assert_close(ours, theirs, rtol=1e-8, atol=1e-8)


@pytest.mark.slow
@pytest.mark.parametrize(
    "script",
    [
        options_by_parameter,
        optimiser_of_two_svis,
        two_svis_in_turns,
        optimiser_state_saved_and_loaded,
    ],
)
@pytest.mark.usefixtures("float64")
def test_compiled_updates_share_the_state_of_the_optimiser(script: Script) -> None:
    theirs = result_of(script, PyroSVI)
    ours = result_of(script, partial(SVI, compile=True))
    torch.testing.assert_close(ours, theirs, rtol=1e-8, atol=1e-8)


def test_a_saved_store_warms_another_program(tmp_path: Path) -> None:
    steps(SVI(model, guide, adam(), Trace_ELBO(), compile=False), 30)
    trained = store()
    pyro.get_param_store().save(str(tmp_path / "store"))
    pyro.clear_param_store()
    pyro.get_param_store().load(str(tmp_path / "store"))

    def other_guide(x: Tensor | None = None) -> None:
        guide(x)

    SVI(model, other_guide, adam(0.0), Trace_ELBO(), compile=False).step(X)
    torch.testing.assert_close(store(), trained)


def test_a_state_of_the_optimiser_survives_a_file(tmp_path: Path) -> None:
    optim = adam()
    steps(SVI(model, guide, optim, Trace_ELBO(), compile=False), 3)
    optim.save(str(tmp_path / "optim"))
    again = adam()
    again.load(str(tmp_path / "optim"))
    steps(SVI(model, guide, again, Trace_ELBO(), compile=False), 1)
    assert {int(each["state"][0]["step"]) for each in again.get_state().values()} == {4}


@pytest.mark.parametrize("auto", [AutoNormal, AutoDelta])
def test_a_second_autoguide_has_parameters_of_its_own(auto: Any) -> None:
    """Pyro would give both guides the same tensors, as they have the same names."""
    guides, medians = [auto(model), auto(model)], []
    for one, mean in zip(guides, (3.0, -7.0), strict=True):
        svi = SVI(model, one, adam(0.1), Trace_ELBO(), compile=False)
        steps(svi, 200, torch.full((50,), mean))
        medians.append(float(one.median()["m"]))
    assert medians == pytest.approx([3.0, -7.0], abs=0.5)
    if auto is AutoNormal:  # AutoDelta.median() reads Pyro's store, as the warning says
        assert float(guides[0].median()["m"]) == medians[0]
    drawn = Predictive(model, guide=guides[1], num_samples=50)()["m"]
    assert float(drawn.mean()) == pytest.approx(-7.0, abs=0.5)


def declared() -> tuple[Any, Any]:
    """The same program again, as a cell of a notebook defines it when it runs again."""

    def own_model(x: Tensor) -> None:
        loc = pyro.param("centre", torch.tensor(0.5))
        with pyro.plate("data", len(x)):
            pyro.sample("x", dist.Normal(loc, 1.0), obs=x)

    return own_model, lambda x: None


def test_a_program_begins_afresh_after_a_finished_training_of_another() -> None:
    first = SVI(*declared(), adam(), Trace_ELBO(), compile=False)
    losses = steps(first, 10)
    del first
    second = SVI(*declared(), adam(), Trace_ELBO(), compile=False)
    with pytest.warns(UserWarning, match="'centre' in Pyro's store was trained by another program"):
        again = steps(second, 10)
    assert again == losses


def test_a_program_shares_with_another_that_is_in_training() -> None:
    first = SVI(*declared(), adam(), Trace_ELBO(), compile=False)
    last = steps(first, 10)[-1]
    second = SVI(*declared(), adam(), Trace_ELBO(), compile=False)
    assert steps(second, 1)[0] < last
    first.end()
    second.end()
    with pytest.warns(UserWarning, match="was trained by another program"):
        steps(SVI(*declared(), adam(), Trace_ELBO(), compile=False), 1)


def test_losses_of_pyro_are_numbers() -> None:
    svi = SVI(model, guide, adam(), Trace_ELBO(), compile=False)
    loss = svi.step(X)
    assert json.loads(json.dumps([loss])) == [loss]
    assert round(loss, 1) == pytest.approx(loss, abs=0.1)
    assert isinstance(svi.evaluate_loss(X), float)


def test_losses_of_ours_are_rounded_as_numbers() -> None:
    loss = SVI(model, guide, adam(), compile=False).step(X)
    assert round(loss, 2) == round(float(loss.loss), 2)
    assert float(loss) == loss.loss.item()


def test_options_of_each_parameter_are_asked_for_by_its_path() -> None:
    names: list[str] = []

    def options(name: str) -> dict[str, float]:
        names.append(name)
        return {"lr": 1e-3}

    vae = VAE((3,), 2, "Normal")
    SVI(vae.model, vae.guide, pyro.optim.Adam(options), Trace_ELBO()).step(torch.randn(5, 3))
    paths = {name for module in (vae.model, vae.guide) for name, _ in module.named_parameters()}
    assert set(names) == paths
