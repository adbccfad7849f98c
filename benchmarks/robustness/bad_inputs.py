"""``python -m benchmarks.robustness.bad_inputs``: thousands of wrong inputs, and their ends.

Each is a command line in a folder of its own, in this process. It has ended well if it was a
success, or was refused in one line on standard error with exit code 2, and nothing was lost: what
was there is as it was, to the byte, and nothing new is half written. Options that are possible,
and with which a loss becomes NaN, end in one line that says so, and are counted by themselves
("diverged"). What has not is printed whole,
so that it can be run again.
"""

import json
import os
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from time import perf_counter

import hypothesis
import torch
from cyclopts import run
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis.strategies import SearchStrategy

from ..fuzz.arrays import array_files
from ..fuzz.full_disks import full_disks
from ..fuzz.harness import Case, Outcome, run_case
from ..fuzz.options import command_lines, part_settings, yaml_options, yaml_texts
from ..fuzz.paths import unusual_paths
from ..fuzz.run_directories import corrupted_runs
from ..fuzz.tables import tables_to_impute, tables_to_train_on

KINDS: dict[str, Callable[[], SearchStrategy[Case]]] = {
    "YAML text": yaml_texts,
    "options in YAML": yaml_options,
    "command lines": command_lines,
    "declared parts": part_settings,
    "arrays": array_files,
    "tables, train": tables_to_train_on,
    "tables, impute": tables_to_impute,
    "run directories": corrupted_runs,
    "places": unusual_paths,
    "full disks": full_disks,
}

_COLUMNS = ("tried", "success", "refused", "diverged", "anything else", "lost something")


def main(
    *,
    num: int = 500,
    seed: int = 0,
    only: str | None = None,
    output: Path = Path("bad_inputs.json"),
) -> None:
    """Try, count, print the table, and write it as JSON.

    Args:
        num: of each kind.
        seed: of the choice.
        only: one kind alone.
        output: where to write.
    """
    torch.set_num_threads(1)
    start = perf_counter()
    rows: dict[str, Counter[str]] = {}
    print(f"{'':16}" + "".join(f"{column:>15}" for column in _COLUMNS))
    for kind, strategy in KINDS.items():
        if only in (None, kind):
            rows[kind] = _tried(strategy(), num, seed)
            _print(kind, rows[kind])
    total: Counter[str] = sum(rows.values(), Counter())
    _print("total", total)
    record = {
        "rows": {kind: {each: row[each] for each in _COLUMNS} for kind, row in rows.items()},
        "total": {each: total[each] for each in _COLUMNS},
        "seed": seed,
        "seconds": round(perf_counter() - start),
        "torch": torch.__version__,
        "hypothesis": hypothesis.__version__,
        "cores": os.cpu_count(),
    }
    print(f"seed {seed}, {record['seconds']} s")
    output.write_text(json.dumps(record, indent=2) + "\n")
    if total["anything else"] or total["lost something"]:
        raise SystemExit("some did not end well")


def _tried(strategy: SearchStrategy[Case], num: int, seed: int) -> Counter[str]:
    """How so many of a kind ended."""
    count: Counter[str] = Counter()

    @hypothesis.seed(seed)
    @settings(
        max_examples=num,
        deadline=None,
        database=None,
        phases=[Phase.generate],
        suppress_health_check=list(HealthCheck),
    )
    @given(strategy)
    def one(attempt: Case) -> None:
        ending = run_case(attempt)
        count[_end(ending)] += 1
        count["tried"] += 1
        count["lost something"] += bool(ending.lost)
        if not ending.is_good:
            print(f"{attempt.arguments}\n{dict(attempt.tree)}\n{ending}", flush=True)

    one()
    return count


def _end(ending: Outcome) -> str:
    if ending.code == 0:
        return "success"
    if ending.is_divergence:
        return "diverged"
    return "refused" if ending.is_refusal else "anything else"


def _print(kind: str, row: Counter[str]) -> None:
    print(f"{kind:16}" + "".join(f"{row[column]:15,}" for column in _COLUMNS), flush=True)


if __name__ == "__main__":
    run(main)
