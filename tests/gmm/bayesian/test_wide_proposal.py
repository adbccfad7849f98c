"""The proposal of the evidence: a geometric mean of prior and posterior."""

import pytest
import torch
from torch import Tensor
from torch.distributions import Dirichlet

from pyrovae.gmm import Posterior, Prior, coordinate_ascent
from pyrovae.gmm.bayesian.evidence import _widen
from pyrovae.gmm.bayesian.program import locs_given_precision, wishart

from ..data import TYPES, points, start


def log_density(q: Posterior, weights: Tensor, locs: Tensor, precision: Tensor) -> Tensor:
    """log q(theta) of each draw."""
    kind = q.covariance_type
    wide = precision.unsqueeze(1) if kind == "tied" else precision
    parts = (
        Dirichlet(q.concentration).log_prob(weights),
        wishart(q.df, q.scatter, kind).log_prob(precision),
        locs_given_precision(q.locs, q.precision, wide, kind).log_prob(locs),
    )
    return sum(part.reshape(len(weights), -1).sum(1) for part in parts)


@pytest.mark.parametrize("kind", TYPES)
def test_it_is_proportional_to_powers_of_prior_and_posterior(kind):
    """p(theta)^(1 - a) q(theta)^a, up to a constant."""
    x = points("toy")[:50]
    prior = Prior.of(x, 3, kind, concentration=2.0, df=5.0, precision=0.5)
    climb = coordinate_ascent(x, start("toy", kind), prior)
    posterior = [state for _, state in zip(range(3), climb, strict=False)][-1].posterior
    num = 5
    precision = wishart(posterior.df, posterior.scatter, kind).sample((num,))
    wide = precision.unsqueeze(1) if kind == "tied" else precision
    of_locs = locs_given_precision(posterior.locs, posterior.precision, wide, kind)
    theta = Dirichlet(posterior.concentration).sample((num,)), of_locs.sample(), precision
    ones = torch.ones_like(posterior.concentration)
    as_posterior = Posterior(
        prior.concentration * ones,
        prior.loc.expand_as(posterior.locs),
        prior.precision * ones,
        torch.as_tensor(prior.df).expand_as(posterior.df).to(ones),
        prior.scatter.expand_as(posterior.scatter),
        prior,
    )
    of_prior, of_posterior = (log_density(q, *theta) for q in (as_posterior, posterior))
    found = log_density(_widen(posterior, 0.3), *theta)
    constant = found - (0.7 * of_prior + 0.3 * of_posterior)
    torch.testing.assert_close(constant, constant[:1].expand(num), rtol=1e-9, atol=1e-9)
    assert of_prior.std() > 1e-3
