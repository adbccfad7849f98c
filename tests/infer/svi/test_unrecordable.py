"""What cannot be recorded is named once, and runs as ordinary Python."""

from collections.abc import Callable

import pyro
import pyro.distributions as dist
import pytest
import torch
from pyro.infer import Trace_ELBO
from torch import Tensor, nn

from pyrovae import InputError
from pyrovae.infer import ELBO, SVI
from tests.infer.programs import PROGRAMS, Networks, Program, adam, data, each_batch

from .runs import TOLERANCE, mean_of_data, run_steps


def reads_item(z: Tensor) -> Tensor:
    return z * 2 if z.mean().item() > 0 else z


def reads_truth(z: Tensor) -> Tensor:
    if (z > 0).all():
        z = z + 1
    return z


def compares(z: Tensor) -> Tensor:
    return z + 1 if torch.equal(z, z.abs()) else z


def masks(z: Tensor) -> Tensor:
    return z + z[z > 0].sum()


def selects(z: Tensor) -> Tensor:
    return z + torch.masked_select(z, z > 0).sum()


def draws_from_numpy(z: Tensor) -> Tensor:
    import numpy as np

    return z + float(np.random.randn())  # noqa: NPY002


def draws_from_python(z: Tensor) -> Tensor:
    import random

    return z + random.random()


COUNTER = {"calls": 0}


def counts(z: Tensor) -> Tensor:
    COUNTER["calls"] += 1
    return z + 0.1 * COUNTER["calls"]


REFUSED = {
    reads_item: r"unrecordable.py:\d+ \(in reads_item\) reads the value of a tensor, by item",
    reads_truth: r"unrecordable.py:\d+ \(in reads_truth\) reads the value of a tensor, by __bool__",
    compares: r"unrecordable.py:\d+ \(in compares\) reads the value of a tensor, by equal",
    masks: r"unrecordable.py:\d+ \(in masks\) reads the value of a tensor, by a mask",
    selects: r"unrecordable.py:\d+ \(in selects\) reads the value of a tensor, by a mask",
    draws_from_numpy: r"unrecordable.py:\d+ \(in draws_from_numpy\) draws from NumPy's random",
    draws_from_python: r"unrecordable.py:\d+ \(in draws_from_python\) draws from Python's random",
    counts: "COUNTER.calls change",
}


@pytest.mark.slow
@pytest.mark.usefixtures("float64")
@pytest.mark.parametrize("twist", REFUSED, ids=lambda f: f.__name__)
def test_what_cannot_be_recorded_is_named_once_and_runs_all_the_same(
    twist: Callable[[Tensor], Tensor],
) -> None:
    import random

    import numpy as np

    def make() -> Program:
        networks = Networks(nn.BatchNorm1d(6))
        random.seed(0)
        np.random.seed(0)  # noqa: NPY002
        COUNTER["calls"] = 0

        def model(x: Tensor) -> None:
            pyro.module("networks", networks)
            with pyro.plate("data", len(x)):
                z = pyro.sample("z", dist.Normal(torch.zeros(2), 1.0).to_event(1))
                mean = networks.decoder(twist(z))
                pyro.sample("x", dist.Normal(mean, 0.5).to_event(1), obs=x)

        return Program(model, networks.guide, Trace_ELBO(), each_batch, (networks,))

    eager, eager_losses, _ = run_steps(make, steps=20, compile=False)
    with pytest.warns(RuntimeWarning, match=REFUSED[twist]) as caught:
        state, losses, svi = run_steps(make, steps=20, num_steps=10**9)
    assert len([w for w in caught if w.category is RuntimeWarning]) == 1
    assert svi.num_graphs == (0, 0)
    if twist is not draws_from_python:  # as the checker of types does here, and less with graphs
        torch.testing.assert_close(losses, eager_losses, **TOLERANCE)
        torch.testing.assert_close(state, eager, **TOLERANCE)
    with pytest.raises(InputError, match=f"compile=True, but .*{REFUSED[twist]}"):
        run_steps(make, steps=8, compile=True)


def test_what_cannot_be_recorded_is_an_error_each_time() -> None:
    def model(x: Tensor) -> None:
        reads_item(torch.randn(()))
        mean_of_data(x)

    svi = SVI(model, lambda x: None, adam, ELBO(), compile=True)
    svi.step(data()[0])
    for _ in range(2):
        with pytest.raises(InputError, match="compile=True, but"):
            svi.step(data()[0])


@pytest.mark.slow
def test_short_runs_stay_as_they_are_and_long_ones_are_recorded() -> None:
    _, _, short = run_steps(PROGRAMS["our VAE"], steps=10, num_steps=10)
    _, _, long = run_steps(PROGRAMS["our VAE"], steps=10, num_steps=10_000)
    assert short.num_graphs == (0, 0)
    assert long.num_graphs[0] == 1
