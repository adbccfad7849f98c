"""Tests that run generated cases and check how each one ends."""

from collections.abc import Callable

from hypothesis import HealthCheck, Phase, given, settings
from hypothesis.strategies import SearchStrategy

from benchmarks.fuzz.harness import Case, run_case

__all__ = ["check_ends_well", "make_fuzz_test"]


def check_ends_well(case: Case) -> None:
    """Check that a case succeeds, or ends with one line and exit code 2, and loses nothing."""
    outcome = run_case(case)
    assert outcome.is_good, f"{case} ended with {outcome}"


def make_fuzz_test(strategy: SearchStrategy[Case], num: int) -> Callable[[], None]:
    """Make a test that runs ``num`` cases of a strategy, the same ones each time."""

    @settings(
        max_examples=num,
        deadline=None,
        derandomize=True,
        database=None,
        phases=[Phase.generate],  # no shrinking: failing cases are short anyway
        suppress_health_check=list(HealthCheck),
    )
    @given(strategy)
    def test(case: Case) -> None:
        check_ends_well(case)

    return test
