"""``python -m benchmarks.robustness.bad_inputs``: fuzz the command line with invalid input.

Each case is a command line that runs in this process, in a temporary folder. A case passes if the
command succeeds, or ends with one line on standard error and exit code 2, and nothing is lost:
existing files are unchanged to the byte, and no new file is partially written. Valid options with
which a loss becomes NaN end with one line that says so; they pass, and the column "diverged" counts
them. A case that does not pass is printed in full, so that you can run it again.
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
    """Run the cases, print a table of how they ended, and write it as JSON.

    Args:
        num: number of cases of each kind.
        seed: seed of the generated cases.
        only: run a single kind of case; all kinds by default.
        output: path of the JSON file.
    """
    torch.set_num_threads(1)
    start = perf_counter()
    rows: dict[str, Counter[str]] = {}
    print(f"{'':16}" + "".join(f"{column:>15}" for column in _COLUMNS))
    for kind, strategy in KINDS.items():
        if only in (None, kind):
            rows[kind] = _count_outcomes(strategy(), num, seed)
            _print_row(kind, rows[kind])
    total: Counter[str] = sum(rows.values(), Counter())
    _print_row("total", total)
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
        raise SystemExit("some cases did not pass; they are printed above")


def _count_outcomes(strategy: SearchStrategy[Case], num: int, seed: int) -> Counter[str]:
    """Run cases of one kind and count how they ended."""
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
    def run_one(case: Case) -> None:
        outcome = run_case(case)
        count[_classify(outcome)] += 1
        count["tried"] += 1
        count["lost something"] += bool(outcome.lost)
        if not outcome.is_good:
            print(f"{case.arguments}\n{dict(case.tree)}\n{outcome}", flush=True)

    run_one()
    return count


def _classify(outcome: Outcome) -> str:
    if outcome.code == 0:
        return "success"
    if outcome.is_divergence:
        return "diverged"
    return "refused" if outcome.is_refusal else "anything else"


def _print_row(kind: str, row: Counter[str]) -> None:
    print(f"{kind:16}" + "".join(f"{row[column]:15,}" for column in _COLUMNS), flush=True)


if __name__ == "__main__":
    run(main)
