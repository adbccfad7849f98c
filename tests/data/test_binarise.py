"""Binarisation uses grey levels as probabilities; dequantisation adds uniform noise."""

import pytest
import torch

from pyrovae import Dataset, InputError, binarise
from pyrovae.data import Split
from pyrovae.data.binarise import check_binarisable, check_whole, dequantise, static_binarisation


def test_mean_of_draws_is_the_grey_level() -> None:
    x = torch.tensor([0, 51, 128, 255], dtype=torch.uint8)
    draws = binarise(x.expand(20_000, 4), levels=255)
    p = x / 255
    error = (p * (1 - p) / 20_000).sqrt()
    assert ((draws.mean(0) - p).abs() <= 4.5 * error + 1e-7).all()
    assert draws.dtype == torch.float32
    assert set(draws.unique().tolist()) == {0.0, 1.0}


def test_black_and_white_stay_and_draws_are_independent() -> None:
    x = torch.tensor([0.0, 1.0, 0.5, 0.5, 0.5]).expand(50_001, 5)
    draws = binarise(x).t()
    assert draws[0].max() == 0
    assert draws[1].min() == 1
    # Lags between pixels that are neighbours in memory or share a random word.
    fair = draws[2:].flatten() - 0.5
    for lag in (1, 2, 50_001, len(fair) // 2, len(fair) // 4):
        covariance = (fair[lag:] * fair[:-lag]).mean().item()
        assert abs(covariance) < 4.5 * 0.25 / (len(fair) - lag) ** 0.5


def test_static_binarisation_is_the_same_for_the_same_seed() -> None:
    part = Split(torch.randint(0, 17, (30, 1, 8, 8), dtype=torch.uint8), torch.arange(30))
    torch.manual_seed(1)
    first = static_binarisation(part, 16.0, seed=3)
    torch.manual_seed(2)
    assert torch.equal(first.x, static_binarisation(part, 16.0, seed=3).x)
    assert not torch.equal(first.x, static_binarisation(part, 16.0, seed=4).x)
    assert first.y is part.y


def test_a_random_word_serves_four_pixels_of_sixteen_bits() -> None:
    """Pixels that share a word, of all of its parts, are independent of each other."""
    num = 40_000
    draws = binarise(torch.full((4, num), 0.5)) - 0.5
    covariance = draws @ draws.T / num - 0.25 * torch.eye(4)
    assert (covariance.abs() < 4.5 * 0.25 / num**0.5).all()
    # Word k holds pixels 2 k, 2 k + 1 (its lower halves) and as many in the second half of all.
    fair = draws.flatten()
    for lag in (1, 2 * num - 1, 2 * num, 2 * num + 1):
        pairs = fair[lag:] * fair[: len(fair) - lag]
        assert abs(pairs[::2].mean().item()) < 4.5 * 0.25 / len(pairs[::2]) ** 0.5
        assert abs(pairs[1::2].mean().item()) < 4.5 * 0.25 / len(pairs[1::2]) ** 0.5


def test_only_grey_levels_can_be_binarised() -> None:
    good, bad = Split(torch.rand(5, 3)), Split(torch.rand(5, 3) * 2 - 1)
    assert check_binarisable(Dataset("table", good, good, good)) == 1.0
    with pytest.raises(InputError, match="the test data of table range from -"):
        check_binarisable(Dataset("table", good, good, bad))


def test_dequantised_log_density_bounds_the_log_mass() -> None:
    """E_u[log p(x + u)] <= log of the integral of p over [x, x + 1)."""
    x = torch.arange(5.0).repeat(20_000, 1)
    p = torch.distributions.Normal(2.3, 1.1)
    bound = p.log_prob(dequantise(x))
    mass = (p.cdf(x[0] + 1) - p.cdf(x[0])).log()
    error = bound.std(0) / 20_000**0.5
    assert (bound.mean(0) <= mass + 4.5 * error).all()
    noise = dequantise(x) - x
    assert ((noise >= 0) & (noise < 1)).all()


def test_only_whole_numbers_can_be_dequantised() -> None:
    good, bad = Split(torch.arange(6.0).reshape(3, 2)), Split(torch.rand(5, 2))
    check_whole(Dataset("table", good, good, good))
    with pytest.raises(InputError, match="the test data of table are not whole numbers"):
        check_whole(Dataset("table", good, good, bad))
