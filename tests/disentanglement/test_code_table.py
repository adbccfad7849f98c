"""MIG, DCI and SAP of codes with known scores: factors, their mixtures, and noise."""

from collections.abc import Callable
from math import log, sqrt
from typing import Any

import numpy as np
import pytest
import torch
from scipy.stats import entropy
from sklearn.metrics import mutual_info_score
from torch import Tensor

from pyrovae import InputError
from pyrovae.disentanglement import dci, mutual_information, mutual_information_gap, sap
from pyrovae.disentanglement.code_table import _concentration
from tests.disentanglement.codes import (
    SIZES,
    draw_factors,
    encode_imperfectly,
    rotate,
    sap_of_perfect_codes,
)


def factor_grid(*sizes: int) -> Tensor:
    """All combinations of factors, so that factors are exactly independent in the data."""
    return torch.cartesian_prod(*(torch.arange(size) for size in sizes))


class TestMutualInformation:
    def test_small_table_agrees_with_formula(self) -> None:
        codes = torch.tensor([[0.0, 9.0], [0.0, 7.0], [1.0, 7.0], [1.0, 9.0]])
        factors = torch.tensor([[5, 0], [5, 1], [5, 1], [8, 0]])
        got = mutual_information(codes, factors, num_bins=2)
        # p(z, v) = 1/2, 1/4, 1/4 of p(z) = 1/2 and p(v) = 3/4, 1/4.
        mixed = log(4 / 3) / 2 + log(2 / 3) / 4 + log(2) / 4
        expected = torch.tensor([[mixed, 0], [mixed, log(2)]])
        torch.testing.assert_close(got, expected.double())
        entropies = [log(4) / 4 + 3 / 4 * log(4 / 3), log(2)]
        gap = (0 / entropies[0] + log(2) / entropies[1]) / 2
        assert mutual_information_gap(codes, factors, 2) == pytest.approx(gap, abs=1e-12)

    @pytest.mark.parametrize("num_bins", [2, 7, 20])
    def test_agrees_with_scikit_learn(self, num_bins: int) -> None:
        factors = draw_factors(500, [3, 9])
        codes = torch.randn(500, 4, dtype=torch.float64) + factors[:, 1:]
        got = mutual_information(codes, factors, num_bins)
        for i in range(4):
            z = codes[:, i].numpy()
            bins = np.digitize(z, np.histogram_bin_edges(z, num_bins)[1:-1])
            for j in range(2):
                expected = mutual_info_score(bins, factors[:, j].numpy())
                assert got[i, j].item() == pytest.approx(expected, abs=1e-12)

    def test_gap_of_the_factors_as_codes(self) -> None:
        factors = factor_grid(3, 20, 40)
        codes = torch.stack([-2.0 * factors[:, 1], factors[:, 2] + 5.0, factors[:, 0] / 7], 1)
        # Each of the 20 bins holds 2 of the 40 values.
        expected = (1 + 1 + log(20) / log(40)) / 3
        assert mutual_information_gap(codes, factors) == pytest.approx(expected, abs=1e-12)
        assert mutual_information_gap(codes, factors, 40) == pytest.approx(1, abs=1e-12)

    def test_gap_of_rotated_factors_is_zero(self) -> None:
        factors = factor_grid(4, 4, 4, 4)
        codes = rotate(factors)
        assert mutual_information(codes, factors).min() > 0.05
        assert mutual_information_gap(codes, factors) == pytest.approx(0, abs=1e-12)

    def test_estimate_for_noise_has_the_known_bias(self) -> None:
        """2 N I is chi-squared with (bins - 1) (values - 1) degrees of freedom."""
        factors, num = draw_factors(20_000, SIZES), 20_000
        got = mutual_information(torch.rand(num, 6), factors, num_bins=10)
        for size, each in zip(SIZES, got.T, strict=True):
            freedom = 9 * (size - 1)
            spread = 4.5 * sqrt(2 * freedom / len(each))
            assert 2 * num * each.mean().item() == pytest.approx(freedom, abs=spread)

    def test_duplicated_latent_removes_the_gap_of_its_factor(self) -> None:
        factors = factor_grid(*SIZES)
        codes = torch.cat([factors, 3 - factors[:, :1]], 1).float()
        assert mutual_information_gap(codes, factors) == pytest.approx(2 / 3, abs=1e-12)

    def test_dead_latent_has_no_mutual_information(self) -> None:
        factors = factor_grid(*SIZES)
        rounding = 0.1 + 1e-8 * torch.rand(60, 1, dtype=torch.float64)
        codes = torch.cat([factors.double(), torch.full((60, 1), 0.1), rounding], 1)
        assert mutual_information(codes, factors)[3:].eq(0).all()
        assert mutual_information_gap(codes, factors) == pytest.approx(1, abs=1e-12)


class TestDCI:
    def test_concentration_agrees_with_entropies(self) -> None:
        table = torch.rand(4, 3, dtype=torch.float64)
        scores = 1 - entropy(table.numpy(), axis=1) / log(3)
        expected = np.average(scores, weights=table.sum(1).numpy())
        assert _concentration(table) == pytest.approx(expected, abs=1e-12)
        assert _concentration(torch.eye(3)) == 1
        assert _concentration(torch.ones(3, 2)) == pytest.approx(0, abs=1e-6)  # in single precision
        assert _concentration(torch.tensor([[1.0, 0.0], [0.0, 0.0]])) == 1
        assert _concentration(torch.zeros(2, 2)) == 0

    def test_factors_as_codes_have_known_score(self) -> None:
        factors = draw_factors(1000, SIZES)
        codes = torch.cat([-factors.exp().flip(1), torch.zeros(1000, 1), torch.rand(1000, 1)], 1)
        got = dci(codes, factors, progress=False)
        assert got.disentanglement == pytest.approx(1, abs=1e-9)
        assert got.completeness == pytest.approx(1, abs=1e-9)
        assert got.informativeness == 1

    @pytest.mark.slow
    def test_noise_scores_zero(self) -> None:
        """Importances differ by about a tenth, and entropies by half the square of that."""
        factors = draw_factors(1500, SIZES)
        got = dci(torch.randn(1500, 4), factors, progress=False)
        assert got.disentanglement < 0.05
        assert got.completeness < 0.05
        # Random predictions of 500 data are right for one in n.
        right = sum(1 / size for size in SIZES) / 3
        error = sqrt(sum((1 - 1 / size) / size for size in SIZES) / 500) / 3
        assert got.informativeness == pytest.approx(right, abs=4.5 * error)

    def test_rotated_factors_score_zero_but_are_informative(self) -> None:
        factors = draw_factors(1500, [4, 4, 4, 4])
        got = dci(rotate(factors), factors, progress=False)
        assert got.disentanglement < 0.05
        assert got.completeness < 0.05
        assert got.informativeness > 0.5  # the codes determine all factors

    def test_duplicated_latent_lowers_completeness(self) -> None:
        """Each of 100 trees chooses between equal latents at random, so each gets about half."""
        factors = draw_factors(1000, SIZES)
        codes = torch.cat([factors, factors[:, :1]], 1).float()
        got = dci(codes, factors, progress=False)
        assert got.disentanglement == pytest.approx(1, abs=1e-9)
        share = 0.5 + 4.5 * 0.5 / sqrt(100)
        low, high = (1 - entropy([p, 1 - p]) / log(4) for p in (0.5, share))
        assert (2 + low) / 3 - 1e-9 <= got.completeness <= (2 + high) / 3

    def test_dead_codes_score_zero(self) -> None:
        factors = draw_factors(300, SIZES)
        got = dci(torch.full((300, 3), 0.1), factors, progress=False)
        assert (got.disentanglement, got.completeness) == (0, 0)

    @pytest.mark.slow
    def test_order_and_sign_matter_only_by_chance(self) -> None:
        factors = draw_factors(900, SIZES)
        codes = encode_imperfectly(factors)
        transformed = codes[:, [2, 0, 3, 1]] * torch.tensor([1, -1, -1, 1])

        def scores(z: Tensor, seed: int) -> list[float]:
            got = dci(z, factors, seed=seed, progress=False)
            return [got.disentanglement, got.completeness, got.informativeness]

        # Order and sign change the trees by chance; seeds also change the held-out data.
        by_seed = np.array([scores(codes, seed) for seed in range(4)])
        difference = np.array(scores(transformed, 0)) - by_seed[0]
        assert (np.abs(difference) <= 4.5 * sqrt(2) * by_seed.std(0, ddof=1)).all()


class TestSAP:
    def test_factors_as_codes_have_known_score(self) -> None:
        """A monotone transform of a latent does not change the score."""
        sizes = [3, 4, 9]
        factors = draw_factors(3000, sizes)
        expected, error = sap_of_perfect_codes(sizes, 1000)
        score = sap(factors.float(), factors)
        assert score == pytest.approx(expected, abs=error)
        assert sap(-factors.double().exp(), factors) == pytest.approx(score, abs=1e-12)

    def test_noise_and_rotated_factors_score_zero(self) -> None:
        factors = draw_factors(3000, SIZES)
        _, error = sap_of_perfect_codes(SIZES, 1000)
        assert 0 <= sap(torch.randn(3000, 4), factors) < 2 * error
        factors = draw_factors(3000, [4, 4, 4, 4])
        assert 0 <= sap(rotate(factors), factors) < 2 * error

    def test_duplicated_latent_removes_the_gap_of_its_factor(self) -> None:
        factors = draw_factors(3000, SIZES)
        expected, error = sap_of_perfect_codes(SIZES[1:], 1000)
        codes = torch.cat([factors, -factors[:, :1]], 1).float()
        assert sap(codes, factors) == pytest.approx(expected * 2 / 3, abs=error)

    def test_dead_latent_has_accuracy_zero(self) -> None:
        factors = draw_factors(3000, SIZES)
        codes = torch.cat([factors[:, :1], torch.full((3000, 2), 0.1)], 1)
        _, error = sap_of_perfect_codes(SIZES, 1000)
        assert sap(codes, factors) == pytest.approx((1 + 1 / 4 + 1 / 5) / 3, abs=error)

    def test_rare_values_weigh_as_much_as_frequent_ones(self) -> None:
        """z is uniform on [0, 1] for value 0 and on [1/2, 1] for value 1: at best 3/4 on average.

        If data had equal weights, 0 would be the best guess for any z, as 9 in 10 data have it.
        """
        num = 12_000
        factors = torch.stack([torch.rand(num) < 0.1, torch.rand(num) < 0.5], 1).long()
        u = torch.rand(num)
        codes = torch.stack([torch.where(factors[:, 0] == 1, (u + 1) / 2, u), torch.ones(num)], 1)
        rare, frequent = 0.1 * num / 3, 0.9 * num / 3
        errors = [0.25 * sqrt(1 / rare + 1 / frequent), 0.5 / sqrt(num / 3)]
        expected = (3 / 4 + 1 / 2) / 2  # the other latent is dead, and the other factor is guessed
        assert sap(codes, factors) == pytest.approx(expected, abs=4.5 * sum(errors) / 2)

    def test_order_sign_and_scale_do_not_matter(self) -> None:
        factors = draw_factors(900, SIZES)
        codes = encode_imperfectly(factors)
        transformed = codes[:, [2, 0, 3, 1]] * torch.tensor([1, -8, -1, 0.25])
        assert sap(transformed, factors) == pytest.approx(sap(codes, factors), abs=1e-12)
        for num_bins in (5, 20):
            expected = mutual_information_gap(codes, factors, num_bins)
            got = mutual_information_gap(transformed, factors, num_bins)
            assert got == pytest.approx(expected, abs=1e-12)


@pytest.mark.parametrize("score", [mutual_information, mutual_information_gap, dci, sap])
def test_invalid_codes_and_factors_are_refused(score: Callable[..., Any]) -> None:
    factors = draw_factors(100, SIZES)
    codes = torch.randn(100, 2)
    with pytest.raises(InputError, match="there are 99 codes for factors of 100 data"):
        score(codes[:99], factors)
    with pytest.raises(InputError, match="there are 1 latents; scores need at least 2"):
        score(codes[:, :1], factors)
    with pytest.raises(InputError, match="there are 1 factors; scores need at least 2"):
        score(codes, factors[:, :1])
    with pytest.raises(InputError, match="factor 1 has the same value in all data; leave it out"):
        score(codes, factors * torch.tensor([1, 0, 1]))
    for bad in (float("nan"), float("inf")):
        with pytest.raises(InputError, match="some are NaN or infinite"):
            score(codes.index_fill(0, torch.tensor([3]), bad), factors)


def test_too_small_numbers_are_refused() -> None:
    factors = factor_grid(2, 2)
    with pytest.raises(InputError, match="num_bins is 1; it must be from 2"):
        mutual_information(factors.float(), factors, 1)
    for score in (dci, sap):
        with pytest.raises(
            InputError, match="4 data are too few to fit classifiers; give at least 10"
        ):
            score(factors.float(), factors)
