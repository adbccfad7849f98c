"""A few generated inputs of every kind; ``python -m benchmarks.robustness.bad_inputs`` runs
thousands.
"""

import pytest

from benchmarks.robustness.bad_inputs import KINDS

from .checks import make_fuzz_test

NUM = {
    "YAML text": 12,
    "options in YAML": 15,
    "command lines": 15,
    "declared parts": 15,
    "arrays": 10,
    "tables, train": 8,
    "tables, impute": 10,
    "run directories": 10,
    "places": 8,
    "full disks": 2,
}


@pytest.mark.slow
@pytest.mark.parametrize("kind", KINDS)
def test_command_succeeds_or_refuses_in_one_line(kind: str) -> None:
    make_fuzz_test(KINDS[kind](), NUM[kind])()
