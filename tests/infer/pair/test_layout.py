"""Objectives in both layouts of samples, an outer plate and repeated rows, against formulas."""

from typing import Any

import pyro
import pyro.distributions as dist
import pytest
import torch
from torch import Tensor
from torch.nn.functional import softplus

from pyrovae.infer import CIWAE, IWAE, MIWAE, PIWAE, RWS, BetaELBO, DReG, Renyi, StickingTheLanding
from pyrovae.infer.objectives.objective import Objective
from pyrovae.infer.pair.particles import Particles
from tests.infer.objectives.linear_gaussian import (
    NOISE,
    LinearGaussian,
    gradients_of,
    named_parameters,
)

pytestmark = pytest.mark.usefixtures("float64")

NUM, BATCH = 6, 5


class Rows(LinearGaussian):
    """The linear-Gaussian pair, whose decoder takes rows only."""

    def model(self, x: Tensor) -> None:
        with pyro.plate("data", len(x)):
            z = pyro.sample("z", dist.Normal(self.centre, 1.0).to_event(1))
            if z.dim() != 2:
                raise RuntimeError("rows are expected")
            mean = z @ self.weight.T + self.bias
            pyro.sample("x", dist.Normal(mean, NOISE).to_event(1), obs=x)


def make_pair(repeats: bool) -> LinearGaussian:
    pair = Rows() if repeats else LinearGaussian()
    particles = Particles(pair.model, pair.guide, NUM, "data", (pair.data(BATCH),), {})
    assert particles.layout.repeats_rows == repeats
    return pair


def draw_noise(repeats: bool) -> Tensor:
    """The noise of the samples, by sample and datum, as the guide draws it."""
    torch.manual_seed(1)
    rows = torch.randn(BATCH * NUM, 2)
    return rows.view(BATCH, NUM, 2).transpose(0, 1) if repeats else rows.view(NUM, BATCH, 2)


def scored(
    pair: LinearGaussian, x: Tensor, z: Tensor, keep: str = "model guide"
) -> tuple[Tensor, Tensor]:
    """log p(x, z) and log q(z | x), with the gradients in the parameters that are kept."""
    weight, bias, centre, slope, offset, raw = (
        p if ("guide" if n in ("slope", "offset", "raw") else "model") in keep else p.detach()
        for n, p in named_parameters(pair)
    )
    log_likelihood = dist.Normal(z @ weight.T + bias, NOISE).log_prob(x).sum(-1)
    log_prior = dist.Normal(centre, 1.0).log_prob(z).sum(-1)
    log_q = dist.Normal(x @ slope.T + offset, softplus(raw)).log_prob(z).sum(-1)
    return log_likelihood + log_prior, log_q


def assert_gradients(pair: LinearGaussian, objective: Objective, x: Tensor, total: Tensor) -> None:
    got = gradients_of(pair, objective, x)
    want = torch.autograd.grad(-total, [p for _, p in named_parameters(pair)])
    for (name, _), each in zip(named_parameters(pair), want, strict=True):
        torch.testing.assert_close(got[name], each, rtol=0, atol=1e-9)


def log_mean(log_weights: Tensor) -> Tensor:
    return log_weights.exp().mean(0).log()


BOUNDS: dict[str, tuple[Objective, Any]] = {
    "beta": (BetaELBO(num_particles=NUM), lambda w: w.mean(0)),
    "iwae": (IWAE(NUM), log_mean),
    "renyi": (Renyi(0.3, NUM), lambda w: log_mean(0.7 * w) / 0.7),
    "miwae": (MIWAE(NUM, 3), lambda w: w.view(3, 2, BATCH).exp().mean(1).log().mean(0)),
    "ciwae": (CIWAE(0.25, NUM), lambda w: 0.25 * w.mean(0) + 0.75 * log_mean(w)),
}


@pytest.mark.parametrize("repeats", [False, True])
class TestBothLayouts:
    @pytest.mark.parametrize("name", BOUNDS)
    def test_values_and_gradients_of_bounds(self, name: str, repeats: bool) -> None:
        objective, formula = BOUNDS[name]
        pair = make_pair(repeats)
        x = pair.data(BATCH)
        noise = draw_noise(repeats)
        z = x @ pair.slope.T + pair.offset + softplus(pair.raw) * noise
        log_joint, log_q = scored(pair, x, z)
        bound = formula(log_joint - log_q).mean()
        torch.manual_seed(1)
        loss = objective.loss(pair.model, pair.guide, x).loss
        torch.testing.assert_close(-loss, bound.detach(), rtol=0, atol=1e-9)
        assert_gradients(pair, objective, x, bound)

    def test_dreg_squares_the_weights_of_each_sample(self, repeats: bool) -> None:
        """sum_k v_k^2 (d log w_k / d z_k) (d z_k / d phi) for q, and sum_k v_k d log p for p."""
        pair = make_pair(repeats)
        x = pair.data(BATCH)
        z = x @ pair.slope.T + pair.offset + softplus(pair.raw) * draw_noise(repeats)
        log_joint, log_q = scored(pair, x, z.detach())
        v = (log_joint - log_q).detach().softmax(0)
        path = torch.sub(*scored(pair, x, z, keep=""))
        of_model, _ = scored(pair, x, z.detach(), keep="model")
        total = (v.square() * path + v * of_model).sum(0).mean()
        assert_gradients(pair, DReG(NUM), x, total)

    def test_dreg_with_several_latents_of_one_encoder(self, repeats: bool) -> None:
        """Also with a deterministic site in the guide, through which gradients flow."""
        slope = torch.tensor([0.4, -0.3, 0.5], requires_grad=True)

        def model(x: Tensor) -> None:
            with pyro.plate("data", len(x)):
                a, b, c = (pyro.sample(name, dist.Normal(0.0, 1.0)) for name in "abc")
                if repeats and a.dim() > 1:
                    raise RuntimeError("rows are expected")
                pyro.sample("x", dist.Normal(a + 2 * b - c, 1.0), obs=x)

        def guide(x: Tensor) -> None:
            with pyro.plate("data", len(x)):
                h = pyro.deterministic("h", torch.exp(slope * x[:, None]), event_dim=1)
                for number, name in enumerate("abc"):
                    pyro.sample(name, dist.Normal(h[..., number], 0.7))

        x = torch.linspace(-1.0, 1.0, BATCH)
        torch.manual_seed(1)
        noise = torch.stack([torch.randn(NUM * BATCH) for _ in range(3)])
        if repeats:
            noise = noise.view(3, BATCH, NUM).transpose(1, 2)
        noise = noise.reshape(3, NUM, BATCH).movedim(0, -1)
        loc = torch.exp(slope * x[:, None])
        z = loc + 0.7 * noise
        signs = torch.tensor([1.0, 2.0, -1.0])
        log_joint = dist.Normal(z @ signs, 1.0).log_prob(x) + dist.Normal(0.0, 1.0).log_prob(z).sum(
            -1
        )
        log_weight = log_joint - dist.Normal(loc.detach(), 0.7).log_prob(z).sum(-1)
        v = log_weight.detach().softmax(0)
        (want,) = torch.autograd.grad(-(v.square() * log_weight).sum(0).mean(), slope)
        torch.manual_seed(1)
        DReG(NUM).loss_and_grads(model, guide, x)
        torch.testing.assert_close(slope.grad, want, rtol=0, atol=1e-9)

    def test_sticking_the_landing_follows_the_samples_only(self, repeats: bool) -> None:
        pair = make_pair(repeats)
        x = pair.data(BATCH)
        z = x @ pair.slope.T + pair.offset + softplus(pair.raw) * draw_noise(repeats)
        log_joint, log_q = scored(pair, x, z, keep="model")
        total = log_mean(log_joint - log_q).mean()
        assert_gradients(pair, StickingTheLanding(NUM), x, total)

    def test_rws_weights_the_densities_of_each_sample(self, repeats: bool) -> None:
        pair = make_pair(repeats)
        x = pair.data(BATCH)
        z = x @ pair.slope.T + pair.offset + softplus(pair.raw) * draw_noise(repeats)
        log_joint, log_q = scored(pair, x, z.detach())
        v = (log_joint - log_q).detach().softmax(0)
        assert_gradients(pair, RWS(NUM), x, (v * (log_joint + log_q)).sum(0).mean())

    def test_piwae_trains_model_and_guide_on_two_bounds(self, repeats: bool) -> None:
        pair = make_pair(repeats)
        x = pair.data(BATCH)
        z = x @ pair.slope.T + pair.offset + softplus(pair.raw) * draw_noise(repeats)
        of_model, fixed = scored(pair, x, z.detach(), keep="model")
        log_joint, log_q = scored(pair, x, z, keep="guide")
        groups = (log_joint - log_q).view(3, 2, BATCH).exp().mean(1).log().mean(0)
        total = log_mean(of_model - fixed).mean() + groups.mean()
        assert_gradients(pair, PIWAE(NUM, 3), x, total)

    @pytest.mark.parametrize("size", [None, 20])
    def test_latents_shared_by_all_data_keep_their_weight(
        self, size: int | None, repeats: bool
    ) -> None:
        """log p - log q of a shared latent is averaged over its draws, and divided by N.

        In the outer plate each sample has a draw of its own; repeated rows share one.
        """
        loc, slope = (torch.tensor(v, requires_grad=True) for v in (0.3, 0.4))

        def model(x: Tensor) -> None:
            shared = pyro.sample("shared", dist.Normal(0.0, 1.0))
            with pyro.plate("data", len(x)):
                z = pyro.sample("z", dist.Normal(0.0, 1.0))
                if repeats and z.dim() > 1:
                    raise RuntimeError("rows are expected")
                pyro.sample("x", dist.Normal(z + shared, 1.0), obs=x)

        def guide(x: Tensor) -> None:
            pyro.sample("shared", dist.Normal(loc, 0.5))
            with pyro.plate("data", len(x)):
                pyro.sample("z", dist.Normal(slope * x, 0.8))

        x = torch.linspace(-1.0, 2.0, BATCH)
        torch.manual_seed(1)
        shared = loc + 0.5 * torch.randn(1 if repeats else NUM, 1)
        noise = torch.randn(BATCH * NUM)
        noise = noise.view(BATCH, NUM).T if repeats else noise.view(NUM, BATCH)
        z = slope * x + 0.8 * noise
        log_likelihood = dist.Normal(z + shared, 1.0).log_prob(x).mean()
        kl = (dist.Normal(slope * x, 0.8).log_prob(z) - dist.Normal(0.0, 1.0).log_prob(z)).mean()
        log_q, log_p = dist.Normal(loc, 0.5), dist.Normal(0.0, 1.0)
        kl = kl + (log_q.log_prob(shared) - log_p.log_prob(shared)).mean() / (size or BATCH)
        torch.manual_seed(1)
        got = BetaELBO(num_particles=NUM, size=size).loss_and_grads(model, guide, x)
        torch.testing.assert_close(got.kl, kl.detach(), rtol=0, atol=1e-9)
        torch.testing.assert_close(got.reconstruction, -log_likelihood.detach(), rtol=0, atol=1e-9)
        torch.testing.assert_close(got.loss, (kl - log_likelihood).detach(), rtol=0, atol=1e-9)
        want = torch.autograd.grad(kl - log_likelihood, (loc, slope))
        torch.testing.assert_close((loc.grad, slope.grad), want, rtol=0, atol=1e-9)
