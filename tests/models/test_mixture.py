"""The mixture VAE against a VAE with the mixture as its prior, scikit-learn, and Pyro."""

import copy
from collections.abc import Callable
from functools import partial
from typing import Any

import pyro
import pyro.distributions as dist
import pytest
import torch
from pyro.infer import SVI, Trace_ELBO, TraceEnum_ELBO
from sklearn.mixture import GaussianMixture
from torch import Tensor, nn

from pyrovae import VAE, InputError, evaluate, fit, importance_sample
from pyrovae.infer import IWAE, BetaELBO, EnumeratedELBO, StickingTheLanding, latent_report
from pyrovae.infer import SVI as OurSVI
from pyrovae.models.clustering import clustering_accuracy
from pyrovae.models.mixture import MixtureVAE
from pyrovae.nn import MLP
from tests.pairs import assert_unbiased

SMALL = partial(MLP, hidden=(6,))
X = torch.randn(20, 5, generator=torch.Generator().manual_seed(0))


def small_mixture_vae(**options: Any) -> MixtureVAE:
    """A mixture VAE for data of five numbers, with weights and scales that differ."""
    torch.manual_seed(2)
    vae = MixtureVAE((5,), 2, 3, "Normal", encoder=SMALL, decoder=SMALL, **options)
    with torch.no_grad():
        vae.model.prior.logits.copy_(torch.tensor([0.3, -0.8, 0.1]))
        vae.model.prior.unlinked_scale.add_(0.3 * torch.randn(3, 2))
    return vae


class Marginal(nn.Module):
    """p(z) = sum_y p(y) p(z | y), as a torch distribution."""

    def __init__(self, of: MixtureVAE) -> None:
        super().__init__()
        self.components = of.model.prior

    def forward(self) -> Any:
        c = self.components
        each = dist.Normal(c.loc, nn.functional.softplus(c.unlinked_scale) + 1e-7).to_event(1)
        return dist.MixtureSameFamily(dist.Categorical(logits=c.logits), each)


def equal_vae(of: MixtureVAE) -> VAE:
    """The VAE with the mixture as its prior and the same networks."""
    vae = VAE(
        (5,), 2, "Normal", prior=Marginal(of), encoder=of.guide.encoder, decoder=of.model.decoder
    )
    vae.model.likelihood = of.model.likelihood
    return vae


def test_methods_return_the_right_shapes() -> None:
    m = MixtureVAE((1, 4, 4), 3, 6)
    x = (torch.rand(7, 1, 4, 4) > 0.5).float()
    assert m.embed(x).shape == (7, 3)
    assert m.component_probabilities(x).shape == (7, 6)
    assert m.cluster(x).shape == (7,)
    assert m.cluster(x.expand(2, 7, 1, 4, 4)).shape == (2, 7)
    assert m.cluster(x[0]).shape == ()
    assert m.reconstruct(x).shape == x.shape
    assert m.sample(4).shape == (4, 1, 4, 4)
    assert m.sample(4, mean=True).shape == (4, 1, 4, 4)
    assert m.draw(4)[0].shape == (4, 3)


@pytest.mark.usefixtures("float64")
class TestEqualsTheVAEWithAMixturePrior:
    def test_log_likelihood(self) -> None:
        m, x = small_mixture_vae(), X.double()
        ours, theirs = (
            importance_sample(p.model, p.guide, x, num_samples=50, compile=False, progress=False)
            for p in (m, equal_vae(m))
        )
        torch.testing.assert_close(ours.log_likelihood, theirs.log_likelihood)
        torch.testing.assert_close(ours.standard_error, theirs.standard_error)

    def test_log_weights_do_not_depend_on_y(self) -> None:
        m, x = small_mixture_vae(), X.double()
        terms = EnumeratedELBO(2)._terms(m.model, m.guide, (x,), {})
        of_y = terms.log_weight.unflatten(0, (2, 3))
        torch.testing.assert_close(of_y, of_y[:, :1].expand_as(of_y), rtol=0, atol=1e-10)
        z = terms.latents[1].value[:1]
        vae = equal_vae(m)
        log_prior = vae.model.prior().log_prob(z)[0]
        torch.testing.assert_close(-terms.kl[0], log_prior - m.guide.q(x).log_prob(z)[0])

    def test_elbo(self) -> None:
        m, x = small_mixture_vae(), X.double()
        values = []
        for pair in (m, equal_vae(m)):
            torch.manual_seed(1)
            values.append(evaluate(pair.model, pair.guide, x, num_particles=1, compile=False))
        assert values[0].elbo.mean == pytest.approx(values[1].elbo.mean, rel=1e-12)

    @pytest.mark.slow
    @pytest.mark.parametrize("objective", [EnumeratedELBO(), TraceEnum_ELBO(max_plate_nesting=1)])
    def test_gradients(self, objective: Any) -> None:
        m, x = small_mixture_vae(), X.double()
        vae = equal_vae(m)
        parameters = list(m.parameters())

        def gradient(loss: Any, pair: Any, scale: float) -> Tensor:
            value = scale * loss.differentiable_loss(pair.model, pair.guide, x)
            return torch.cat([g.flatten() for g in torch.autograd.grad(value, parameters)])

        scale = 1.0 if isinstance(objective, EnumeratedELBO) else 1 / len(x)
        differences = [
            gradient(objective, m, scale) - gradient(Trace_ELBO(), vae, 1 / len(x))
            for _ in range(60)
        ]
        assert_unbiased(torch.stack(differences), torch.zeros(len(differences[0])))


@pytest.mark.slow
def test_recorded_steps_match_eager_steps(float64: None) -> None:
    ends = []
    for compile in (False, True):
        m = small_mixture_vae()
        adam = partial(torch.optim.Adam, lr=0.01)
        svi = OurSVI(m.model, m.guide, adam, EnumeratedELBO(), compile=compile)
        svi._gradients.tiered.can_compile = False  # recording the graph is enough here
        torch.manual_seed(1)
        for batch in X.double().split(8)[:2] * 3:
            svi.step(batch)
        assert svi.num_graphs == (int(compile), 0)
        torch.manual_seed(1)
        ends.append((dict(m.named_parameters()), svi.evaluate_loss(X.double()).loss))
    torch.testing.assert_close(*ends, rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("loss", [Trace_ELBO(), TraceEnum_ELBO(max_plate_nesting=1)])
@pytest.mark.filterwarnings("ignore:y\n")  # Pyro warns that Trace_ELBO does not enumerate y
def test_pyro_svi_trains_every_parameter(loss: Any) -> None:
    m = small_mixture_vae()
    svi = SVI(m.model, m.guide, pyro.optim.Adam({"lr": 0.02}), loss)
    losses = [svi.step(X) for _ in range(60)]
    assert sum(losses[-5:]) < sum(losses[:5])
    before = small_mixture_vae()
    for name, parameter in m.named_parameters():
        assert not torch.equal(parameter, before.get_parameter(name)), name


def test_a_copied_guide_uses_the_copied_prior() -> None:
    m = small_mixture_vae()
    copied = copy.deepcopy(m)
    assert copied.guide._prior[0] is copied.model.prior
    assert copied.model.prior is not m.model.prior
    before = copy.deepcopy(m.state_dict())
    fit(
        copied.model,
        copied.guide,
        X,
        objective="enumerated",
        epochs=1,
        lr=0.1,
        compile=False,
        progress=False,
    )
    torch.testing.assert_close(m.state_dict(), before, rtol=0, atol=0)
    m.load_state_dict(copied.state_dict())
    torch.testing.assert_close(m.component_probabilities(X), copied.component_probabilities(X))
    addresses = [t.data_ptr() for t in m.state_dict().values()]
    assert len(set(addresses)) == len(addresses)
    torch.testing.assert_close(
        m.double().component_probabilities(X.double()).float(),
        copied.component_probabilities(X),
        rtol=1e-4,
        atol=1e-5,
    )


def test_initialise_matches_scikit_learn(float64: None) -> None:
    m, x = small_mixture_vae(), X.repeat(10, 1).double() + 0.1 * torch.randn(200, 5)
    m.initialise(x, seed=3)
    z = m.embed(x).detach().numpy()
    reference = GaussianMixture(3, covariance_type="diag", n_init=10, random_state=3).fit(z)
    torch.testing.assert_close(
        m.component_probabilities(x).detach(),
        torch.as_tensor(reference.predict_proba(z)),
        rtol=0,
        atol=1e-6,
    )
    assert torch.equal(m.cluster(x), torch.as_tensor(reference.predict(z)))


def test_latents_are_drawn_from_the_mixture() -> None:
    m = small_mixture_vae()
    z, _ = m.draw(20_000)
    prior = m.model.prior
    weights = prior.logits.softmax(0)[:, None]
    mean = (weights * prior.loc).sum(0)
    second = (weights * (prior.loc.square() + prior.scale.square())).sum(0)
    assert_unbiased(z.detach(), mean.detach())
    assert_unbiased(z.detach().square(), second.detach())


def test_fit_trains_with_missing_entries() -> None:
    m = small_mixture_vae(missing=True)
    x = torch.where(torch.rand(20, 5) < 0.3, torch.nan, X)
    history = fit(
        m.model, m.guide, x, objective="enumerated", epochs=2, compile=False, progress=False
    )
    assert torch.tensor(history["loss"]).isfinite().all()
    assert m.cluster(x).shape == (20,)


@pytest.mark.slow
def test_training_finds_clusters() -> None:
    """Three clusters, 6 standard deviations apart, through linear networks."""
    generator = torch.Generator().manual_seed(3)
    labels = torch.arange(3).repeat(100)
    corners = 6 * torch.linalg.qr(torch.randn(5, 3, generator=generator)).Q.T
    x = corners[labels] + torch.randn(300, 5, generator=generator)
    linear = partial(MLP, hidden=())
    m = MixtureVAE((5,), 2, 3, "Normal", encoder=linear, decoder=linear)
    m.standardise(x)
    train = partial(fit, m.model, m.guide, x, batch_size=50, lr=0.01, compile=False, progress=False)
    train(objective={"name": "beta", "beta": 0.1}, epochs=15)
    m.initialise(x)
    train(objective="enumerated", epochs=10)
    assert clustering_accuracy(m.cluster(x), labels) > 0.97


@pytest.mark.parametrize(
    ("ask", "message"),
    [
        (
            lambda m: latent_report(m.model, m.guide, X, progress=False),
            "changes from run to run, since it depends on the draw of another latent",
        ),
        (
            lambda m: StickingTheLanding().loss_and_grads(m.model, m.guide, X),
            "needs latents that can be reparameterised|draws independently",
        ),
        (
            lambda m: BetaELBO(kl="analytic").loss_and_grads(m.model, m.guide, X),
            "in different orders",
        ),
        (lambda m: m.initialise(X[:2]), "2 data for 3 components"),
        (lambda m: MixtureVAE((5,), 2, 0), "num_components is 0"),
        (lambda m: MixtureVAE((5,), 0), "latent_dim is 0"),
    ],
)
def test_unsupported_requests_are_refused(ask: Callable[[MixtureVAE], Any], message: str) -> None:
    with pytest.raises(InputError, match=message):
        ask(small_mixture_vae())


@pytest.mark.slow
@pytest.mark.parametrize("objective", [BetaELBO(0.5, num_particles=2), IWAE(4)])
def test_objectives_that_sample_y_also_train(objective: Any) -> None:
    m = small_mixture_vae()
    history = fit(
        m.model, m.guide, X, objective=objective, epochs=30, lr=0.02, compile=False, progress=False
    )
    assert history["loss"][-1] < history["loss"][0]
