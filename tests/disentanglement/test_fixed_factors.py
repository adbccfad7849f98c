"""FactorVAE and BetaVAE scores of codes with known scores."""

from collections.abc import Callable
from math import sqrt
from typing import Any

import pytest
import torch
from torch import Tensor

from pyrovae import InputError
from pyrovae.data.sprites import FACTORS, sprites
from pyrovae.disentanglement import beta_vae_score, factor_vae_score
from tests.disentanglement.codes import SIZES, encode_imperfectly, identity, rotate

Score = Callable[..., float]
SCORES = [(factor_vae_score, "num_votes"), (beta_vae_score, "num_points")]


def approx_frequency(num: int, p: float) -> Any:
    """The relative frequency of an event of probability p in independent draws."""
    return pytest.approx(p, abs=4.5 * sqrt(p * (1 - p) / num))


@pytest.mark.parametrize(("score", "number"), SCORES)
class TestScoresOfFixedFactors:
    def test_factors_as_codes_score_one(self, score: Score, number: str) -> None:
        def encode(factors: Tensor) -> Tensor:
            alive = -factors.flip(1).float() * torch.tensor([1.0, 50.0, 0.02])
            return torch.cat([alive, torch.full((len(factors), 1), 0.1)], 1)

        assert score(encode, identity, SIZES, **{number: 300}, progress=False) == 1

    def test_noise_scores_chance(self, score: Score, number: str) -> None:
        def encode(factors: Tensor) -> Tensor:
            return torch.randn(len(factors), 5)

        got = score(encode, identity, SIZES, **{number: 800}, batch_size=16, progress=False)
        assert got == approx_frequency(800, 1 / 3)

    def test_rotated_factors_score_chance(self, score: Score, number: str) -> None:
        """Each latent mixes all factors equally, so no latent reveals which factor is fixed."""
        sizes = [4, 4, 4, 4]
        got = score(rotate, identity, sizes, **{number: 800}, batch_size=16, progress=False)
        assert got == approx_frequency(800, 1 / 4)

    def test_order_sign_and_scale_do_not_matter(self, score: Score, number: str) -> None:
        def transformed(factors: Tensor) -> Tensor:
            return encode_imperfectly(factors)[:, [2, 0, 3, 1]] * torch.tensor([1, -8, -1, 0.25])

        few = {number: 400, "batch_size": 8, "progress": False}
        first, second = (
            score(encode, identity, SIZES, **few) for encode in (encode_imperfectly, transformed)
        )
        assert 1 / 3 < first < 1
        # The classifier stops before its optimum, which can change one prediction.
        assert first == pytest.approx(second, abs=1 / 400)

    def test_seed_determines_the_score(self, score: Score, number: str) -> None:
        def encode(factors: Tensor) -> Tensor:
            return factors + 2 * torch.randn(factors.shape)

        few = {number: 200, "batch_size": 4, "progress": False}
        state = torch.get_rng_state()
        first, again, other = (score(encode, identity, SIZES, seed=s, **few) for s in (1, 1, 2))
        assert first == again != other
        assert torch.equal(torch.get_rng_state(), state)

    def test_moments_of_sprites_score_one(self, score: Score, number: str) -> None:
        """For squares, centres of mass depend only on x and y, and the area only on scale."""

        def encode(images: Tensor) -> Tensor:
            x = images[:, 0].float()
            area, pixel = x.sum((1, 2)), torch.arange(64.0)
            centre = [(x.sum(1) @ pixel) / area, (x.sum(2) @ pixel) / area]
            return torch.stack([*centre, area], 1)

        def sample(factors: Tensor) -> Tensor:
            full = torch.zeros(len(factors), 5, dtype=torch.int64)
            full[:, [1, 3, 4]] = factors
            return sprites(full)

        sizes = [FACTORS[name] for name in ("scale", "x", "y")]
        few = {number: 60, "batch_size": 10, "progress": False}
        assert score(encode, sample, sizes, **few) == 1

    def test_invalid_arguments_are_refused(self, score: Score, number: str) -> None:
        for sizes in ([3], [3, 1]):
            with pytest.raises(InputError, match="give at least 2 factors of at least 2 values"):
                score(identity, identity, sizes)
        with pytest.raises(
            InputError, match="29 votes or points are too few; give at least 10 per f"
        ):
            score(identity, identity, SIZES, **{number: 29})
        with pytest.raises(InputError, match="batch_size is 1; give 2 or more"):
            score(identity, identity, SIZES, batch_size=1)
        with pytest.raises(InputError, match=r"got torch\.int64 of .*vae\.encode\(x\.float\(\)\)"):
            score(identity, identity, SIZES)
        with pytest.raises(InputError, match=r"got Normal \(for a VAE, pass lambda"):
            score(lambda v: torch.distributions.Normal(v.float(), 1.0), identity, SIZES)
        with pytest.raises(InputError, match="finite codes with 2 latents or more"):
            score(lambda v: v.float() / v, identity, SIZES)
        with pytest.raises(InputError, match="finite codes with 2 latents or more"):
            score(lambda v: v[:, :1].float(), identity, SIZES)


def test_scores_of_a_factor_that_no_latent_encodes() -> None:
    """Half of its votes go to each other latent, which has votes of its own: 2 in 3 are right.

    A linear classifier recognises the factor because no latent is fixed, so the score of Higgins et
    al. is still perfect.
    """

    def encode(factors: Tensor) -> Tensor:
        return factors[:, :2].float()

    sizes = [4, 4, 4]
    got = factor_vae_score(encode, identity, sizes, batch_size=16, progress=False)
    assert got == approx_frequency(800, 2 / 3)
    assert beta_vae_score(encode, identity, sizes, num_points=400, progress=False) == 1


def test_factor_vae_score_of_dead_codes_is_chance() -> None:
    def encode(factors: Tensor) -> Tensor:
        return torch.full((len(factors), 2), 0.1)

    got = factor_vae_score(encode, identity, SIZES, batch_size=2, progress=False)
    assert got == approx_frequency(800, 1 / 3)
