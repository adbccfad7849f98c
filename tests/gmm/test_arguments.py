"""Arguments: arrays, frames and lists are taken where tensors are, and wrong ones are refused."""

from collections.abc import Callable
from inspect import unwrap  # removes the type checks of the tests, which come first
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch

from pyrovae import InputError
from pyrovae.gmm import (
    AmortisedGuide,
    BayesianGaussianMixture,
    BayesianMixtureModel,
    FreeGuide,
    GaussianMixture,
    Mixture,
    MixtureModel,
    Prior,
    amortised_vi,
    bayesian_svi,
    check_fittable,
    coordinate_ascent,
    em,
    floor_of,
    free_vi,
    k_means_plus_plus,
    log_evidence,
    monte_carlo_em,
    nuts,
    record,
    toy,
)
from pyrovae.gmm.compare import Settings
from pyrovae.gmm.randomness import as_seed

from .data import TYPES, random_mixture

NAN, INF = float("nan"), float("inf")
X = toy(30)[0]
FLOOR = floor_of(X, 1e-6)
FIRST = k_means_plus_plus(X, 2, "full", FLOOR)
PRIOR = Prior.of(X, 2)
POSTERIOR = record(coordinate_ascent(X, FIRST, PRIOR, max_iter=3), X).last.posterior

WHOLE: tuple[Any, ...] = (0, -1, 2.5, True, NAN, INF, "3", None, torch.ones(2))
BAD: dict[str, tuple[Any, ...]] = {
    "x": (None, 3, "x", [["a"]], X[:, 0], X[None], X > 0, X.to(torch.complex64), X[:0], X / 0),
    "start": (None, "k-means", X, random_mixture("full", 2, 3)),
    "floor": (None, "low", FLOOR[:1], -FLOOR, 0 * FLOOR, FLOOR * NAN, FLOOR * INF, [True, False]),
    "prior": (None, {}, Prior.of(X, 2, "diag"), Prior.of(X[:, :1], 2)),
    "posterior": (None, {}, PRIOR, FIRST),
    "seed": (-1, 1.5, True, "0", None, 2**64),
    "lr": (0.0, -1.0, NAN, INF, True, "0.1", None),
    "tol": (NAN, True, "0.1", None),
    "max_iter": (-1, 2.5, True, NAN, "3", None),
    "hidden": ("32", (0,), (2.5,), (True,), 3, None),
    "gradient": ("exact", None, 3),
    "measure_every": (0, -1, 2.5, True, "3"),
    "restrict_to": ("round", None, 3),
    "covariance_type": ("round", None, 3, True),
    "covariance_floor": (0.0, -1.0, NAN, INF, True, "low", None),
    "num_samples": (0, 2.5, True, NAN, "3", None),
}

CALLS: dict[str, tuple[Callable[..., Any], dict[str, Any], tuple[str, ...]]] = {
    "em": (em, {"x": X, "start": FIRST, "floor": FLOOR}, ("max_iter", "tol")),
    "monte_carlo_em": (
        monte_carlo_em,
        {"x": X, "start": FIRST, "floor": FLOOR},
        ("num_samples", "max_iter", "seed"),
    ),
    "free_vi": (free_vi, {"x": X, "start": FIRST, "floor": FLOOR}, ("lr", "num_steps")),
    "amortised_vi": (
        amortised_vi,
        {"x": X, "start": FIRST, "floor": FLOOR},
        ("hidden", "gradient", "lr", "num_steps", "measure_every", "seed"),
    ),
    "coordinate_ascent": (
        coordinate_ascent,
        {"x": X, "start": FIRST, "prior": PRIOR},
        ("restrict_to", "max_iter", "tol"),
    ),
    "bayesian_svi": (
        bayesian_svi,
        {"x": X, "start": FIRST, "prior": PRIOR},
        ("lr", "num_steps", "seed"),
    ),
    "nuts": (
        nuts,
        {"x": X, "start": FIRST, "prior": PRIOR},
        ("num_draws", "num_warmup", "seed"),
    ),
    "log_evidence": (log_evidence, {"x": X, "posterior": POSTERIOR}, ("num_samples", "seed")),
    "k_means_plus_plus": (
        k_means_plus_plus,
        {"x": X, "num_components": 2, "covariance_type": "full", "floor": FLOOR},
        ("seed",),
    ),
    "floor_of": (floor_of, {"x": X, "covariance_floor": 1e-6}, ()),
    "toy": (toy, {}, ("num", "seed")),
    "prior": (Prior.of.__func__, {"cls": Prior, "x": X, "num_components": 2}, ("covariance_type",)),
    "check_fittable": (check_fittable, {"x": X, "num_components": 2}, ()),
}
CASES = [
    (call, name, value)
    for call, (_, given, others) in CALLS.items()
    for name in (*given, *others)
    if name != "cls" and not (call == "check_fittable" and name == "x")
    for value in BAD.get(name, WHOLE)
]


@pytest.mark.parametrize(("call", "name", "value"), CASES)
def test_each_wrong_argument_is_refused_when_the_function_is_called(call, name, value):
    function, given, _ = CALLS[call]
    with pytest.raises(InputError) as refused:
        unwrap(function)(**{**given, name: value})
    message = str(refused.value)
    assert "\n" not in message
    assert len(message) < 350
    if name not in ("x", "prior"):
        assert name in message


@pytest.mark.parametrize("convert", [np.asarray, pd.DataFrame, np.ndarray.tolist])
def test_arrays_frames_and_lists_are_taken_where_tensors_are(convert):
    x = convert(X.numpy())
    floor = FLOOR.tolist()
    torch.testing.assert_close(floor_of(x, 1e-6), FLOOR)
    first = k_means_plus_plus(x, 2, "full", floor)
    torch.testing.assert_close(first.locs, FIRST.locs)
    climb = record(em(x, first, floor, max_iter=3), x)
    expected = record(em(X, FIRST, FLOOR, max_iter=3), X)
    assert climb.log_likelihood == pytest.approx(expected.log_likelihood)
    torch.testing.assert_close(FIRST.log_prob(x), FIRST.log_prob(X))
    torch.testing.assert_close(FIRST.log_joint(x), FIRST.log_joint(X))
    torch.testing.assert_close(POSTERIOR.predictive(x), POSTERIOR.predictive(X))
    torch.testing.assert_close(Prior.of(x, 2).scatter, PRIOR.scatter)
    mixture = Mixture.of([0.5, 0.5], convert(X[:2].numpy()), [1.0, 1.0], "spherical")
    torch.testing.assert_close(mixture.locs, X[:2])


@pytest.mark.parametrize("kind", TYPES)
def test_points_of_a_density_are_checked(kind):
    mixture = random_mixture(kind)
    for wrong, message in (
        (torch.zeros(3), "shape"),
        (torch.zeros(3, 5), r"x has shape \(3, 5\); a mixture in 2 dimensions needs \(n, 2\)"),
        (torch.tensor([[0.0, INF]]), "column 1 holds inf in 1 of 1 rows"),
        (None, "the data is None"),
        ("x", "the data is 'x'"),
        ([[True, False]], "truth values"),
    ):
        with pytest.raises(InputError, match=message):
            mixture.log_prob(wrong)
    for wrong in (0, -1, 2.5, True, None, "3"):
        with pytest.raises(InputError, match="num is"):
            unwrap(Mixture.sample)(mixture, wrong)
    with pytest.raises(InputError, match="generator is 3"):
        unwrap(Mixture.sample)(mixture, 3, 3)


@pytest.mark.parametrize("name", ["weights", "locs", "covariances"])
@pytest.mark.parametrize("wrong", [None, "x", True, NAN, [[True, False]], {}, [[1.0], [1.0, 2.0]]])
def test_parameters_of_a_mixture_are_checked(name, wrong):
    given = {"weights": [0.5, 0.5], "locs": [[0.0], [1.0]], "covariances": [[1.0], [1.0]]}
    with pytest.raises(InputError):
        Mixture.of(**{**given, name: wrong}, covariance_type="diag")


def test_a_mixture_of_tensors_is_checked_too():
    good = random_mixture("diag")
    parts = {"log_weights": good.log_weights, "locs": good.locs, "scales": good.scales}
    for name, value in parts.items():
        with pytest.raises(InputError, match=f"{name} of a mixture holds NaN"):
            Mixture(**{**parts, name: value * NAN}, covariance_type="diag")


@pytest.mark.parametrize(
    ("part", "given", "name", "values"),
    [
        (MixtureModel, {"start": FIRST, "floor": FLOOR}, "floor", BAD["floor"]),
        (MixtureModel, {"start": FIRST, "floor": FLOOR}, "start", (None, "k-means", X)),
        (MixtureModel, {"start": FIRST, "floor": FLOOR}, "marginalised", (None, "yes", 3)),
        (FreeGuide, {"log_q": X}, "log_q", (None, "x", X[:, 0], X * NAN, [[True, False]])),
        (AmortisedGuide, {"x": X, "num_components": 2}, "num_components", WHOLE),
        (AmortisedGuide, {"x": X, "num_components": 2}, "hidden", BAD["hidden"]),
        (AmortisedGuide, {"x": X, "num_components": 2}, "gradient", BAD["gradient"]),
        (BayesianMixtureModel, {"prior": PRIOR, "num_components": 2}, "num_components", WHOLE),
        (BayesianMixtureModel, {"prior": PRIOR, "num_components": 2}, "prior", (None, {}, FIRST)),
    ],
)
def test_parts_of_programs_are_checked(part, given, name, values):
    for value in values:
        with pytest.raises(InputError, match=name):
            unwrap(part.__init__)(part.__new__(part), **{**given, name: value})


@pytest.mark.parametrize("estimator", [GaussianMixture, BayesianGaussianMixture])
@pytest.mark.parametrize(
    ("name", "values"),
    [
        ("n_components", WHOLE),
        ("max_iter", WHOLE),
        ("n_init", WHOLE),
        ("tol", (-1.0, NAN, INF, True, "0.1", None)),
        ("covariance_floor", (0.0, 1.0, -1.0, NAN, INF, True, "low", None)),
        ("covariance_type", BAD["covariance_type"]),
        ("random_state", (-1, 1.5, "0", True, 2**40)),
        ("device", ("gpu", 3.5, None, True)),
        ("init", ("kmeans", X, 3, True)),
    ],
)
def test_each_wrong_setting_is_refused_by_name(estimator, name, values):
    for value in values:
        with pytest.raises(InputError, match=name):
            estimator(2).set_params(**{name: value}).fit(X)


@pytest.mark.parametrize(
    ("name", "values"),
    [
        ("num_components", (0, -1, 2.5, True, "3", NAN)),
        ("num_steps", WHOLE),
        ("hidden", BAD["hidden"]),
        ("num_draws", (-1, 3, 2.5, True, "9", NAN)),
        ("seed", BAD["seed"]),
        ("data", (None, 3, "")),
        ("label", (3, "")),
        ("covariance_type", BAD["covariance_type"]),
    ],
)
def test_each_wrong_setting_of_a_comparison_is_refused_by_name(name, values):
    for value in values:
        with pytest.raises(InputError, match=name):
            unwrap(Settings.__init__)(object.__new__(Settings), **{name: value})


def test_the_largest_seed_is_taken():
    """Some methods draw from the seed that follows it, and torch's largest is 2^63 - 1."""
    assert as_seed(2**63 - 2) == 2**63 - 2
    with pytest.raises(InputError, match="seed is 9223372036854775807"):
        as_seed(2**63 - 1)
