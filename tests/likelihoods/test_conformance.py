"""What holds for every family and argument source; a family joins by being registered."""

import math
from collections.abc import Callable
from typing import Any

import numpy as np
import pyro
import pytest
import scipy.stats
import torch
from torch import Tensor, nn
from torch.distributions import constraints

from pyrovae import VAE, Likelihood, fit
from pyrovae.likelihoods import LikelihoodLayer
from pyrovae.likelihoods.families import FAMILIES

NEEDED: dict[str, dict[str, Any]] = {
    "BetaBinomial": {"total_count": 6},
    "Binomial": {"total_count": 6},
    "Categorical": {"num_classes": 5},
    "DiscretisedLogistic": {"levels": 7},
    "LowRankNormal": {"rank": 2},
    "OrderedLogistic": {"num_classes": 5},
}
"""What a family cannot do without."""

JOINT = {"Dirichlet", "LowRankNormal", "MultivariateNormal", "OneHotCategorical"}
"""Families under which observed entries tell of missing ones."""

SHIPPED = sorted(FAMILIES)
ELEMENTWISE = [name for name in SHIPPED if not FAMILIES[name].is_vector]
SOURCES = ("predicted", "shared", "per_feature")


def declared(name: str, **settings: Any) -> Likelihood:
    return Likelihood(name, **(NEEDED.get(name, {}) | settings))


def specs() -> list[Likelihood]:
    """Every family as registered, with each source of each argument, and as a mixture."""
    found = [declared(name) for name in SHIPPED]
    for name in SHIPPED:
        for argument in declared(name).sources:
            constraint: Any = FAMILIES[name].constraints[argument]
            if constraint.is_discrete:
                continue
            for source in SOURCES:
                likelihood = declared(name, **{argument: source})
                if "predicted" in likelihood.sources.values():
                    found.append(likelihood)
        if name in ELEMENTWISE:
            found.append(declared(name, num_components=2))
        if FAMILIES[name].exposure:
            found.append(declared(name, exposure=True))
    return list(dict.fromkeys(found))


SPECS = specs()
every = pytest.mark.parametrize("likelihood", SPECS, ids=repr)
elementwise = pytest.mark.parametrize(
    "likelihood", [s for s in SPECS if not s.family.is_vector], ids=repr
)


def layer_and_eta(likelihood: Likelihood, size: int = 3) -> tuple[LikelihoodLayer, Tensor]:
    """A layer with arguments drawn at random, of order one."""
    torch.manual_seed(3)
    layer = likelihood.build((size,))
    for parameter in layer.parameters():
        nn.init.normal_(parameter, std=0.5)
    if "total_count" in likelihood.sources and likelihood.family.is_vector:
        layer.set_typical({"total_count": torch.tensor(9.0)})
    return layer, torch.randn(layer.in_shape)


def highest(support: Any, otherwise: float) -> float:
    """The highest whole number of a support, or another where there is none."""
    if support is constraints.boolean:
        return 1.0
    return float(torch.as_tensor(getattr(support, "upper_bound", otherwise)).max())


def grid(layer: LikelihoodLayer) -> tuple[Tensor, Tensor | float]:
    """Points and weights that sum or integrate over the support of one feature."""
    support = layer.support
    if support.is_discrete:
        return torch.arange(0.0, highest(support, 4000) + 1), 1.0
    # Substitute x = g(u), with g the link to the support, and u over the real line.
    u = torch.linspace(-34, 34, 600_001)
    if isinstance(support, constraints.greater_than | constraints.greater_than_eq):
        x = torch.logspace(-40, 12, 600_001)
        return x, torch.gradient(x)[0]
    if isinstance(support, constraints.interval):
        low, high = float(support.lower_bound), float(support.upper_bound)
        x = low + (high - low) * torch.sigmoid(u)
        return x, (high - low) * torch.sigmoid(u) * torch.sigmoid(-u) * (u[1] - u[0])
    x = torch.sinh(u)
    return x, torch.cosh(u) * (u[1] - u[0])


@elementwise
@pytest.mark.usefixtures("float64")
def test_probability_adds_up_to_one(likelihood: Likelihood) -> None:
    layer, eta = layer_and_eta(likelihood, size=1)
    x, weight = grid(layer)
    inside = layer.in_support(x[:, None])[:, 0]
    x = torch.where(inside, x, layer.fill)
    mass = (layer(eta.expand(len(x), *layer.in_shape)).log_prob(x[:, None]).exp() * weight)[inside]
    assert mass.sum().item() == pytest.approx(1, abs=1e-3)


@every
def test_samples_lie_in_the_support_and_have_the_mean(likelihood: Likelihood) -> None:
    layer, eta = layer_and_eta(likelihood)
    num = 20_000
    p = layer(eta.expand(num, *layer.in_shape))
    x = p.sample()
    assert x.shape == (num, 3)
    layer.check(x)
    mean = layer.mean(eta)
    assert mean.shape == (3,)
    if likelihood.family.name == "StudentT" and likelihood.sources["df"] != 4.0:
        return  # no mean, or no variance of it
    if likelihood.family.name == "VonMises":
        # The mean of an angle is its direction.
        direction = torch.atan2(x.sin().mean(0), x.cos().mean(0))
        if likelihood.num_components is None:
            assert torch.cos(direction - mean).min() > 0.99
        return
    x = x.double()
    error = x.std(0) / num**0.5
    assert ((x.mean(0) - mean).abs() <= 5 * error + 1e-6).all()


SCIPY: dict[str, Callable[[Any], Any]] = {
    "Bernoulli": lambda p: scipy.stats.bernoulli(p.probs),
    "Beta": lambda p: scipy.stats.beta(p.concentration1, p.concentration0),
    "BetaBinomial": lambda p: scipy.stats.betabinom(6, p.concentration1, p.concentration0),
    "Binomial": lambda p: scipy.stats.binom(6, p.probs),
    "Exponential": lambda p: scipy.stats.expon(scale=1 / p.rate),
    "Gamma": lambda p: scipy.stats.gamma(p.concentration, scale=1 / p.rate),
    "Laplace": lambda p: scipy.stats.laplace(p.loc, p.scale),
    "LogNormal": lambda p: scipy.stats.lognorm(p.scale, scale=np.exp(p.loc)),
    "NegativeBinomial": lambda p: scipy.stats.nbinom(p.total_count, 1 - p.probs),
    "Normal": lambda p: scipy.stats.norm(p.loc, p.scale),
    "Poisson": lambda p: scipy.stats.poisson(p.rate),
    "StudentT": lambda p: scipy.stats.t(p.df, p.loc, p.scale),
    "VonMises": lambda p: scipy.stats.vonmises(p.concentration, p.loc),
}


@pytest.mark.parametrize("name", SCIPY)
@pytest.mark.usefixtures("float64")
def test_log_prob_is_that_of_scipy(name: str) -> None:
    layer, eta = layer_and_eta(declared(name))
    with torch.no_grad():
        p: Any = layer(eta)
        x = layer(eta.expand(50, *layer.in_shape)).sample()
        theirs = SCIPY[name](p.base_dist)
        log = theirs.logpmf if layer.is_discrete else theirs.logpdf
        ours = p.base_dist.log_prob(x)
    np.testing.assert_allclose(ours, log(x.numpy()), rtol=1e-9, atol=1e-9)


def edges(layer: LikelihoodLayer) -> list[Any]:
    """Values at, or hard by, the ends of the support, and beyond what is usual."""
    support = layer.support
    if support is constraints.simplex:
        return [[1 / 3] * 3, [1e-6, 1e-6, 1 - 2e-6], [1 - 1e-30, 1e-30, 1e-30]]
    if support is constraints.one_hot:
        return [[1.0, 0.0, 0.0], [0.0, 0.0, 1.0]]
    if support.is_discrete:
        return [0.0, highest(support, 10_000)]
    if isinstance(support, constraints.interval):
        low, high = float(support.lower_bound), float(support.upper_bound)
        return [v for v in (low, low + 1e-6, high - 1e-6, high) if _possible(layer, v)]
    if isinstance(support, constraints.greater_than | constraints.greater_than_eq):
        return [v for v in (0.0, 1e-6, 1e4) if _possible(layer, v)]
    return [-1e4, 0.0, 1e4]


def _possible(layer: LikelihoodLayer, value: float) -> bool:
    return bool(layer.in_support(torch.full(layer.event_shape, value)).all())


@every
@pytest.mark.parametrize("extreme", [-1e4, 1e4])
def test_gradients_are_finite_at_extreme_outputs_of_the_network(
    likelihood: Likelihood, extreme: float
) -> None:
    layer, _ = layer_and_eta(likelihood)
    if likelihood.family.name == "MultivariateNormal":
        extreme /= 100  # the inverse of a matrix has products of its entries
    for value in edges(layer):
        eta = torch.full(layer.in_shape, extreme, requires_grad=True)
        x = torch.as_tensor(value).expand(3)
        layer.zero_grad()
        log_prob = layer(eta, layer.given_with(x, *[torch.ones(())] * len(likelihood.given)))
        log_prob.log_prob(x).sum().backward()
        gradients = [eta.grad, *(p.grad for p in layer.parameters() if p.grad is not None)]
        for gradient in gradients:
            assert gradient is not None
            assert gradient.isfinite().all(), value


@every
def test_missing_entries_change_nothing(likelihood: Likelihood) -> None:
    """The density of the others, the same gradients, and none where all of a datum is missing."""
    layer, eta = layer_and_eta(likelihood)
    x = layer(eta).sample()
    present = torch.tensor([True, False, True])
    results = []
    for junk in (layer.fill, float(x[1])):
        filled = torch.where(present, x, layer.fill)
        eta_ = eta.clone()
        if not likelihood.family.is_vector:
            eta_[..., 1] = eta[..., 1] * (1 if junk == layer.fill else 3)
        eta_.requires_grad_()
        layer.zero_grad()
        value = layer(eta_, observed=present).log_prob(filled)
        value.backward()
        results.append((value.detach(), eta_.grad))
        assert eta_.grad is not None
        if likelihood.family.name not in JOINT:
            assert (eta_.grad[..., 1] == 0).all()
    torch.testing.assert_close(results[0], results[1])
    if not likelihood.family.is_vector:
        each: Any = layer(eta)
        parts = each.base_dist.log_prob(x)
        torch.testing.assert_close(results[0][0], parts[0] + parts[2])
    nothing = layer(eta, observed=torch.zeros(3, dtype=torch.bool))
    empty = nothing.log_prob(torch.as_tensor(layer.fill).expand(3))
    assert empty.item() == pytest.approx(0, abs=1e-6)


@every
def test_an_object_a_name_and_a_dict_are_the_same(likelihood: Likelihood) -> None:
    assert Likelihood.of(likelihood.to_dict()) == likelihood
    assert eval(repr(likelihood), {"Likelihood": Likelihood}) == likelihood


@pytest.mark.parametrize("name", SHIPPED)
def test_a_constant_decoder_recovers_what_simulated_the_data(name: str) -> None:
    """Maximum likelihood on 4,000 data: as good as the truth, by the likelihood-ratio theorem.

    Twice the gain over the truth is chi-squared, with a degree of freedom for each number learned;
    and a fit that had not come near the truth would be worse than it.
    """
    layer, eta = layer_and_eta(declared(name))
    x = layer(eta.expand(4000, *layer.in_shape)).sample()
    truth = layer(eta).log_prob(x).sum().item()
    fitted, _ = layer_and_eta(declared(name))
    start = torch.zeros(fitted.in_shape, requires_grad=True)
    parameters = [start, *fitted.parameters()]
    with torch.no_grad():
        for parameter in fitted.parameters():
            parameter.add_(0.3)
    optimiser = torch.optim.LBFGS(
        parameters, max_iter=300, line_search_fn="strong_wolfe", tolerance_change=1e-12
    )

    def loss() -> Tensor:
        optimiser.zero_grad()
        value = -fitted(start).log_prob(x).double().mean()
        value.backward()
        return value

    optimiser.step(loss)
    gain = fitted(start).log_prob(x).double().sum().item() - truth
    degrees = sum(p.numel() for p in parameters)
    assert gain > -0.5
    assert gain < scipy.stats.chi2.isf(1e-6, degrees) / 2 + 1


def test_exposure_multiplies_the_mean() -> None:
    for name in SHIPPED:
        if FAMILIES[name].exposure is None:
            continue
        layer, eta = layer_and_eta(declared(name, exposure=True))
        assert layer.likelihood.given == ("exposure",)
        one = layer.mean(eta.expand(2, *layer.in_shape), {"exposure": torch.ones(2)})
        both = layer.mean(eta.expand(2, *layer.in_shape), {"exposure": torch.tensor([1.0, 10.0])})
        torch.testing.assert_close(both[0], one[0])
        torch.testing.assert_close(both[1], 10 * one[1], rtol=1e-3, atol=1e-3)
        of_each = layer.mean(eta.expand(2, *layer.in_shape), {"exposure": torch.ones(2, 3)})
        torch.testing.assert_close(of_each, one)


@pytest.mark.parametrize("name", SHIPPED)
@pytest.mark.usefixtures("float64")
def test_missing_entries_contribute_nothing_to_a_site_of_pyro(name: str) -> None:
    """Through the model, as Pyro scores it: nothing where all is missing, and no gradient."""
    layer, eta = layer_and_eta(declared(name))
    x = layer(eta.expand(3, *layer.in_shape)).sample().double()
    x[0, 1] = torch.nan
    x[1] = torch.nan
    vae = VAE((3,), latent_dim=2, likelihood=declared(name), missing=True)
    trace = pyro.poutine.trace(vae.model).get_trace(x)
    trace.compute_log_prob()
    log_prob = trace.nodes["x"]["log_prob"]
    assert log_prob[1].item() == pytest.approx(0, abs=1e-9)
    z = trace.nodes["z"]["value"]
    present = ~x.isnan()
    direct = vae.likelihood(vae.model.decoder(z), vae.likelihood.given_with(x), present)
    filled = torch.where(present, x, vae.likelihood.fill)
    torch.testing.assert_close(log_prob, direct.log_prob(filled))
    log_prob[0].backward()
    bias = vae.model.decoder.layers[-1].bias.grad
    assert bias is not None
    if name not in JOINT:
        assert (bias.reshape(vae.likelihood.in_shape)[:, 1] == 0).all()


def test_masses_given_a_total_are_a_kind_of_their_own() -> None:
    kinds = {name: declared(name).build((3,)).kind for name in SHIPPED}
    assert kinds["Poisson"] == "log probability mass"
    assert kinds["Normal"] == "log density"
    assert kinds["Multinomial"] == kinds["DirichletMultinomial"]
    assert kinds["Multinomial"] == "log probability mass given the total"


@pytest.mark.parametrize(
    "likelihood",
    [
        Likelihood("ZeroInflatedPoisson", gate=0.3),
        Likelihood("ZeroInflatedNegativeBinomial", gate_logits=0.5),
        Likelihood("DiscretisedLogistic", loc=2.0, levels=9),
        Likelihood("DiscretisedLogistic", scale=0.5, levels=9),
        Likelihood("LowRankNormal", rank=1, cov_diag=0.1),
        Likelihood("MultivariateNormal", scale_tril=[[1, 0, 0], [0.5, 1, 0], [0, 0.5, 2]]),
        Likelihood("Pareto", scale=1.5),
        Likelihood("StudentT", df=3.0, scale=2.0, num_components=2),
    ],
    ids=repr,
)
def test_constants_follow_the_type_of_the_model(likelihood: Likelihood) -> None:
    layer = likelihood.build((3,)).double()
    eta = torch.randn(5, *layer.in_shape, dtype=torch.float64)
    x = layer(eta).sample()
    assert x.dtype == layer(eta).log_prob(x).dtype == torch.float64


@pytest.mark.parametrize("name", SHIPPED)
def test_a_vae_trains_under_it_with_missing_entries(name: str) -> None:
    layer, eta = layer_and_eta(declared(name))
    x = layer(eta.expand(32, *layer.in_shape)).sample().float()
    x[::3, 1] = torch.nan
    x[5] = torch.nan
    torch.manual_seed(0)
    vae = VAE((3,), latent_dim=2, likelihood=declared(name), missing=True)
    vae.standardise(x)
    history = fit(vae.model, vae.guide, x, epochs=3, batch_size=16, progress=False)
    assert math.isfinite(history["loss"][-1])
    assert all(p.isfinite().all() for p in vae.parameters())
    assert vae.sample(2).shape == (2, 3)
    assert vae.reconstruct(x).isfinite().all() or name == "StudentT"
