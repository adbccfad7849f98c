"""Networks for tables: the posterior of factor analysis under any mask."""

import pytest
import torch
from torch.distributions import MultivariateNormal, kl_divergence

from pyrovae.nn.factor import _LEAST_VARIANCE, FactorDecoder, FactorEncoder
from pyrovae.posteriors import FullRankNormal


@pytest.mark.usefixtures("float64")
def test_the_encoder_starts_as_the_exact_posterior_of_factor_analysis() -> None:
    num, latent = 6, 3
    q = FullRankNormal(latent)
    encoder = FactorEncoder((2 * num,), q.in_shape)
    with torch.no_grad():
        encoder.loc.normal_()
        encoder.unlinked_scale.normal_()
    x, present = torch.randn(2, 5, num), torch.rand(2, 5, num) < 0.6
    present[0, 0] = False
    found = q(encoder(torch.cat([torch.where(present, x, 0.0), present.double()], -1)))
    variance = torch.nn.functional.softplus(encoder.unlinked_scale).square() + _LEAST_VARIANCE
    w, b = encoder.loadings.detach(), encoder.loc.detach()
    for i in range(2):
        for j in range(5):
            # The exact posterior by conditioning the joint normal of (z, x).
            at = present[i, j]
            covariance = w[at] @ w[at].T + variance.detach()[at].diag()
            gain = torch.linalg.solve(covariance, w[at]).T
            mean = gain @ (x[i, j, at] - b[at])
            exact = MultivariateNormal(mean, torch.eye(latent) - gain @ w[at])
            each = MultivariateNormal(found.loc[i, j], scale_tril=found.scale_tril[i, j])
            assert kl_divergence(each, exact).item() == pytest.approx(0.0, abs=1e-9)


def test_the_network_corrects_the_posterior_without_leaving_its_support() -> None:
    q = FullRankNormal(2)
    encoder = FactorEncoder((8,), q.in_shape, hidden=(5,))
    for parameter in encoder.parameters():
        torch.nn.init.normal_(parameter)
    inputs = torch.cat([torch.randn(3, 7, 4), torch.ones(3, 7, 4)], -1)
    found = q(encoder(inputs))
    assert found.batch_shape == (3, 7)
    assert bool((found.scale_tril.diagonal(dim1=-2, dim2=-1) > 0).all())
    found.rsample().square().sum().backward()
    assert all(bool(p.grad.isfinite().all() & p.grad.any()) for p in encoder.parameters())


def test_the_decoder_starts_as_a_linear_map() -> None:
    decoder = FactorDecoder((2,), (3, 4))
    z = torch.randn(5, 6, 2)
    eta = decoder(z)
    assert eta.shape == (5, 6, 3, 4)
    torch.testing.assert_close(decoder(2 * z) - eta, eta - decoder(0 * z))
    assert decoder(torch.zeros(2)).flatten().tolist() == decoder.bias.tolist()
