"""Input of every kind: a few of each; ``python -m benchmarks.bad_inputs`` tries thousands."""

import pytest

from benchmarks.bad_inputs import KINDS

from .well_ended import well_ended

NUM = {
    "YAML text": 25,
    "options in YAML": 25,
    "command lines": 20,
    "declared parts": 25,
    "arrays": 12,
    "tables, train": 8,
    "tables, impute": 15,
    "run directories": 20,
    "places": 12,
    "full disks": 3,
}


@pytest.mark.parametrize("kind", KINDS)
def test_ends_in_success_or_in_one_line(kind: str) -> None:
    well_ended(KINDS[kind](), NUM[kind])()
