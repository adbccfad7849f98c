"""A trained VAE with linear networks is probabilistic PCA at its maximum likelihood.

At the maximum the columns of W can be orthogonal. Then p(z | x) is a diagonal normal that a linear
encoder can give, so the ELBO is tight, and has no other local maxima (Lucas et al. 2019).
"""

from functools import partial
from typing import Any

import pytest
import torch
from sklearn.datasets import load_iris, load_wine
from torch import Tensor
from torch.distributions import MultivariateNormal, kl_divergence

from pyrovae import VAE, Likelihood, fit
from pyrovae.models.pca import ProbabilisticPCA
from pyrovae.nn import MLP

pytestmark = pytest.mark.usefixtures("float64")


def standardised_table(data: Any) -> Tensor:
    x = torch.as_tensor(data.data)
    return (x - x.mean(0)) / x.std(0, correction=0)


@pytest.mark.slow
@pytest.mark.parametrize("load", [load_iris, load_wine], ids=["iris", "wine"])
def test_a_linear_vae_reaches_the_ppca_maximum_with_a_tight_elbo(load: Any) -> None:
    x = standardised_table(load())
    num_features, linear = x.shape[1], partial(MLP, hidden=())
    vae = VAE(
        (num_features,), 2, Likelihood("Normal", scale="shared"), encoder=linear, decoder=linear
    )
    settings: Any = {"batch_size": len(x), "epochs": 200, "lr": 0.1, "schedule": "cosine"}
    fit(vae.model, vae.guide, x, compile=False, progress=False, **settings)

    layer: Any = vae.model.decoder.layers[0]
    weight, bias = layer.weight.detach(), layer.bias.detach()
    p: Any = vae.decode(torch.zeros(2))
    noise = p.base_dist.scale.detach()[0] ** 2
    marginal = MultivariateNormal(bias, weight @ weight.T + noise * torch.eye(num_features))
    log_p = marginal.log_prob(x).mean().item()
    (best,) = ProbabilisticPCA((num_features,), 2).fit(x)
    assert best - 0.05 < log_p <= best + 1e-9

    precision = torch.eye(2) + weight.T @ weight / noise
    mean = torch.linalg.solve(precision, weight.T @ (x - bias).T / noise).T
    q: Any = vae.q(x)
    q = MultivariateNormal(q.mean, torch.diag_embed(q.variance))
    gap = kl_divergence(q, MultivariateNormal(mean, precision_matrix=precision)).mean().item()
    assert gap < 0.05
    first, second = weight.T
    cosine = first @ second / (first.norm() * second.norm())
    assert abs(cosine) < 0.1
