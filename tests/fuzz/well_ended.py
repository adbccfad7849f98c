"""What every attempt must come to."""

from collections.abc import Callable

from hypothesis import HealthCheck, Phase, given, settings
from hypothesis.strategies import SearchStrategy

from benchmarks.fuzz.attempts import Attempt, attempted

__all__ = ["ends_well", "well_ended"]


def ends_well(attempt: Attempt) -> None:
    """Success, or one line and exit code 2; and nothing is lost."""
    ending = attempted(attempt)
    assert ending.is_good, f"{attempt} ended with {ending}"


def well_ended(strategy: SearchStrategy[Attempt], num: int) -> Callable[[], None]:
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
    def test(attempt: Attempt) -> None:
        ends_well(attempt)

    return test
