"""The bound, its terms and its gradients against models with closed forms."""

import pyro
import pyro.distributions as dist
import pytest
import torch
from torch import Tensor
from torch.distributions import kl_divergence
from torch.func import jacrev, vmap
from torch.utils.data import DataLoader, TensorDataset

from pyrovae import InputError, evaluate
from pyrovae.infer import Pair
from tests.pairs import (
    NUM_DATA,
    assert_unbiased,
    exact_kl_to_posterior,
    exact_log_evidence,
    linear_gaussian_vae,
    user_pair,
)

NUM_SAMPLES = 4000


def terms(vae: torch.nn.Module, x: Tensor) -> tuple[Tensor, Tensor]:
    """log p(x|z) and log q(z|x) - log p(z) of shape (NUM_SAMPLES, num_data), at new draws of z."""
    pair = Pair(vae.model, vae.guide)
    with torch.no_grad(), pair.store():
        bound = pair.bound(x.repeat(NUM_SAMPLES, 1), size=NUM_SAMPLES * len(x))
        log_likelihood, kl = bound.per_datum()
    return log_likelihood.unflatten(0, (-1, len(x))), kl.unflatten(0, (-1, len(x)))


@pytest.mark.usefixtures("float64")
def test_log_evidence_is_elbo_plus_kl_to_the_posterior() -> None:
    vae, x = linear_gaussian_vae(), torch.randn(NUM_DATA, 3)
    log_likelihood, kl = terms(vae, x)
    exact = exact_log_evidence(vae, x) - exact_kl_to_posterior(vae, x)
    assert_unbiased(log_likelihood - kl, exact.detach())


@pytest.mark.usefixtures("float64")
def test_bound_is_tight_at_the_exact_posterior() -> None:
    """If q is the posterior, every sample of the ELBO is log p(x)."""
    vae, x = linear_gaussian_vae(), torch.randn(NUM_DATA, 3)
    decoder, encoder = vae.model.decoder.layers[0], vae.guide.encoder.layers[0]
    with torch.no_grad():
        # Orthogonal columns make the posterior diagonal, so q can be equal to it.
        decoder.weight.copy_(torch.linalg.qr(torch.randn(3, 2)).Q * torch.tensor([1.5, 0.5]))
        precision = torch.eye(2) + decoder.weight.T @ decoder.weight / 0.6**2
        encoder.weight.zero_()
        encoder.weight[:2] = precision.inverse() @ decoder.weight.T / 0.6**2
        encoder.bias[:2] = -encoder.weight[:2] @ decoder.bias
        encoder.bias[2:] = torch.special.expm1(precision.diagonal().rsqrt()).log()
    log_likelihood, kl = terms(vae, x)
    exact = exact_log_evidence(vae, x).detach().expand(NUM_SAMPLES, -1)
    # The link keeps scales 1e-7 above zero, so q reaches the posterior to about that.
    torch.testing.assert_close(log_likelihood - kl, exact, rtol=0, atol=1e-5)


@pytest.mark.usefixtures("float64")
def test_sampled_kl_has_the_analytic_kl_as_its_mean() -> None:
    vae, x = linear_gaussian_vae(), torch.randn(NUM_DATA, 3)
    _, kl = terms(vae, x)
    exact = kl_divergence(vae.q(x).base_dist, vae.model.prior().base_dist).sum(-1)
    assert_unbiased(kl, exact.detach())


@pytest.mark.slow
@pytest.mark.usefixtures("float64")
def test_evaluate_against_the_closed_form() -> None:
    """The ELBO over data is log p - KL; its standard error is that of the data and samples."""
    vae, x = linear_gaussian_vae(), 2 * torch.randn(500, 3)
    result = evaluate(vae.model, vae.guide, x, num_particles=200, batch_size=64)
    exact = (exact_log_evidence(vae, x) - exact_kl_to_posterior(vae, x)).detach()
    log_likelihood, kl = terms(vae, x[:50])
    within = (log_likelihood - kl).var(0).mean()  # of one sample of one datum
    monte_carlo = (within / (200 * 500)).sqrt().item()
    assert result.elbo.mean == pytest.approx(exact.mean().item(), abs=4.5 * monte_carlo)
    expected = ((exact.var() + within / 200) / 500).sqrt().item()
    # The standard error of a standard deviation of 500 values is about 1 / sqrt(1000) of it.
    assert result.elbo.standard_error == pytest.approx(expected, rel=4.5 / 1000**0.5)
    assert result.elbo.mean == pytest.approx(-result.reconstruction.mean - result.kl.mean)
    assert (result.num_data, result.num_particles) == (500, 200)


def test_evaluate_refuses_no_samples_and_no_data() -> None:
    vae = linear_gaussian_vae()
    with pytest.raises(InputError, match="num_particles is 0"):
        evaluate(vae.model, vae.guide, torch.randn(4, 3), num_particles=0)
    loader = DataLoader(TensorDataset(torch.randn(4, 3)), batch_size=8, drop_last=True)
    with pytest.raises(InputError, match="the data gave no batch"):
        evaluate(vae.model, vae.guide, loader)


@pytest.mark.usefixtures("float64")
def test_reparameterised_log_q_is_the_change_of_variables() -> None:
    """log q(z) = log Normal(eps; 0, I) - log |det dz/deps| at z = z(eps)."""
    vae, x = linear_gaussian_vae(), torch.randn(NUM_DATA, 3)
    q = vae.q(x)
    eps = torch.randn(NUM_DATA, 2)
    base = q.base_dist

    def z_of(eps: Tensor, loc: Tensor, scale: Tensor) -> Tensor:
        return loc + scale * eps

    z = vmap(z_of)(eps, base.loc, base.scale)
    jacobian = vmap(jacrev(z_of))(eps, base.loc, base.scale)
    log_eps = dist.Normal(0.0, 1.0).log_prob(eps).sum(-1)
    expected = log_eps - torch.linalg.slogdet(jacobian).logabsdet
    torch.testing.assert_close(q.log_prob(z), expected, rtol=1e-12, atol=1e-12)
    torch.manual_seed(1)
    drawn = q.rsample()
    torch.manual_seed(1)
    noise = torch.normal(torch.zeros(NUM_DATA, 2), torch.ones(NUM_DATA, 2))
    torch.testing.assert_close(drawn, z_of(noise, base.loc, base.scale))


def flat_gradient(objective: Tensor, parameters: list[Tensor]) -> Tensor:
    return torch.cat([g.flatten() for g in torch.autograd.grad(objective, parameters)])


@pytest.mark.slow
@pytest.mark.usefixtures("float64")
def test_gradient_estimates_have_the_exact_gradient_as_their_mean() -> None:
    """Random minibatches, against the gradient of log p - KL over all data."""
    vae, x = linear_gaussian_vae(), torch.randn(NUM_DATA, 3)
    parameters = list(vae.parameters())
    exact = flat_gradient(
        (exact_log_evidence(vae, x) - exact_kl_to_posterior(vae, x)).sum(), parameters
    )
    pair = Pair(vae.model, vae.guide)
    estimates = []
    with pair.store(), pyro.validation_enabled(False):
        for _ in range(NUM_SAMPLES):
            bound = pair.bound(x[torch.randperm(NUM_DATA)[:4]], size=NUM_DATA)
            estimates.append(flat_gradient(bound.surrogate(), parameters))
    assert_unbiased(torch.stack(estimates), exact)


@pytest.mark.slow
@pytest.mark.usefixtures("float64")
def test_score_function_gradients_have_the_enumerated_gradient_as_their_mean() -> None:
    """A discrete latent: E_q over its two values is a sum, whose gradient autograd knows."""
    x = torch.randn(NUM_DATA)
    weight = torch.tensor([0.3, -0.8], requires_grad=True)
    shift = torch.tensor(1.2, requires_grad=True)

    def model(x: Tensor) -> None:
        with pyro.plate("data", len(x)):
            k = pyro.sample("k", dist.Bernoulli(0.4))
            pyro.sample("x", dist.Normal(shift * k, 1.0), obs=x)

    def guide(x: Tensor) -> None:
        with pyro.plate("data", len(x)):
            pyro.sample("k", dist.Bernoulli(logits=weight[0] + weight[1] * x))

    q = dist.Bernoulli(logits=weight[0] + weight[1] * x)
    elbo = torch.zeros(())
    for k in torch.tensor([0.0, 1.0]):
        log_q = q.log_prob(k.expand(NUM_DATA))
        log_joint = dist.Bernoulli(0.4).log_prob(k) + dist.Normal(shift * k, 1.0).log_prob(x)
        elbo = elbo + (log_q.exp() * (log_joint - log_q)).sum()
    exact = flat_gradient(elbo, [weight, shift])

    pair = Pair(model, guide)
    estimates = []
    with pair.store(), pyro.validation_enabled(False):
        for _ in range(NUM_SAMPLES):
            bound = pair.bound(x, size=NUM_DATA)
            estimates.append(flat_gradient(bound.surrogate(), [weight, shift]))
    assert_unbiased(torch.stack(estimates), exact)


@pytest.mark.usefixtures("float64")
def test_minibatches_add_up_to_the_full_gradient_with_shared_latents() -> None:
    """On the same noise, the mean over a partition into minibatches is the full gradient."""
    x, noise = torch.randn(NUM_DATA, 3), torch.randn(NUM_DATA, 2)
    nets = user_pair()

    def model(x: Tensor, noise: Tensor) -> None:
        weights = pyro.sample("weights", dist.Normal(torch.zeros(2), 1.0).to_event(1))
        with pyro.plate("data", len(x)):
            z = pyro.sample("z", dist.Normal(weights, 1.0).to_event(1))
            pyro.sample("x", dist.Normal(nets.decoder(z), 0.5).to_event(1), obs=x)

    def guide(x: Tensor, noise: Tensor) -> None:
        loc = pyro.param("loc", torch.tensor([0.3, -0.2]))
        pyro.sample("weights", dist.Normal(loc, 0.1).to_event(1))
        h = nets.encoder(x)
        with pyro.plate("data", len(x)):  # z from the noise of its datum
            pyro.sample("z", dist.Delta(h[:, 1:3] + h[:, 3:].exp() * noise).to_event(1))

    pair = Pair(model, guide)
    networks = [*nets.encoder.parameters(), *nets.decoder.parameters()]

    def gradient(rows: slice) -> Tensor:
        torch.manual_seed(9)
        with pair.store():
            bound = pair.bound(x[rows], noise[rows], size=NUM_DATA)
            loc = pyro.get_param_store()["loc"]
            return flat_gradient(bound.surrogate(), [*networks, loc])

    parts = [gradient(slice(i, i + 3)) for i in range(0, NUM_DATA, 3)]
    full = gradient(slice(None))
    torch.testing.assert_close(torch.stack(parts).mean(0), full, rtol=1e-10, atol=1e-10)
