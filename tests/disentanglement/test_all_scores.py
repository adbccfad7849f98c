"""All scores of a representation in one call."""

from math import log, sqrt

import pytest
import torch
from torch import Tensor

from pyrovae import InputError
from pyrovae.disentanglement import disentanglement
from tests.disentanglement.codes import SIZES, identity, sap_of_perfect_codes


def test_scores_of_the_factors_as_codes() -> None:
    def encode(factors: Tensor) -> Tensor:
        return torch.cat([factors.float(), torch.zeros(len(factors), 1)], 1)

    state = torch.get_rng_state()
    got = disentanglement(encode, identity, SIZES, num_samples=1500, progress=False)
    assert torch.equal(torch.get_rng_state(), state)
    assert (got.factor_vae, got.beta_vae) == (1, 1)
    assert got.dci.disentanglement == pytest.approx(1, abs=1e-9)
    assert got.dci.completeness == pytest.approx(1, abs=1e-9)
    assert got.dci.informativeness == 1
    expected, error = sap_of_perfect_codes(SIZES, 500)
    assert got.sap == pytest.approx(expected, abs=error)
    # Less than 1 by the estimated information of the other factors: 2 N I is chi-squared with at
    # most 4 x 3 degrees of freedom, and entropies are at least log 3.
    gap = (12 + 4.5 * sqrt(2 * 12)) / (2 * 1500) / log(3)
    assert 1 - gap < got.mig < 1


def test_too_few_data_are_refused() -> None:
    with pytest.raises(InputError, match="num_samples is 9; give 10 or more"):
        disentanglement(identity, identity, SIZES, num_samples=9)
