"""Pairs that a user writes in plain Pyro, without modules of the package."""

from collections.abc import Callable
from typing import Any

import pyro
import pyro.distributions as dist
import pytest
import torch
from torch import Tensor

from pyrovae import InputError
from pyrovae.inverse import Linear, Noise, posterior
from tests.pairs import user_pair

from .linear_gaussian import assert_draws_match_normal

pytestmark = pytest.mark.usefixtures("float64")

WEIGHT = torch.tensor([[1.0, 0.5, -0.3], [0.0, 1.0, 0.8]], dtype=torch.float64)
NAN = torch.nan
IMPORTANCE: dict[str, Any] = {
    "name": "importance",
    "proposal": {"name": "refined", "num_steps": 60, "lr": 0.5, "num_particles": 8},
}

Pair = tuple[Callable[[Tensor], None], Callable[[Tensor], None]]


def pair(site: str = "x", plate: str = "data", scale: float = 1.0) -> Pair:
    """Two latents, the second given the first, one of them positive; x is normal given both."""

    def model(x: Tensor) -> None:
        with pyro.poutine.scale(scale=scale), pyro.plate(plate, len(x)):
            a = pyro.sample("a", dist.Normal(0.0, 1.0))
            b = pyro.sample("b", dist.LogNormal(a, 0.5))
            loc = torch.stack([a, b.log()], -1) @ WEIGHT
            pyro.sample(site, dist.Normal(loc, 0.5).to_event(1), obs=x)

    def guide(x: Tensor) -> None:
        with pyro.poutine.scale(scale=scale), pyro.plate(plate, len(x)):
            a = pyro.sample("a", dist.Normal(0.4 * x[:, 0], 1.0))
            pyro.sample("b", dist.LogNormal(0.5 * a, 1.0))

    return model, guide


def exact(y: Tensor, matrix: Tensor, noise: float) -> tuple[Tensor, Tensor]:
    """Mean and covariance of x given y = matrix x + noise: (a, log b) are normal."""
    z_covariance = torch.tensor([[1.0, 1.0], [1.0, 1.25]])
    prior = WEIGHT.mT @ z_covariance @ WEIGHT + 0.25 * torch.eye(3)
    y_covariance = matrix @ prior @ matrix.mT + noise**2 * torch.eye(len(matrix))
    gain = prior @ matrix.mT @ torch.linalg.inv(y_covariance)
    return gain @ y, prior - gain @ matrix @ prior


METHODS: list[tuple[dict[str, Any], int]] = [
    (IMPORTANCE, 1000),
    ({"name": "importance", "proposal": "amortised", "num_proposals": 20_000}, 1000),
    ({"name": "metropolis_within_gibbs", "num_chains": 200, "burn_in": 60, "thin": 10}, 1000),
    ({"name": "nuts", "num_chains": 60, "warm_up": 15, "target_acceptance": 0.7}, 600),
]


@pytest.mark.slow
@pytest.mark.parametrize(("method", "num"), METHODS, ids=lambda value: str(value)[:40])
def test_posterior_is_exact_with_two_latents_one_of_them_positive(
    method: dict[str, Any], num: int
) -> None:
    y = torch.tensor([[1.2, NAN, -0.4]])
    result = posterior(*pair(), y, method=method, num_samples=num)
    seen = ~y[0].isnan()
    mean, covariance = exact(y[0, seen], torch.eye(3)[seen], 0.0)
    effective = min(num, float(result.diagnostics["effective_samples"]))
    assert_draws_match_normal(result.x[:, 0], mean, covariance, effective)
    assert result.latents["b"].gt(0).all()
    assert set(result.latents) == {"a", "b"}


def test_site_and_plate_can_have_any_names() -> None:
    matrix = torch.tensor([[1.0, 1.0, 0.0], [0.0, 0.0, 1.0]])
    y = torch.tensor([[1.5, -0.7]])
    result = posterior(
        *pair("height", "rows"),
        y,
        operator=Linear(matrix, 0.6),
        method=IMPORTANCE,
        num_samples=1000,
        event_shape=(3,),
        site="height",
        plate="rows",
    )
    mean, covariance = exact(y[0], matrix, 0.6)
    effective = min(1000, float(result.diagnostics["effective_samples"]))
    assert_draws_match_normal(result.x[:, 0], mean, covariance, effective)


@pytest.mark.parametrize(
    ("bad_pair", "message"),
    [
        (pair("height"), "observes no site 'x'"),
        (pair("x", "rows"), "no plate 'data'"),
        (pair(scale=2.0), "is scaled by 2"),
    ],
)
def test_pairs_without_the_site_or_the_plate_are_refused(bad_pair: Pair, message: str) -> None:
    with pytest.raises(InputError, match=message):
        posterior(*bad_pair, torch.ones(2, 3), method={"name": "refined", "num_steps": 10**9})


def test_latents_that_all_data_share_are_refused() -> None:
    shared = user_pair()
    for method in ("amortised", "importance", "pseudo_gibbs", "nuts"):
        with pytest.raises(InputError, match="site 'weights' is outside of plate 'data'"):
            posterior(shared.model, shared.guide, torch.ones(2, 3), method=method)


def test_discrete_latents_are_refused_by_methods_that_need_gradients() -> None:
    def model(x: Tensor) -> None:
        with pyro.plate("data", len(x)):
            k = pyro.sample("k", dist.Bernoulli(0.4))
            pyro.sample("x", dist.Normal(k[:, None], 1.0).expand([len(x), 3]).to_event(1), obs=x)

    def guide(x: Tensor) -> None:
        with pyro.plate("data", len(x)):
            pyro.sample("k", dist.Bernoulli(torch.full((len(x),), 0.5)))

    y = torch.tensor([[1.0, NAN, 0.9]])
    weighted = {"name": "importance", "proposal": "amortised", "num_proposals": 4000}
    with pytest.raises(InputError, match="noise of unknown size is estimated with gradients"):
        posterior(model, guide, y, operator=Noise(None), method=weighted)
    with pytest.raises(InputError, match="refined needs gradients of the latents, but 'k'"):
        posterior(model, guide, y, method="refined")
    result = posterior(model, guide, y, method=weighted, num_samples=4000)
    log_odds = torch.tensor(0.4 / 0.6).log() + (y - 0.5).nansum()  # of k = 1 given y
    share = log_odds.sigmoid()
    error = (share * (1 - share) / 2000).sqrt()
    assert (result.latents["k"].mean() - share).abs() < 4.5 * error
    assert (result.mean[0, 1] - share).abs() < 4.5 * error


def test_parameters_stay_out_of_the_global_store() -> None:
    def model(x: Tensor) -> None:
        scale = pyro.param("scale", torch.tensor(0.5), constraint=dist.constraints.positive)
        with pyro.plate("data", len(x)):
            z = pyro.sample("z", dist.Normal(torch.zeros(3), 1.0).to_event(1))
            pyro.sample("x", dist.Normal(z, scale).to_event(1), obs=x)

    def guide(x: Tensor) -> None:
        shift = pyro.param("shift", torch.zeros(3))
        with pyro.plate("data", len(x)):
            pyro.sample("z", dist.Normal(0.8 * x + shift, 0.45).to_event(1))

    for method in ("amortised", IMPORTANCE, "pseudo_gibbs"):
        posterior(model, guide, torch.tensor([[1.0, NAN, 0.0]]), method=method, num_samples=5)
    assert not dict(pyro.get_param_store())


def test_features_in_a_plate_are_refused() -> None:
    """Otherwise each feature would count as a datum of its own."""

    def model(x: torch.Tensor) -> None:
        with pyro.plate("data", len(x), dim=-2):
            z = pyro.sample("z", dist.Normal(0.0, 1.0).expand([len(x), 1]))
            with pyro.plate("features", 2, dim=-1):
                pyro.sample("x", dist.Normal(z, 1.0), obs=x)

    def guide(x: torch.Tensor) -> None:
        with pyro.plate("data", len(x), dim=-2):
            pyro.sample("z", dist.Normal(x[:, :1], 1.0))

    with pytest.raises(InputError, match=r"^site 'x' .* \.to_event, not with a plate$"):
        posterior(model, guide, torch.zeros(3, 2), operator=Noise(0.5, of="mean"))


def test_latents_without_data_in_the_first_dimension_are_refused() -> None:
    def model(x: torch.Tensor) -> None:
        with pyro.plate("data", len(x), dim=-1):
            with pyro.plate("latents", 2, dim=-2):
                z = pyro.sample("z", dist.Normal(0.0, 1.0))
            pyro.sample("x", dist.Normal(z.sum(0)[:, None], 1.0).to_event(1), obs=x)

    def guide(x: torch.Tensor) -> None:
        with pyro.plate("data", len(x), dim=-1), pyro.plate("latents", 2, dim=-2):
            pyro.sample("z", dist.Normal(0.0, 1.0))

    with pytest.raises(InputError, match="latent 'z' has shape"):
        posterior(model, guide, torch.zeros(3, 1), method="amortised")
