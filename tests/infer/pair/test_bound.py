"""Pairs that have no bound are refused, and the message says what to do."""

import pyro
import pyro.distributions as dist
import pytest
import torch
from pyro.infer.autoguide import AutoMultivariateNormal
from torch import Tensor

from pyrovae import InputError, evaluate, fit
from pyrovae.infer import Pair
from tests.pairs import user_pair

X = torch.randn(6)


def model(x: Tensor, sites: tuple[str, ...] = ("z",), plate: str = "data") -> None:
    with pyro.plate(plate, len(x)):
        loc = sum(pyro.sample(site, dist.Normal(0.0, 1.0)) for site in sites)
        pyro.sample("x", dist.Normal(loc, 1.0), obs=x)


def guide(
    x: Tensor, sites: tuple[str, ...] = ("z",), plate: str = "data", **kwargs: object
) -> None:
    loc = pyro.param("loc", torch.zeros(()))
    with pyro.plate(plate, len(x)):
        for site in sites:
            pyro.sample(site, dist.Normal(loc, 1.0), **kwargs)


@pytest.mark.parametrize(
    ("model", "guide", "message"),
    [
        (lambda x: model(x, ("z", "w")), guide, "the model samples 'w', which the guide does not"),
        (model, lambda x: guide(x, ("z", "w")), "the guide samples 'w', which is no latent"),
        (
            lambda x: model(x, plate="rows"),
            lambda x: guide(x, plate="rows"),
            "no plate 'data'.*its plates are: rows.*plate=NAME",
        ),
    ],
)
def test_pairs_without_a_bound_are_refused_before_any_step(
    model: object, guide: object, message: str
) -> None:
    with pytest.raises(InputError, match=message):
        fit(model, guide, X, epochs=1, progress=False)
    with pytest.raises(InputError, match=message):
        evaluate(model, guide, X)


def test_the_plate_may_have_another_name() -> None:
    history = fit(
        lambda x: model(x, plate="rows"),
        lambda x: guide(x, plate="rows"),
        X,
        epochs=1,
        plate="rows",
        progress=False,
    )
    assert len(history.epochs) == 1


def test_nothing_to_train_is_refused() -> None:
    def fixed(x: Tensor) -> None:
        with pyro.plate("data", len(x)):
            pyro.sample("z", dist.Normal(0.0, 1.0))

    with pytest.raises(InputError, match="nothing to train"):
        fit(model, fixed, X, epochs=1, progress=False)


@pytest.mark.slow
def test_auxiliary_and_deterministic_sites_of_the_guide_are_allowed() -> None:
    """Pyro's continuous autoguides draw one joint latent, and unpack it into the model's."""
    x = torch.randn(50) + 3

    def shared(x: Tensor) -> None:
        mean = pyro.sample("mean", dist.Normal(0.0, 10.0))
        with pyro.plate("data", len(x)):
            pyro.sample("x", dist.Normal(mean, 1.0), obs=x)

    auto = AutoMultivariateNormal(shared)

    def guide(x: Tensor) -> None:
        auto(x)
        pyro.deterministic("twice", torch.zeros(()))

    history = fit(shared, guide, x, epochs=300, lr=0.2, schedule="cosine", progress=False)
    assert len(history.epochs) == 300
    elbo = evaluate(history.model, history.guide, x, num_particles=500).elbo.mean * 50
    # log p(x), which a normal guide can reach exactly.
    covariance = torch.eye(50) + 100.0
    exact = torch.distributions.MultivariateNormal(torch.zeros(50), covariance).log_prob(x)
    assert elbo == pytest.approx(exact.item(), abs=0.2)


def test_a_plate_of_another_size_than_the_data_is_refused() -> None:
    pair = user_pair(lambda x: {"size": 50, "subsample": torch.arange(len(x))})
    with pytest.raises(InputError, match="declares 50 data, but there are 8"):
        fit(pair.model, pair.guide, torch.randn(8, 3), epochs=1, progress=False)


def test_shared_latents_are_shared_among_the_data() -> None:
    """The terms of each datum, summed over a partition into batches, are those of all data."""
    pair, x = user_pair(), torch.randn(12, 3)
    trained = Pair(pair.model, pair.guide)
    with torch.no_grad(), trained.store():
        whole = trained.bound(x, size=12)
        log_likelihood, kl = whole.per_datum()
        torch.testing.assert_close(log_likelihood.sum(), whole.log_likelihood())
        torch.testing.assert_close(kl.sum(), whole.kl())
        batch = trained.bound(x[:4], size=12)
        log_likelihood, kl = batch.per_datum()
        torch.testing.assert_close(log_likelihood.sum() * 3, batch.log_likelihood())
        torch.testing.assert_close(kl.sum() * 3, batch.kl())
