"""Every class of distributions of Pyro and torch by its name: it works, or says why not."""

from collections.abc import Callable
from typing import Any

import numpy as np
import pyro.distributions as dist
import pytest
import scipy.stats
import torch
from torch.distributions import Distribution

from pyrovae import VAE, InputError, Likelihood, fit
from pyrovae.likelihoods.families import FAMILIES
from pyrovae.likelihoods.refusals import REFUSALS
from tests.likelihoods.test_conformance import NEEDED, grid, layer_and_eta

CLASSES = {
    name: value
    for module in (torch.distributions, dist)
    for name, value in vars(module).items()
    if isinstance(value, type) and issubclass(value, Distribution)
}
SETTINGS: dict[str, dict[str, Any]] = NEEDED | {
    "AffineBeta": {"loc": -1.0, "scale": 3.0},
    "GeneralizedPareto": {"loc": 0.5, "concentration": 0.2},
    "Pareto": {"scale": 1.5},
}
OTHERS = sorted(CLASSES.keys() - REFUSALS.keys() - FAMILIES.keys())
NO_MEAN = {"Cauchy", "FisherSnedecor", "HalfCauchy", "InverseGamma", "Pareto"}
"""Families whose mean is infinite for some arguments."""

STABLE = {"Stable", "StableWithLogProb"}
"""Families with a density by numerical integration, and seldom a mean."""


def declared(name: str) -> Likelihood:
    return Likelihood(name, **SETTINGS.get(name, {}))


@pytest.mark.parametrize("name", sorted(REFUSALS))
@pytest.mark.parametrize("by_class", [False, True])
def test_what_is_no_likelihood_says_why(name: str, by_class: bool) -> None:
    with pytest.raises(
        InputError, match=f"^{name} cannot be declared: it .*(use|declare|write)"
    ) as e:
        Likelihood(CLASSES[name] if by_class else name)
    assert "\n" not in str(e.value)


def test_a_class_of_ones_own_may_have_any_name() -> None:
    class Uniform(torch.distributions.Laplace):
        pass

    assert Likelihood(Uniform, scale=1.0).build((2,)).in_shape == (1, 2)


SCIPY: dict[str, Callable[[Any], Any]] = {
    "AffineBeta": lambda p: scipy.stats.beta(p.concentration1, p.concentration0, -1, 3),
    "AsymmetricLaplace": lambda p: scipy.stats.laplace_asymmetric(p.asymmetry, p.loc, p.scale),
    "Cauchy": lambda p: scipy.stats.cauchy(p.loc, p.scale),
    "Chi2": lambda p: scipy.stats.chi2(p.df),
    "FisherSnedecor": lambda p: scipy.stats.f(p.df1, p.df2),
    "GammaPoisson": lambda p: scipy.stats.nbinom(p.concentration, p.rate / (1 + p.rate)),
    "GeneralizedPareto": lambda p: scipy.stats.genpareto(0.2, 0.5, p.scale),
    "Geometric": lambda p: scipy.stats.geom(p.probs, -1),
    "Gumbel": lambda p: scipy.stats.gumbel_r(p.loc, p.scale),
    "HalfCauchy": lambda p: scipy.stats.halfcauchy(scale=p.scale),
    "HalfNormal": lambda p: scipy.stats.halfnorm(scale=p.scale),
    "InverseGamma": lambda p: scipy.stats.invgamma(p.concentration, scale=p.rate),
    "Logistic": lambda p: scipy.stats.logistic(p.loc, p.scale),
    "Pareto": lambda p: scipy.stats.pareto(p.alpha, scale=1.5),
    "SoftLaplace": lambda p: scipy.stats.hypsecant(p.loc, p.scale),
    "Stable": lambda p: scipy.stats.levy_stable(p.stability, p.skew, p.loc, p.scale),
    "Weibull": lambda p: scipy.stats.weibull_min(p.concentration, scale=p.scale),
}
OF_MASS = ["Kumaraswamy", "SoftAsymmetricLaplace"]
"""Families that scipy lacks; their densities must integrate to one."""


def test_every_density_is_checked() -> None:
    assert SCIPY.keys() | {*OF_MASS, "StableWithLogProb"} == set(OTHERS)


@pytest.mark.parametrize("name", [name for name in SCIPY if name not in STABLE])
@pytest.mark.usefixtures("float64")
def test_density_is_that_of_scipy(name: str) -> None:
    layer, eta = layer_and_eta(declared(name))
    with torch.no_grad():
        p: Any = layer(eta).base_dist  # type: ignore[attr-defined]
        x = layer(eta.expand(50, *layer.in_shape)).sample()
        theirs = SCIPY[name](p)
        log = theirs.logpmf if layer.is_discrete else theirs.logpdf
        np.testing.assert_allclose(p.log_prob(x), log(x.numpy()), rtol=1e-8, atol=1e-8)


@pytest.mark.usefixtures("float64")
def test_stable_density_is_that_of_scipy(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(scipy.stats.levy_stable, "parameterization", "S0")
    layer, eta = layer_and_eta(declared("Stable"), size=1)
    p: Any = layer(eta).base_dist  # type: ignore[attr-defined]
    x = torch.tensor([-1.0, 0.5, 2.0])
    theirs = SCIPY["Stable"](p).logpdf(x.numpy())
    np.testing.assert_allclose(p.log_prob(x), theirs, atol=1e-3)


@pytest.mark.parametrize("name", OF_MASS)
@pytest.mark.usefixtures("float64")
def test_density_integrates_to_one(name: str) -> None:
    layer, eta = layer_and_eta(declared(name), size=1)
    x, weight = grid(layer)
    inside = layer.in_support(x[:, None])[:, 0]
    x = torch.where(inside, x, layer.fill)
    p = layer(eta.expand(len(x), *layer.in_shape))
    assert (p.log_prob(x[:, None]).exp() * weight)[inside].sum().item() == pytest.approx(
        1, abs=1e-3
    )


@pytest.mark.parametrize("name", OTHERS)
def test_it_samples_learns_and_leaves_out_missing_entries(name: str) -> None:
    layer, eta = layer_and_eta(declared(name))
    x = layer(eta.expand(2000, *layer.in_shape)).sample()
    layer.check(x)
    mean = layer.mean(eta)
    assert mean.shape == (3,)
    if name not in NO_MEAN | STABLE:
        error = x.std(0) / len(x) ** 0.5
        assert ((x.mean(0) - mean).abs() <= 5 * error + 1e-6).all()
    present = torch.tensor([True, False, True])
    eta = eta.clone().requires_grad_()
    each = layer(eta).base_dist.log_prob(x[0])  # type: ignore[attr-defined]
    filled = torch.where(present, x[0], layer.fill)
    of_present = layer(eta, observed=present).log_prob(filled)
    torch.testing.assert_close(of_present, each[0] + each[2])
    of_present.backward()
    assert eta.grad is not None
    assert eta.grad.isfinite().all()
    assert (eta.grad[..., 1] == 0).all()
    data = x[:32].clone()
    data[::3, 1] = torch.nan
    vae = VAE((3,), latent_dim=2, likelihood=declared(name), missing=True)
    vae.standardise(data)
    if name in STABLE:
        return  # a step takes seconds
    history = fit(vae.model, vae.guide, data, epochs=1, batch_size=16, progress=False)
    assert np.isfinite(history["loss"][-1])
    assert vae.sample(2).shape == (2, 3)


def test_a_support_of_its_own_for_each_feature() -> None:
    """Missing entries are filled with a value that lies in each, also within a table of blocks."""
    from pyrovae import Mixed

    likelihood = Likelihood("Pareto", scale=[1.0, 10.0])
    x = torch.tensor([[2.0, 11.0], [1.5, torch.nan], [torch.nan, 30.0]])
    likelihood.build((2,)).check(x)
    with pytest.raises(InputError, match=r"Pareto cannot have produced .* first 5 in datum 0"):
        likelihood.build((2,)).check(torch.tensor([[2.0, 5.0]]))
    mixed = Mixed([(("a", "b"), likelihood), (("c",), "Normal")])
    for each, data in ((likelihood, x), (mixed, torch.cat([x, torch.zeros(3, 1)], -1))):
        vae = VAE(data.shape[1:], latent_dim=1, likelihood=each, missing=True)
        history = fit(vae.model, vae.guide, data, epochs=1, batch_size=3, progress=False)
        assert np.isfinite(history["loss"][-1])


def test_a_class_means_the_accurate_one() -> None:
    """Pyro's and torch's classes, and names in any capitalisation."""
    expected = Likelihood("GammaPoisson").family.distribution
    assert expected.__module__.startswith("pyrovae")
    assert Likelihood(dist.GammaPoisson).family.distribution is expected
    assert Likelihood("gamma-poisson") == Likelihood("GammaPoisson")
    poisson = Likelihood(torch.distributions.Poisson).family.distribution
    assert poisson is Likelihood("Poisson").family.distribution


def test_a_class_without_a_mean_says_so() -> None:
    class Meanless(torch.distributions.Laplace):
        @property
        def mean(self) -> Any:
            raise NotImplementedError

    layer = Likelihood(Meanless, scale=1.0).build((2,))
    with pytest.raises(InputError, match="Meanless has no mean"):
        layer.mean(torch.zeros(1, 2))
