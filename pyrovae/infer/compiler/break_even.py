"""When recording a step, or compiling it, repays its cost.

Both cost seconds and make later steps faster. The rule: they pay if the number of steps left, times
the seconds of a step, times the fraction saved, exceeds the cost. Measured on two cores with torch
2.15 (milliseconds per step of a 784-400-50 VAE, and of eight schools under an autoguide):

    ============  ========  ========  ========
                  program   recorded  compiled
    ============  ========  ========  ========
    batch 32      4.0       2.2       1.3
    batch 128     9.3       4.7       2.0
    eight schools 2.4       0.87      0.041
    ============  ========  ========  ========

The first recording of a process takes 2 s, mostly for torch's imports, plus the time of some 50
runs of the program, as each operation is slower while it is recorded. Compiling takes 10 to 20 s,
or 2 to 3 s where inductor's cache has the graph.
"""

from dataclasses import dataclass

__all__ = ["BreakEven", "RunTimes"]

_RECORD_SECONDS, _RECORD_RUNS, _RECORD_SAVES = 2.0, 50, 0.45
_COMPILE_SECONDS, _COMPILE_SAVES = 20.0, 0.4


@dataclass
class RunTimes:
    """The run times of one kind of call, without the first one, which warms up.

    Attributes:
        runs: number of runs, the first included.
        seconds: total time of all but the first.
    """

    runs: int = 0
    seconds: float = 0.0

    def add(self, seconds: float) -> None:
        """Count a run that took these seconds."""
        if self.runs:
            self.seconds += seconds
        self.runs += 1

    @property
    def mean(self) -> float | None:
        """Mean seconds per run; None before the second run."""
        return self.seconds / (self.runs - 1) if self.runs > 1 else None


class BreakEven:
    """Decides whether the runs left will repay the cost of making them faster.

    If their number is unknown, as many are expected as there have been. The seconds spent are then
    at most a constant times the seconds that the best choice would have spent.

    Arguments:
        num_runs: number of runs to come, of all kinds of calls; None if it is unknown.
    """

    def __init__(self, num_runs: int | None) -> None:
        self._num_runs = num_runs
        self._runs = 0

    def count(self) -> None:
        """Count a run."""
        self._runs += 1

    def of_recording(self, times: RunTimes, uses: int) -> bool:
        """Whether recording pays for a kind of call with these run times and number of uses."""
        cost = _RECORD_SECONDS + _RECORD_RUNS * (times.mean or 0.0)
        return self._pays(times, uses, cost, _RECORD_SAVES)

    def of_compiling(self, times: RunTimes, uses: int) -> bool:
        """Whether compiling the recording pays, by the same rule."""
        return self._pays(times, uses, _COMPILE_SECONDS, _COMPILE_SAVES)

    def _pays(self, times: RunTimes, uses: int, cost: float, saved: float) -> bool:
        if times.mean is None:
            return False
        left = self._runs if self._num_runs is None else self._num_runs - self._runs
        return left * (uses / self._runs) * times.mean * saved > cost
