"""Posteriors refined for each datum: they approach the exact one and depend on x alone."""

import copy
from functools import partial
from typing import Any

import pytest
import torch
from torch import nn

from pyrovae import VAE, InputError, Likelihood, fit, importance_sample
from pyrovae.infer import evaluate
from pyrovae.posteriors import DiagonalNormal, FullRankNormal, InverseAutoregressive
from pyrovae.priors import VampPrior
from tests.graphs import assert_graph_matches_eager

NUM, FEATURES, LATENTS, SCALE = 40, 5, 2, 0.5


class Linear(nn.Module):
    """A decoder x = W z, which has an exact posterior."""

    def __init__(self) -> None:
        super().__init__()
        w = torch.randn(FEATURES, LATENTS, generator=torch.Generator().manual_seed(3))
        self.w = nn.Parameter(w)

    def forward(self, z: torch.Tensor) -> torch.Tensor:
        return (z @ self.w.T)[..., None, :]


def make_vae(inference: Any, posterior: Any = None) -> VAE:
    torch.manual_seed(0)
    likelihood = Likelihood("Normal", scale=SCALE)
    return VAE(
        (FEATURES,), LATENTS, likelihood, posterior=posterior, inference=inference, decoder=Linear()
    )


def sample_data(vae: VAE) -> torch.Tensor:
    torch.manual_seed(1)
    with torch.no_grad():
        return vae.sample(NUM)


def exact(vae: VAE, x: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """log p(x), and mean and covariance of p(z | x)."""
    w = vae.model.decoder.w.detach()
    marginal = torch.distributions.MultivariateNormal(
        torch.zeros(FEATURES), w @ w.T + SCALE**2 * torch.eye(FEATURES)
    )
    precision = torch.eye(LATENTS) + w.T @ w / SCALE**2
    covariance = precision.inverse()
    return marginal.log_prob(x), x @ w @ covariance / SCALE**2, covariance


@pytest.mark.slow
@pytest.mark.usefixtures("float64")
@pytest.mark.parametrize("start", ["semi_amortised", "free"])
def test_refined_full_rank_posteriors_reach_the_exact_one(start: str) -> None:
    settings = {"name": start, "num_steps": 300, "lr": 0.1}
    if start == "free":
        settings["num_data"] = NUM
    vae = make_vae(settings, FullRankNormal(LATENTS))
    x = sample_data(vae)
    log_p, mean, covariance = exact(vae, x)
    with torch.no_grad():
        q = vae.q(x)
        assert (q.mean - mean).abs().max() < 0.05 * covariance.diagonal().sqrt().max()
    gap = (
        log_p - importance_sample(vae.model, vae.guide, x, num_samples=200, compile=False).elbo
    ).mean()
    assert gap < 5e-3  # the amortised start is off by more than 1 nat
    plain = make_vae("amortised", FullRankNormal(LATENTS))
    start_gap = (
        log_p - importance_sample(plain.model, plain.guide, x, num_samples=200, compile=False).elbo
    )
    assert start_gap.mean() > 1


@pytest.mark.usefixtures("float64")
def test_a_few_steps_from_the_encoder_raise_the_elbo_of_each_datum() -> None:
    refined, plain = make_vae("semi_amortised"), make_vae("amortised")
    refined.guide.encoder.load_state_dict(plain.guide.encoder.state_dict())
    x = sample_data(plain)
    elbos = [
        importance_sample(vae.model, vae.guide, x, num_samples=400, compile=False).elbo
        for vae in (refined, plain)
    ]
    assert (elbos[0] > elbos[1]).double().mean() > 0.9


@pytest.mark.usefixtures("float64")
def test_the_encoder_gets_the_gradient_at_the_refined_parameters() -> None:
    vae = make_vae("semi_amortised")
    x = sample_data(vae)
    h = vae.guide.h(x)
    weight = torch.randn_like(h)
    gradients = torch.autograd.grad((h * weight).sum(), list(vae.guide.encoder.parameters()))
    plain = (vae.guide.encoder(x) * weight).sum()
    for ours, theirs in zip(
        gradients, torch.autograd.grad(plain, list(vae.guide.encoder.parameters())), strict=True
    ):
        torch.testing.assert_close(ours, theirs)


@pytest.mark.parametrize("inference", ["semi_amortised", {"name": "free", "num_data": NUM}])
def test_q_is_a_function_of_each_datum_alone(inference: Any) -> None:
    vae = make_vae(inference)
    x = sample_data(vae)
    together = vae.q(x).mean
    torch.manual_seed(5)
    torch.testing.assert_close(vae.q(x).mean, together)
    alone = torch.stack([vae.q(each[None]).mean[0] for each in x[:3]])
    torch.testing.assert_close(alone, together[:3], rtol=1e-4, atol=1e-4)
    with torch.no_grad():
        torch.testing.assert_close(vae.q(x).mean, together)


@pytest.mark.slow
@pytest.mark.usefixtures("float64")
def test_free_parameters_learn_the_posterior_of_each_datum() -> None:
    """With a fixed model this is classical VI: a fully factorised q has the mean of the posterior,
    and the diagonal of the posterior's precision.
    """
    vae = make_vae({"name": "free", "num_data": NUM})
    x = sample_data(vae)
    vae.model.requires_grad_(False)
    fit(
        vae.model,
        vae.guide,
        (x, torch.arange(NUM)),
        epochs=1500,
        batch_size=NUM,
        lr=0.03,
        schedule="cosine",
        progress=False,
    )
    _, mean, covariance = exact(vae, x)
    q = vae.guide.q(x, torch.arange(NUM))
    scale = covariance.inverse().diagonal() ** -0.5
    assert (q.mean - mean).abs().max() < 0.25 * scale.min()
    torch.testing.assert_close(q.stddev.mean(0), scale, rtol=0.05, atol=0)


@pytest.mark.slow
@pytest.mark.usefixtures("float64")
@pytest.mark.parametrize("inference", ["semi_amortised", {"name": "free", "num_data": NUM}])
def test_recorded_steps_match_eager_steps(inference: Any) -> None:
    x = sample_data(make_vae(inference))
    index = () if inference == "semi_amortised" else (torch.arange(NUM),)
    halves = [tuple(part[half] for part in (x, *index)) for half in (slice(20), slice(20, 40))]
    assert_graph_matches_eager(partial(make_vae, inference), halves * 3)


@pytest.mark.slow
def test_copies_and_state_dicts_keep_everything() -> None:
    vae = make_vae({"name": "free", "num_data": NUM})
    x = sample_data(vae)
    twin = copy.deepcopy(vae)
    with torch.no_grad():
        twin.model.decoder.w.mul_(2)  # changes the refined posteriors of the copy only
        assert not torch.allclose(twin.q(x).mean, vae.q(x).mean)
    other = make_vae({"name": "free", "num_data": NUM})
    other.load_state_dict(twin.state_dict())
    torch.testing.assert_close(other.q(x).mean, twin.q(x).mean)
    assert evaluate(vae.model, vae.guide, x).elbo.mean > -1e3


def test_invalid_arguments_are_refused() -> None:
    with pytest.raises(InputError, match="refine a normal"):
        make_vae("semi_amortised", InverseAutoregressive(LATENTS))
    with pytest.raises(InputError, match="no encoder"):
        VAE(
            (FEATURES,),
            LATENTS,
            "Normal",
            prior=VampPrior((FEATURES,), 3),
            inference={"name": "free", "num_data": 3},
        )
    with pytest.raises(InputError, match="num_steps is 0"):
        make_vae({"name": "semi_amortised", "num_steps": 0})
    with pytest.raises(InputError, match="needs num_data"):
        make_vae("free")
    with pytest.raises(InputError, match="inference cannot be 'amortized': did you mean"):
        VAE((3,), 2, posterior=DiagonalNormal(2), inference="amortized")
