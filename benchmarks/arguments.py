"""``python -m benchmarks.arguments``: call the public Python functions with nonsense.

Each call is a valid one in which one or two arguments are replaced by values of a pool: None, truth
values, numbers that are too large or not finite, arrays and tensors of all types and shapes,
frames, objects, functions that return nonsense. A call passes if it succeeds, or ends in an
``InputError`` of one line; or in a ``FloatingPointError`` where training diverges. A call that does
not pass is printed, so that you can make it again.
"""

import os
import resource
from collections import Counter
from time import perf_counter

import hypothesis
import torch
from cyclopts import run
from hypothesis import HealthCheck, Phase, given, settings

from .fuzz.call_harness import NonsenseCall, Result, make_call, nonsense_calls
from .fuzz.calls import CALLS

_MEMORY = 8 * 2**30
"""Bytes of address space that calls may use in addition to what the process has at the start."""

_COLUMNS = ("tried", "success", "refused", "not finite")


def main(*, num: int = 1000, seed: int = 0, only: str = "", verbose: bool = False) -> None:
    """Make the calls, and print a table of how they ended, by function.

    Args:
        num: number of calls.
        seed: seed of the generated calls.
        only: call only the functions whose names contain this.
        verbose: whether to print the traceback of each call that does not pass.
    """
    torch.set_num_threads(1)
    _limit_memory()
    start = perf_counter()
    rows: dict[str, Counter[str]] = {}
    slowest = (0.0, "")

    @hypothesis.seed(seed)
    @settings(
        max_examples=num,
        deadline=None,
        database=None,
        phases=[Phase.generate],
        suppress_health_check=list(HealthCheck),
    )
    @given(nonsense_calls().filter(lambda case: only in case.name))
    def call_one(case: NonsenseCall) -> None:
        nonlocal slowest
        begin = perf_counter()
        result = make_call(case)
        slowest = max(slowest, (perf_counter() - begin, f"{case.name}({dict(case.replaced)})"))
        count = rows.setdefault(case.name, Counter())
        count["tried"] += 1
        count[result.kind] += 1
        if not result.is_good:
            _report(case, result, verbose)

    call_one()
    _print_table(rows)
    total: Counter[str] = sum(rows.values(), Counter())
    num_called = len(rows)
    print(
        f"{num_called} of {len(CALLS)} functions; the slowest call took {slowest[0]:.1f} s: "
        f"{slowest[1]}; seed {seed}, {perf_counter() - start:.0f} s"
    )
    if total["tried"] > sum(total[kind] for kind in _COLUMNS[1:]):
        raise SystemExit("some calls did not pass; they are printed above")


def _limit_memory() -> None:
    """Let an allocation that is far too large fail, rather than use up the machine."""
    with open("/proc/self/statm") as file:  # noqa: PTH123
        used = int(file.read().split()[0]) * os.sysconf("SC_PAGE_SIZE")
    _, hard = resource.getrlimit(resource.RLIMIT_AS)
    resource.setrlimit(resource.RLIMIT_AS, (used + _MEMORY, hard))


def _report(case: NonsenseCall, result: Result, verbose: bool) -> None:
    print(f"{result.kind}: {case.name}({dict(case.replaced)}): {result.text[:200]!a}", flush=True)
    if verbose:
        print(result.traceback, flush=True)


def _print_table(rows: dict[str, Counter[str]]) -> None:
    others = sorted({kind for row in rows.values() for kind in row} - set(_COLUMNS))
    columns = (*_COLUMNS, *others)
    print(f"{'':42}" + "".join(f"{column:>12}" for column in columns))
    total: Counter[str] = sum(rows.values(), Counter())
    for name, row in [*sorted(rows.items()), ("total", total)]:
        print(f"{name:42}" + "".join(f"{row[column]:12,}" for column in columns))


if __name__ == "__main__":
    run(main)
