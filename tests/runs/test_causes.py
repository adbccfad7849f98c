"""How unexpected a cell is given the others agrees with the conditionals of a linear model."""

import math

import pytest
import torch
from torch.distributions import Normal

from pyrovae import ProbabilisticPCA
from pyrovae.data.rows import Rows
from pyrovae.runs.questions.causes import column_surprise


@pytest.mark.usefixtures("float64")
def test_surprise_is_that_of_the_exact_conditional() -> None:
    torch.manual_seed(0)
    x = torch.randn(500, 2) @ torch.tensor([[1.0, 2.0, 0.5], [0.3, -1.0, 1.0]])
    x = x + 0.5 * torch.randn(500, 3)
    ppca = ProbabilisticPCA((3,), 2)
    ppca.fit(x)
    rows = x[:20].clone()
    rows[0, 2] += 6
    w = ppca.loadings.detach()
    covariance = w @ w.mT + ppca.scale.detach() ** 2 * torch.eye(3)
    precision = covariance.inverse()
    sd = precision.diagonal().rsqrt()
    # Of a joint normal: x_d given the others has the variance 1 / precision_dd.
    residual = (rows - ppca.loc.detach()) @ precision / precision.diagonal()
    exact = Normal(0.0, sd).log_prob(residual) + Normal(0.0, sd).entropy()
    found = column_surprise(ppca.eval(), Rows("x", rows))
    assert found.shape == (20, 3)
    # log p(x'_d) of a normal draw has the variance 1/2, and 20 of them are averaged. The density
    # is an average of Normal(x_d; m(z), sigma^2) over 100 draws of z, whose squared relative
    # deviation v is that of two products of normals.
    sigma = ppca.scale.detach()
    square = Normal(0.0, (sd**2 - sigma**2 / 2).sqrt()).log_prob(residual).exp()
    square = square / (2 * sigma * math.pi**0.5)
    v = square / Normal(0.0, sd).log_prob(residual).exp().square() - 1
    error = (0.5 / 20 + 2 * v / 100).sqrt()  # twice, for the density of the draws
    assert bool(((found - exact).abs() < 5 * error).all())
    assert error[1:].median() < 0.3
    assert found[0].argmin() == 2
    assert found[0, 2] < -5
