"""Each prior in a VAE: training, copies, state dicts and log p(x)."""

import copy
from collections.abc import Callable
from functools import partial

import pyro
import pytest
import torch
from pyro.infer import SVI, Trace_ELBO
from torch import Tensor, nn

from pyrovae import VAE, fit, importance_sample
from pyrovae.infer import ELBO
from pyrovae.infer import SVI as CompiledSVI
from pyrovae.nn import MLP
from pyrovae.priors import FlowPrior, LearnedNormal, NormalMixture, VampPrior

X = torch.randn(24, 3, generator=torch.Generator().manual_seed(2))

PRIORS: dict[str, Callable[[int], nn.Module]] = {
    "normal": LearnedNormal,
    "mixture": partial(NormalMixture, num_components=3),
    "vamp": lambda _: VampPrior((3,), 4),
    "flow": partial(FlowPrior, num_transforms=1, hidden=(4,)),
}

each_prior = pytest.mark.parametrize("name", PRIORS)


def vae_with(name: str, latent_dim: int = 2, spread: float = 0.0) -> VAE:
    """A small VAE with this prior; ``spread`` scales random changes of the prior's parameters."""
    body = partial(MLP, hidden=(5,), activation=nn.Tanh)
    likelihood = {"family": "Normal", "scale": 0.7}
    vae = VAE((3,), latent_dim, likelihood, PRIORS[name](latent_dim), encoder=body, decoder=body)
    vae.standardise(X)
    with torch.no_grad():
        for parameter in vae.model.prior.parameters():
            parameter.add_(spread * torch.randn_like(parameter))
    return vae


def train_parameters(name: str, compile: bool) -> dict[str, Tensor]:
    """Train for some steps, check that every parameter has changed, and return the parameters."""
    torch.manual_seed(5)
    vae = vae_with(name)
    before = copy.deepcopy(dict(vae.named_parameters()))
    adam = partial(torch.optim.Adam, lr=1e-2)
    svi = CompiledSVI(vae.model, vae.guide, adam, ELBO(), compile=compile)
    svi._gradients.tiered.can_compile = False
    for batch in 4 * list(X.double().split(8)):
        svi.step(batch)
    assert svi.num_graphs == (int(compile), 0)
    after = dict(vae.named_parameters())
    assert not any(torch.equal(before[each], after[each]) for each in after)
    return after


@pytest.mark.slow
@pytest.mark.usefixtures("float64")
@pytest.mark.parametrize("name", ["vamp", "flow"])
def test_recorded_steps_match_eager_steps(name: str) -> None:
    recorded = train_parameters(name, compile=True)
    torch.testing.assert_close(
        recorded, train_parameters(name, compile=False), rtol=1e-9, atol=1e-9
    )


@each_prior
def test_fit_trains_the_prior(name: str) -> None:
    vae = vae_with(name)
    before = copy.deepcopy(dict(vae.model.prior.named_parameters()))
    fit(vae.model, vae.guide, X, epochs=2, batch_size=10, lr=1e-2, compile=False, progress=False)
    for each, parameter in vae.model.prior.named_parameters():
        assert not torch.equal(parameter, before[each]), each
        assert parameter.isfinite().all()


@each_prior
def test_pyro_svi_trains_every_parameter(name: str) -> None:
    vae = vae_with(name)
    before = copy.deepcopy(dict(vae.named_parameters()))
    svi = SVI(vae.model, vae.guide, pyro.optim.Adam({"lr": 1e-2}), Trace_ELBO())
    losses = [svi.step(X) for _ in range(60)]
    assert sum(losses[-10:]) < sum(losses[:10])
    for each, parameter in vae.named_parameters():
        assert not torch.equal(parameter, before[each]), each


@each_prior
def test_copies_are_independent_and_state_dicts_restore_the_prior(name: str) -> None:
    vae = vae_with(name, spread=0.3)
    twin, other = copy.deepcopy(vae), vae_with(name)
    other.load_state_dict(vae.state_dict())
    z = torch.randn(5, 2)
    expected = vae.model.prior().log_prob(z)
    for each in (twin, other):
        torch.testing.assert_close(each.model.prior().log_prob(z), expected)
        pointers = [{t.data_ptr() for t in part.state_dict().values()} for part in (vae, each)]
        assert not pointers[0] & pointers[1]
    double = twin.double().model.prior().log_prob(z.double())
    assert double.dtype == torch.float64
    torch.testing.assert_close(double.float(), expected, rtol=1e-4, atol=1e-4)
    torch.testing.assert_close(vae.model.prior().log_prob(z), expected, rtol=0, atol=0)


@pytest.mark.usefixtures("float64")
@each_prior
@pytest.mark.parametrize("latent_dim", [1, 2])
def test_importance_sampling_agrees_with_integration_over_a_grid(
    name: str, latent_dim: int
) -> None:
    vae = vae_with(name, latent_dim, spread=0.3)
    x = X[:8].double()
    prior = vae.model.prior = copy.deepcopy(vae.model.prior)  # a VampPrior has a guide of its own
    # One wide q for all data, so that no weight is large.
    for parameter in vae.guide.parameters():
        nn.init.zeros_(parameter)
    nn.init.constant_(vae.guide.encoder.layers[-1].bias[latent_dim:], 2.0)
    got = importance_sample(
        vae.model, vae.guide, x, num_samples=4000, compile=False, progress=False
    )
    line = torch.linspace(-7, 7, 1401 if latent_dim == 1 else 281)
    z = torch.cartesian_prod(*[line] * latent_dim).reshape(-1, 1, latent_dim)
    with torch.no_grad():
        log_joint = prior().log_prob(z) + vae.decode(z).log_prob(x)
    exact = log_joint.logsumexp(0) + latent_dim * (line[1] - line[0]).log()
    assert got.pareto_k.max() < 0.7
    # The grid's own error, of second order in its steps where a spline has a corner.
    assert ((got.log_likelihood - exact).abs() < 4.5 * got.standard_error + 1e-4).all()
