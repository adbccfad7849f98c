"""A VAE with a linear decoder, trained on incomplete data by MIWAE (Mattei and Frellsen 2019).

Its model is probabilistic PCA, so EM finds the maximum of the likelihood on the same data. The IWAE
bound with many samples is tight enough for the VAE to come near that maximum.
"""

from functools import partial
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.distributions import MultivariateNormal

from pyrovae import VAE, Likelihood, fit
from pyrovae.models.pca import ProbabilisticPCA
from pyrovae.nn import MLP

pytestmark = pytest.mark.usefixtures("float64")

NUM_FEATURES = 5


def incomplete(num: int) -> Tensor:
    """Standardised linear-Gaussian data, with 30 % of entries missing."""
    weight, loc = torch.randn(NUM_FEATURES, 2), torch.randn(NUM_FEATURES)
    x = torch.randn(num, 2) @ weight.mT + loc + 0.5 * torch.randn(num, NUM_FEATURES)
    x = (x - x.mean(0)) / x.std(0, correction=0)
    return torch.where(torch.rand(x.shape) < 0.3, torch.nan, x)


def moments(vae: VAE) -> tuple[Tensor, Tensor]:
    """Mean and covariance of p(x) of a VAE with a linear decoder."""
    decoded: Any = vae.decode(torch.cat([torch.zeros(1, 2), torch.eye(2)]))
    loc, scale = decoded.base_dist.loc.detach(), decoded.base_dist.scale.detach()[0]
    weight = (loc[1:] - loc[0]).mT
    return loc[0], weight @ weight.mT + scale.square().diag()


def log_likelihood(mean: Tensor, covariance: Tensor, y: Tensor) -> float:
    """Log-likelihood of the observed entries, in nats per datum."""
    total = 0.0
    for row in y:
        seen = ~row.isnan()
        if seen.any():
            p = MultivariateNormal(mean[seen], covariance[seen][:, seen])
            total += p.log_prob(row[seen]).item()
    return total / len(y)


@pytest.mark.slow
def test_it_comes_near_the_maximum_of_ppca_on_incomplete_data() -> None:
    y = incomplete(300)
    ppca = ProbabilisticPCA((NUM_FEATURES,), 2, missing=True)
    best = ppca.fit(y, method="em")[-1]
    assert log_likelihood(*moments(ppca), y) == pytest.approx(best)

    vae = VAE(
        (NUM_FEATURES,),
        2,
        Likelihood("Normal", scale="shared"),
        encoder=partial(MLP, hidden=(32,)),
        decoder=partial(MLP, hidden=()),
        missing=True,
    )
    vae.standardise(y)
    settings: Any = {"batch_size": 300, "epochs": 150, "lr": 0.03, "schedule": "cosine"}
    miwae = {"name": "iwae", "num_particles": 20}
    fit(vae.model, vae.guide, y, objective=miwae, compile=False, progress=False, **settings)
    found = log_likelihood(*moments(vae), y)
    assert best - 0.02 < found <= best + 1e-9

    # Mean imputation without regard to what was missing is much worse.
    filled = torch.where(y.isnan(), y.nanmean(0), y)
    naive = ProbabilisticPCA((NUM_FEATURES,), 2, missing=True)
    naive.fit(filled)
    assert log_likelihood(*moments(naive), y) < best - 0.1

    gaps = y.isnan()
    weighted = {"name": "importance", "proposal": "amortised", "num_proposals": 1000}
    ours = vae.posterior(y, method=weighted, num_samples=500)
    exact = ppca.posterior(y, method="amortised", num_samples=500)
    off = (ours.mean - exact.mean)[gaps].square().mean().sqrt()
    # So the mean square error is within 4 % of that of the maximum.
    assert off < 0.2 * exact.sd[gaps].square().mean().sqrt()
    assert (filled - exact.mean)[gaps].square().mean().sqrt() > 5 * off
    wider = ours.sd[gaps].square().mean() / exact.sd[gaps].square().mean()
    assert 0.9 < wider < 1.1
