"""What every attempt must come to."""

from collections.abc import Callable

from hypothesis import HealthCheck, Phase, given, settings
from hypothesis.strategies import SearchStrategy

from benchmarks.fuzz.harness import Case, run_case

__all__ = ["check_ends_well", "make_fuzz_test"]


def check_ends_well(attempt: Case) -> None:
    """Success, or one line and exit code 2; and nothing is lost."""
    ending = run_case(attempt)
    assert ending.is_good, f"{attempt} ended with {ending}"


def make_fuzz_test(strategy: SearchStrategy[Case], num: int) -> Callable[[], None]:
    """A test that so many of them end well, the same ones each time."""

    @settings(
        max_examples=num,
        deadline=None,
        derandomize=True,
        database=None,
        phases=[Phase.generate],  # what fails is short as it is
        suppress_health_check=list(HealthCheck),
    )
    @given(strategy)
    def test(attempt: Case) -> None:
        check_ends_well(attempt)

    return test
