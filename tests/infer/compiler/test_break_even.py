"""The rule by which steps are recorded and compiled."""

import pytest

from pyrovae.infer.compiler.break_even import BreakEven, RunTimes


def run_times(seconds: float) -> RunTimes:
    """Of runs that took so long each; the first, which warms up, took a minute."""
    measured = RunTimes()
    for each in (60.0, seconds, seconds):
        measured.add(each)
    assert measured.mean == pytest.approx(seconds)
    return measured


def after(runs: int, num_runs: int | None = None) -> BreakEven:
    break_even = BreakEven(num_runs)
    for _ in range(runs):
        break_even.count()
    return break_even


def test_a_known_number_of_steps() -> None:
    assert not after(10, 500).of_recording(run_times(0.005), uses=10)
    assert after(10, 5_000).of_recording(run_times(0.005), uses=10)
    assert not after(10, 5_000).of_compiling(run_times(0.005), uses=10)
    assert after(10, 50_000).of_compiling(run_times(0.005), uses=10)


def test_of_an_unknown_number_as_many_are_expected_as_there_were() -> None:
    assert not after(100).of_recording(run_times(0.005), uses=100)
    assert after(5_000).of_recording(run_times(0.005), uses=5_000)


def test_a_rare_kind_counts_for_what_it_is() -> None:
    """A last smaller batch is a step in a hundred."""
    assert after(1_000, 50_000).of_compiling(run_times(0.005), uses=990)
    assert not after(1_000, 50_000).of_compiling(run_times(0.005), uses=10)


def test_nothing_is_known_before_the_second_run() -> None:
    break_even = after(1, 10**9)
    measured = RunTimes()
    assert not break_even.of_recording(measured, uses=1)
    measured.add(1.0)
    assert not break_even.of_recording(measured, uses=1)


def test_a_program_that_runs_long_takes_long_to_record() -> None:
    """Such as one with a long loop: each of its operations costs more as it is recorded."""
    assert not after(10, 100).of_recording(run_times(1.0), uses=10)
    assert after(10, 1_000).of_recording(run_times(1.0), uses=10)
