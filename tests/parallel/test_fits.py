"""A fit in shards is the same, to round-off, however many processes share them."""

from pathlib import Path

import pytest
import torch
from torch import Tensor

from .fits import SETUPS, ends_alone, ends_of
from .processes import found, together

_COMPILED = ("compiled",)
"""Which takes seconds."""


def assert_same(these: dict[str, Tensor], those: dict[str, Tensor], tolerance: float) -> None:
    assert these.keys() == those.keys()
    for name, value in these.items():
        expected = those[name]
        assert torch.allclose(value, expected, rtol=tolerance, atol=tolerance), name


@pytest.mark.parametrize(
    "names",
    [tuple(sorted(SETUPS.keys() - set(_COMPILED))), _COMPILED],
    ids=["eager_or_recorded", "compiled"],
)
def test_two_processes_end_as_one_does(names: tuple[str, ...], tmp_path: Path) -> None:
    """With the same bits in each, but for sums in another order those of one process."""
    first, second = found(together(ends_of, *names, folder=tmp_path))
    assert_same(first, second, 0.0)
    (alone,) = found(together(ends_alone, *names, folder=tmp_path, num=1))
    assert_same(first, alone, 1e-9)


def test_shards_have_noise_of_their_own() -> None:
    """So a fit depends on their number: the comparison above is not of what never changes."""
    one, other = (ends_of(None, "user_program", shards=num) for num in (2, 3))
    assert not torch.allclose(one["user_program: epochs"], other["user_program: epochs"])
