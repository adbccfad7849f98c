"""A fit in shards has the same result, to round-off, for any number of processes."""

from pathlib import Path

import pytest
import torch
from torch import Tensor

from .fits import SETUPS, results_of_fits, results_of_fits_alone
from .processes import get_results, run_processes

_COMPILED = ("compiled",)
"""Setups that take seconds to compile."""


def assert_same(these: dict[str, Tensor], those: dict[str, Tensor], tolerance: float) -> None:
    assert these.keys() == those.keys()
    for name, value in these.items():
        expected = those[name]
        assert torch.allclose(value, expected, rtol=tolerance, atol=tolerance), name


@pytest.mark.slow
@pytest.mark.parametrize(
    "names",
    [tuple(sorted(SETUPS.keys() - set(_COMPILED))), _COMPILED],
    ids=["eager_or_recorded", "compiled"],
)
def test_two_processes_give_the_result_of_one(names: tuple[str, ...], tmp_path: Path) -> None:
    """Both have the same bits; one process may differ in the order of sums."""
    first, second = get_results(run_processes(results_of_fits, *names, folder=tmp_path))
    assert_same(first, second, 0.0)
    (alone,) = get_results(run_processes(results_of_fits_alone, *names, folder=tmp_path, num=1))
    assert_same(first, alone, 1e-9)


def test_each_shard_has_its_own_noise() -> None:
    """So fits depend on the number of shards, and the test above does not hold trivially."""
    one, other = (results_of_fits(None, "user_program", shards=num) for num in (2, 3))
    assert not torch.allclose(one["user_program: epochs"], other["user_program: epochs"])
