"""Invalid arguments of every estimator are refused in a sentence, before any work."""

from collections.abc import Callable
from inspect import unwrap  # removes the type checks of the tests, which come first
from typing import Any

import numpy as np
import pandas as pd
import pyro
import pyro.distributions as dist
import pytest
import torch
from torch import Tensor

from pyrovae import InputError, evaluate
from pyrovae.infer import (
    annealed_importance_sample,
    bidirectional_check,
    importance_sample,
    inference_gap,
    latent_report,
)

NAN, INF = float("nan"), float("inf")
X = torch.randn(6, 2, generator=torch.Generator().manual_seed(0))


def model(x: Tensor) -> None:
    with pyro.plate("data", len(x)):
        z = pyro.sample("z", dist.Normal(torch.zeros(2), 1.0).to_event(1))
        pyro.sample("x", dist.Normal(z, 1.0).to_event(1), obs=x)


def guide(x: Tensor) -> None:
    with pyro.plate("data", len(x)):
        pyro.sample("z", dist.Normal(x / 2, 0.8).to_event(1))


def never(*_: Any) -> None:
    raise AssertionError("work began")


ESTIMATORS: dict[str, tuple[Callable[..., Any], tuple[str, ...]]] = {
    "evaluate": (
        evaluate,
        ("size", "num_particles", "compile"),
    ),
    "importance": (
        importance_sample,
        ("num_samples", "bounds", "memory", "seed", "compile", "progress"),
    ),
    "ais": (
        lambda model, guide, data, **options: unwrap(annealed_importance_sample)(
            model, data, guide=guide, **options
        ),
        ("num_chains", "num_temperatures", "num_leapfrog", "seed", "progress"),
    ),
    "bidirectional": (
        lambda model, guide, data, **options: unwrap(bidirectional_check)(model, data, **options),
        ("num_chains", "num_temperatures", "num_leapfrog", "seed", "progress"),
    ),
    "gap": (
        inference_gap,
        ("num_steps", "lr", "num_samples", "seed", "log_likelihood", "progress"),
    ),
    "report": (latent_report, ("num_samples", "max_data", "seed", "progress")),
}
SHARED = ("batch_size", "transform", "device", "plate")
WHOLE: tuple[Any, ...] = (0, -1, 2.5, True, NAN, "3", None, torch.ones(2))
BAD: dict[str, tuple[Any, ...]] = {
    "seed": (-1, 1.5, True, "0", None, 2**64),
    "size": (0, -3, 1.5, True, "6"),
    "lr": (0.0, -1.0, NAN, INF, True, "0.1", None),
    "bounds": (3, "12", (0,), (1.5,), (NAN,), None),
    "compile": ("yes", None, 3),
    "progress": ("yes", None, 1),
    "log_likelihood": (
        torch.zeros(3),
        torch.zeros(6, 1),
        torch.full((6,), NAN),
        "high",
        [True] * 6,
    ),
    "transform": (3, "log"),
    "device": ("gpu", 3.5, True),
    "plate": ("", 3, None),
}
CASES = [
    (estimator, name, value)
    for estimator, (_, names) in ESTIMATORS.items()
    for name in (*names, *SHARED)
    for value in BAD.get(name, WHOLE)
]


@pytest.mark.parametrize(("estimator", "name", "value"), CASES)
def test_each_wrong_argument_is_refused_by_name_before_any_work(
    estimator: str, name: str, value: Any
) -> None:
    with pytest.raises(InputError) as refused:
        unwrap(ESTIMATORS[estimator][0])(never, never, X, **{name: value})
    message = str(refused.value)
    assert name in message
    assert "\n" not in message
    assert len(message) < 300


@pytest.mark.parametrize("estimator", ESTIMATORS)
@pytest.mark.parametrize("wrong", [3, None, "vae"])
def test_a_model_that_cannot_be_called_is_refused(estimator: str, wrong: Any) -> None:
    with pytest.raises(InputError, match=r"model is .*; it must be a function"):
        unwrap(ESTIMATORS[estimator][0])(wrong, guide, X)


def test_arrays_have_the_estimates_of_tensors() -> None:
    options: dict[str, Any] = {"num_samples": 20, "progress": False}
    for estimate in (importance_sample, inference_gap):
        more = {"num_steps": 2} if estimate is inference_gap else {}
        got = [estimate(model, guide, data, **options, **more) for data in (X, X.numpy())]
        torch.testing.assert_close(got[0].log_likelihood, got[1].log_likelihood)


@pytest.mark.parametrize("convert", [np.asarray, list, pd.Series, torch.tensor])
def test_a_known_log_likelihood_may_be_any_numbers(convert: Callable[..., Any]) -> None:
    known = [-1.0, -2.0, -3.0, -4.0, -5.0, -6.0]
    options: dict[str, Any] = {"num_steps": 1, "num_samples": 2, "progress": False}
    gap = inference_gap(model, guide, X, log_likelihood=convert(known), **options)
    assert gap.log_likelihood.tolist() == known
