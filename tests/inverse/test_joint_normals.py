"""Noise and matrices on normals over all features, against dense formulas of one normal."""

from collections.abc import Callable
from typing import Any

import pyro.distributions as dist
import pytest
import torch
from torch import Tensor

from pyrovae import VAE, Likelihood, Mixed
from pyrovae.distributions import Blocks, LowRankNormal, MultivariateNormal, denoised, noisy
from pyrovae.inverse import Linear, Noise
from tests.inverse.linear_gaussian import assert_draws_match_normal

pytestmark = pytest.mark.usefixtures("float64")

NAN = torch.nan
NUM, ROWS = 4, 3


def low_rank(*batch: int) -> LowRankNormal:
    generator = torch.Generator().manual_seed(1)
    factor = torch.randn(*batch, NUM, 2, generator=generator)
    loc = torch.randn(ROWS, NUM, generator=generator)
    return LowRankNormal(loc, factor, torch.rand(*batch, NUM, generator=generator) + 0.1)


def full(*batch: int) -> MultivariateNormal:
    generator = torch.Generator().manual_seed(2)
    square = torch.randn(*batch, NUM, NUM, generator=generator).tril(-1)
    scale = torch.rand(*batch, NUM, generator=generator) + 0.3
    loc = torch.randn(ROWS, NUM, generator=generator)
    return MultivariateNormal(loc, square + torch.diag_embed(scale))


def of_torch(p: Any) -> Any:
    """The same normal as a class of Pyro, as a user's own model may have it."""
    if isinstance(p, LowRankNormal):
        return dist.LowRankMultivariateNormal(p.loc, p.cov_factor, p.cov_diag)
    return dist.MultivariateNormal(p.loc, scale_tril=p.scale_tril)


MAKE: dict[str, Callable[[], Any]] = {
    "low rank": lambda: low_rank(),
    "low rank of each": lambda: low_rank(ROWS),
    "full": lambda: full(),
    "full of each": lambda: full(ROWS),
    "low rank of Pyro": lambda: of_torch(low_rank(ROWS)),
    "full of Pyro": lambda: of_torch(full()),
}
every = pytest.mark.parametrize("make", MAKE.values(), ids=MAKE)


def dense(p: Any, row: int, y: Tensor, matrix: Tensor, s: Tensor) -> tuple[Any, Tensor, Tensor]:
    """p(y), and the mean and covariance of p(x | y), of one row."""
    loc, prior = p.loc[row], p.covariance_matrix.expand(ROWS, NUM, NUM)[row]
    covariance = matrix @ prior @ matrix.mT + torch.diag(s**2)
    gain = prior @ matrix.mT @ torch.linalg.inv(covariance)
    of_y = torch.distributions.MultivariateNormal(matrix @ loc, covariance)
    return of_y, loc + gain @ (y - matrix @ loc), prior - gain @ matrix @ prior


@every
@pytest.mark.parametrize("gaps", [False, True])
def test_noise(make: Any, gaps: bool) -> None:
    p = make()
    y = torch.randn(ROWS, NUM, generator=torch.Generator().manual_seed(4))
    if gaps:
        y[0, 1] = y[1] = NAN
    noise = torch.tensor([0.1, 0.5, 2.0])
    operator = Noise(0.1)
    seen, filled = operator.seen(p, y, noise, torch.zeros(ROWS, NUM))
    given = operator.restored(p, y, noise)
    x = torch.randn(ROWS, NUM, generator=torch.Generator().manual_seed(5))
    draws = torch.stack([given.sample() for _ in range(3000)])
    for row in range(ROWS):
        is_seen = ~y[row].isnan()
        s = noise[row].expand(int(is_seen.sum()))
        of_y, mean, covariance = dense(p, row, y[row, is_seen], torch.eye(NUM)[is_seen], s)
        log_y = of_y.log_prob(y[row, is_seen]) if is_seen.any() else torch.zeros(())
        torch.testing.assert_close(seen.log_prob(filled)[row], log_y)
        torch.testing.assert_close(given.mean[row], mean)
        of_x = torch.distributions.MultivariateNormal(mean, covariance)
        torch.testing.assert_close(given.log_prob(x)[row], of_x.log_prob(x[row]))
        assert_draws_match_normal(draws[:, row], mean, covariance)


@every
@pytest.mark.parametrize("s", [0.0, 0.3])
def test_matrix(make: Any, s: float) -> None:
    p = make()
    matrix = torch.randn(2, NUM, generator=torch.Generator().manual_seed(3))
    y = torch.randn(ROWS, 2, generator=torch.Generator().manual_seed(4))
    operator, noise = Linear(matrix, s), torch.full((ROWS,), s)
    seen, _ = operator.seen(p, y, noise, torch.zeros(ROWS, NUM))
    given = operator.restored(p, y, noise)
    x = torch.randn(ROWS, NUM, generator=torch.Generator().manual_seed(5))
    draws = torch.stack([given.sample() for _ in range(3000)])
    for row in range(ROWS):
        of_y, mean, covariance = dense(p, row, y[row], matrix, noise[:1].expand(2))
        torch.testing.assert_close(seen.log_prob(y)[row], of_y.log_prob(y[row]))
        torch.testing.assert_close(given.mean[row], mean)
        assert_draws_match_normal(draws[:, row], mean, covariance)
        if s:
            of_x = torch.distributions.MultivariateNormal(mean, covariance)
            torch.testing.assert_close(given.log_prob(x)[row], of_x.log_prob(x[row]))


def test_each_block_of_a_table_has_its_own_noise() -> None:
    parts = [full(ROWS), dist.Normal(torch.ones(ROWS, 2), 0.5).to_event(1)]
    y, scale = torch.randn(ROWS, NUM + 2), torch.rand(ROWS, NUM + 2) + 0.1
    y[0, 0] = y[1, NUM] = NAN
    pairs = list(zip(parts, y.split([NUM, 2], -1), scale.split([NUM, 2], -1), strict=True))
    x = torch.randn(ROWS, NUM + 2)
    both = denoised(Blocks(parts), y, scale)
    apart = [denoised(*pair) for pair in pairs]
    torch.testing.assert_close(both.mean, torch.cat([each.mean for each in apart], -1))
    log_probs = [each.log_prob(v) for each, v in zip(apart, x.split([NUM, 2], -1), strict=True)]
    torch.testing.assert_close(both.log_prob(x), sum(log_probs))
    log_y = noisy(Blocks(parts), scale).log_prob(x)
    each_log_y = [
        noisy(p, s).log_prob(v) for (p, _, s), v in zip(pairs, x.split([NUM, 2], -1), strict=True)
    ]
    torch.testing.assert_close(log_y, sum(each_log_y))


@pytest.mark.parametrize(
    "likelihood",
    [
        Likelihood("LowRankNormal", rank=2),
        Likelihood("MultivariateNormal", scale_tril="predicted"),
        Mixed([(("a", "b"), "MultivariateNormal"), (("c", "d"), "Bernoulli")]),
    ],
    ids=str,
)
def test_a_vae_restores_noisy_data(likelihood: Any) -> None:
    """Through the whole of ``posterior``, also with noise of unknown size."""
    vae = VAE((NUM,), 2, likelihood).double()
    x = vae.sample(6).double()
    for operator in (Noise(0.3), Noise(None)):
        y = x + 0.3 * torch.randn_like(x)
        y[0, 1] = NAN
        result = vae.posterior(y, operator=operator, num_samples=20, progress=False)
        assert result.x.isfinite().all()
        assert result.log_prob(x).isfinite().all()
