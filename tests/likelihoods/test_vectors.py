"""Families over all features at once: densities as in scipy, and marginals."""

from typing import Any

import numpy as np
import pyro.distributions.constraints as constraints
import pytest
import scipy.stats
import torch

from pyrovae.likelihoods.rows import vectors_in_support
from tests.likelihoods.test_conformance import declared, layer_and_eta


@pytest.mark.parametrize("name", ["Multinomial", "DirichletMultinomial"])
@pytest.mark.usefixtures("float64")
def test_counts_of_a_total_add_up_to_one(name: str) -> None:
    layer, eta = layer_and_eta(declared(name))
    counts = torch.cartesian_prod(*[torch.arange(8.0)] * 3)
    counts = counts[counts.sum(-1) == 7]
    assert layer(eta).log_prob(counts).exp().sum().item() == pytest.approx(1, abs=1e-9)


@pytest.mark.usefixtures("float64")
def test_vectors_are_those_of_scipy() -> None:
    layer, eta = layer_and_eta(declared("Multinomial"))
    x = layer(eta).sample((5,))
    p = eta[0].softmax(-1).numpy()
    np.testing.assert_allclose(
        layer(eta).log_prob(x),
        scipy.stats.multinomial(9, p / p.sum()).logpmf(x.long().numpy()),
        rtol=1e-9,
    )
    layer, eta = layer_and_eta(declared("DirichletMultinomial"))
    with torch.no_grad():
        q: Any = layer(eta)
        x = q.sample((5,))
        theirs = scipy.stats.dirichlet_multinomial(q.concentration.numpy(), 9).logpmf(x)
        np.testing.assert_allclose(q.log_prob(x), theirs, rtol=1e-9)
    for name in ("LowRankNormal", "MultivariateNormal"):
        layer, eta = layer_and_eta(declared(name))
        with torch.no_grad():
            r: Any = layer(eta)
            x = r.sample((5,))
            theirs = scipy.stats.multivariate_normal(r.mean, r.covariance_matrix).logpdf(x)
            np.testing.assert_allclose(r.log_prob(x), theirs, rtol=1e-9)
    layer, eta = layer_and_eta(declared("Dirichlet"))
    s: Any = layer(eta)
    x = s.sample((5,))
    theirs = scipy.stats.dirichlet(s.concentration.numpy())
    np.testing.assert_allclose(s.log_prob(x), theirs.logpdf(x.T.numpy()), rtol=1e-9)
    layer, eta = layer_and_eta(declared("OneHotCategorical"))
    logs = layer(eta).log_prob(torch.eye(3))
    torch.testing.assert_close(logs, eta[0].log_softmax(-1))


@pytest.mark.usefixtures("float64")
def test_the_marginal_of_vectors_is_that_of_the_observed_entries() -> None:
    present = torch.tensor([True, False, True])
    for name in ("LowRankNormal", "MultivariateNormal"):
        layer, eta = layer_and_eta(declared(name))
        p: Any = layer(eta)
        x = p.sample()
        covariance = p.covariance_matrix[present][:, present]
        expected = torch.distributions.MultivariateNormal(p.loc[present], covariance)
        ours = layer(eta, observed=present).log_prob(torch.where(present, x, 0.0))
        torch.testing.assert_close(ours, expected.log_prob(x[present]))
    for name in ("Multinomial", "DirichletMultinomial"):
        layer, eta = layer_and_eta(declared(name))
        x = torch.tensor([2.0, 0.0, 3.0])
        pair = declared(name).build((2,))
        expected = pair(eta[:, present]).log_prob(x[present])
        torch.testing.assert_close(layer(eta, observed=present).log_prob(x), expected)


@pytest.mark.parametrize("name", ["LowRankNormal", "MultivariateNormal"])
@pytest.mark.parametrize("source", ["predicted", "shared", "per_feature"])
@pytest.mark.usefixtures("float64")
def test_units_are_those_of_the_data(name: str, source: str) -> None:
    """The density in new units is that of standardised data, less the logarithms of the scales."""
    spread = {"cov_factor": source} if name == "LowRankNormal" else {"scale_tril": source}
    layer, eta = layer_and_eta(declared(name, **spread))
    loc, scale = torch.tensor([3.0, -20.0, 500.0]), torch.tensor([0.1, 5.0, 40.0])
    x = layer(eta).sample()
    before = layer(eta).log_prob(x)
    layer.set_units(loc, scale)
    after = layer(eta).log_prob(loc + scale * x)
    torch.testing.assert_close(after, before - scale.log().sum())


def test_a_support_of_whole_vectors_holds_for_all_their_entries() -> None:
    x = torch.tensor([[1.0, 2.0, 3.0], [3.0, 2.0, 1.0], [0.0, 1.0, 2.0], [1.0, 0.0, 0.0]])
    expected = torch.tensor([True, False, True, False])
    for rows in (x, x.expand(2, 4, 3)):
        found = vectors_in_support(constraints.ordered_vector, rows)
        assert torch.equal(found, expected[:, None].expand(rows.shape))
