"""Every method samples the exact p(x | y) of a linear-Gaussian model."""

from typing import Any

import pytest
import torch
from torch import Tensor

from pyrovae.inverse import Linear, Noise, Operator
from pyrovae.models.pca import ProbabilisticPCA

from .linear_gaussian import assert_draws_match_normal, exact, exact_given_observed, model

pytestmark = pytest.mark.usefixtures("float64")

MATRIX = torch.tensor([[1.0, 1.0, 0.0, 0.0, 0.0], [0.0, 0.5, -1.0, 0.0, 2.0]], dtype=torch.float64)

REFINED: dict[str, Any] = {"name": "refined", "num_steps": 200, "lr": 0.3, "num_particles": 8}
IMPORTANCE: dict[str, Any] = {
    "name": "importance",
    "num_proposals": 5000,
    "proposal": {"name": "refined", "num_steps": 60, "lr": 0.5, "num_particles": 8},
}
NUTS: dict[str, Any] = {"name": "nuts", "num_chains": 64, "warm_up": 20, "target_acceptance": 0.7}
GIBBS: dict[str, Any] = {"name": "pseudo_gibbs", "num_chains": 200, "burn_in": 40, "thin": 4}
METROPOLIS = GIBBS | {"name": "metropolis_within_gibbs"}


def sample_data(ppca: ProbabilisticPCA, num: int) -> Tensor:
    with torch.random.fork_rng():
        torch.manual_seed(4)
        return ppca.sample(num)


def remove_entries(x: Tensor) -> Tensor:
    y = x.clone()
    y[0, 1:] = torch.nan
    y[1, ::2] = torch.nan
    return y


@pytest.mark.slow
@pytest.mark.parametrize(
    ("method", "num"),
    [
        ("amortised", 4000),
        (REFINED, 4000),
        (IMPORTANCE, 2000),
        (GIBBS, 2000),
        (METROPOLIS, 2000),
        (NUTS, 640),
    ],
    ids=lambda value: value["name"] if isinstance(value, dict) else str(value),
)
def test_missing_entries_given_the_others(method: Any, num: int) -> None:
    ppca = model(missing=True)
    y = remove_entries(sample_data(ppca, 2))
    result = ppca.posterior(y, method=method, num_samples=num)
    for i in range(2):
        mean, covariance = exact_given_observed(ppca, y[i])
        effective = None
        if "effective_samples" in result.diagnostics and isinstance(method, dict):
            effective = min(num, float(result.diagnostics["effective_samples"][i]))
        assert_draws_match_normal(result.x[:, i], mean, covariance, effective)
        seen = ~y[i].isnan()
        assert torch.equal(result.mean[i, seen], y[i, seen])
        assert torch.equal(result.x[:, i, seen], y[i, seen].expand(num, -1))


OPERATORS: list[tuple[Operator, Tensor, float]] = [
    (Noise(1.5), torch.eye(5, dtype=torch.float64), 1.5),
    (Noise(1.5, of="mean"), torch.eye(5, dtype=torch.float64), 1.5),
    (Linear(MATRIX, 0.7), MATRIX, 0.7),
    (Linear(MATRIX, 0.0), MATRIX, 0.0),
    (Linear(MATRIX, 0.7, of="mean"), MATRIX, 0.7),
]


ALL = range(len(OPERATORS))
OF_DATUM = [which for which in ALL if OPERATORS[which][0].of == "datum"]
# Chains use the same density as the refined posterior, so one operator is enough for some.
CASES = [
    *((REFINED, 4000, which) for which in ALL),
    *((IMPORTANCE, 2000, which) for which in ALL),
    *((METROPOLIS, 2000, which) for which in OF_DATUM),
    (GIBBS, 2000, 2),
    (NUTS, 640, 2),
    (NUTS, 640, 4),
]


@pytest.mark.slow
@pytest.mark.parametrize(
    ("method", "num", "which"),
    CASES,
    ids=lambda value: value["name"] if isinstance(value, dict) else str(value),
)
def test_linear_observations(method: dict[str, Any], num: int, which: int) -> None:
    operator, matrix, noise = OPERATORS[which]
    ppca = model(missing=False)
    with torch.random.fork_rng():
        torch.manual_seed(5)
        y = sample_data(ppca, 1) @ matrix.mT + noise * torch.randn(1, len(matrix))
    result = ppca.posterior(y, operator=operator, method=method, num_samples=num)
    mean, covariance = exact(ppca, y[0], matrix, noise, of_mean=operator.of == "mean")
    effective = min(num, float(result.diagnostics["effective_samples"][0]))
    assert_draws_match_normal(result.x[:, 0], mean, covariance, effective)
