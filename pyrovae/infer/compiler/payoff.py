"""When it pays to record a step, and when to compile it; both cost seconds, and save time after.

The rule: the steps left, times the seconds of a step, times the part that is saved, are more than
the cost. What was measured, on two cores with torch 2.15 (milliseconds of a step of a 784-400-50
VAE, and of eight schools under an autoguide):

    ============  ========  ========  ========
                  program   recorded  compiled
    ============  ========  ========  ========
    batch 32      4.0       2.2       1.3
    batch 128     9.3       4.7       2.0
    eight schools 2.4       0.87      0.041
    ============  ========  ========  ========

Recording takes 2 s in a new process, of which torch's own imports are most, and after that the time
of some 50 runs of the program, as each operation costs more; compiling 10 to 20 s where inductor's
cache is empty, and 2 to 3 s where it has the graph.
"""

from dataclasses import dataclass

__all__ = ["Pace", "Payoff"]

_RECORD_SECONDS, _RECORD_RUNS, _RECORD_SAVES = 2.0, 50, 0.45
_COMPILE_SECONDS, _COMPILE_SAVES = 20.0, 0.4


@dataclass
class Pace:
    """How long runs of one kind take; the first, which warms up, does not count.

    Attributes:
        runs: how many there were.
        seconds: that all but the first took.
    """

    runs: int = 0
    seconds: float = 0.0

    def add(self, seconds: float) -> None:
        """One run more."""
        if self.runs:
            self.seconds += seconds
        self.runs += 1

    @property
    def mean(self) -> float | None:
        """Seconds a run, or None where it is too early to say."""
        return self.seconds / (self.runs - 1) if self.runs > 1 else None


class Payoff:
    """Whether the runs that are left will repay what it costs to make them faster.

    Where their number is not known, as many are expected as there have been: the seconds that are
    put in are then never more than a constant times those that it would have been best to put in.

    Arguments:
        num_runs: how many there will be, of all kinds of arguments; None if that is not known.
    """

    def __init__(self, num_runs: int | None) -> None:
        self._num_runs = num_runs
        self._runs = 0

    def count(self) -> None:
        """One run more."""
        self._runs += 1

    def of_recording(self, pace: Pace, uses: int) -> bool:
        """Whether to record what ran at this pace, for arguments met so many times."""
        cost = _RECORD_SECONDS + _RECORD_RUNS * (pace.mean or 0.0)
        return self._pays(pace, uses, cost, _RECORD_SAVES)

    def of_compiling(self, pace: Pace, uses: int) -> bool:
        """Whether to compile what was recorded, likewise."""
        return self._pays(pace, uses, _COMPILE_SECONDS, _COMPILE_SAVES)

    def _pays(self, pace: Pace, uses: int, cost: float, saved: float) -> bool:
        if pace.mean is None:
            return False
        left = self._runs if self._num_runs is None else self._num_runs - self._runs
        return left * (uses / self._runs) * pace.mean * saved > cost
