"""A fit that was killed ends with the bits of one that was not."""

import random
from pathlib import Path

import pytest
import torch

from pyrovae import VAE, InputError, fit
from pyrovae.snapshots import Snapshots

from .killed import SETUPS, counts, run


@pytest.mark.parametrize("setup", SETUPS)
def test_killed_at_random_moments_and_resumed(setup: str, tmp_path: Path) -> None:
    expected = run(setup, tmp_path / "whole", None, every=1e9)
    when = random.Random(0)
    num_killed = 0
    for _ in range(20):
        found = run(setup, tmp_path / "killed", when.uniform(0.05, 0.4) * 2**num_killed)
        if found is not None:
            break
        num_killed = min(num_killed + 1, 4)
    assert found == expected
    assert num_killed
