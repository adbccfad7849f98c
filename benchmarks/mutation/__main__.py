"""``python -m benchmarks.mutation``: change the package at random, and count what tests catch."""

from collections import Counter
from pathlib import Path

from cyclopts import App
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn
from rich.table import Table

from .search import Record, draw, read, search

app = App(name="python -m benchmarks.mutation", help_format="markdown")

_ROOT = Path(__file__).parents[2]
_WINGS = ("infer", "inverse", "gmm", "likelihoods")


@app.default
def main(
    *wings: str,
    num: int = 200,
    seed: int = 0,
    slow: bool = False,
    budget: float = 60.0,
    workers: int = 1,
    output: Path = Path("mutation.json"),
    resume: Path | None = None,
    again: bool = False,
) -> None:
    """Change the package in one place, run the tests that run this place, and repeat.

    A mutant is caught if a test fails, or the tests hang or crash; otherwise it survives. The
    result is written after each mutant, so that you can stop at any time, and go on with
    `--resume mutation.json`. The first call also runs all tests once, to find out which lines each
    of them runs; this takes minutes, and is kept beside the output. The checkout is not changed.

    Args:
        wings: folders or files in `pyrovae/`, such as `infer/pair`; infer, inverse, gmm and
            likelihoods by default.
        num: number of mutants, drawn from all with equal probability.
        seed: seed of the draw.
        slow: run slow tests too.
        budget: seconds of tests for each mutant; the tests nearest to the change come first.
        workers: number of processes, each with a copy of the checkout.
        output: path of the JSON file.
        resume: go on with the mutants in this file; wings, num and seed are those in it.
        again: with `--resume`, try its survivors again, on new tests or with `--slow`.
    """
    if resume:
        record, gone = read(_ROOT, resume)
        for mutant in gone:
            print(f"{mutant.path}:{mutant.line} has changed since then, and is left out")
    else:
        try:
            record = draw(_ROOT, wings or _WINGS, num, seed)
        except FileNotFoundError as error:
            raise SystemExit(str(error)) from error
    for number in record.survivors if again else ():
        del record.results[number]
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn())
    progress = Progress(*columns, TimeRemainingColumn())
    options = {"slow": slow, "budget": budget, "workers": workers}
    search(_ROOT, record, resume or output, progress=progress, **options)  # type: ignore[arg-type]
    _report(record)


def _report(record: Record) -> None:
    """Print the numbers of each wing, and the survivors."""
    console = Console()
    numbers = {False: Counter[str](), True: Counter[str]()}
    for number, result in record.results.items():
        numbers[result.caught][record.mutants[number].path.split("/")[1]] += 1
    table = Table("wing", "mutants", "survivors")
    for wing, total in sorted((numbers[True] + numbers[False]).items()):
        table.add_row(wing, str(total), str(numbers[False][wing]))
    table.add_row("all", str(len(record.results)), str(len(record.survivors)))
    console.print(table)
    for number in record.survivors:
        mutant, result = record.mutants[number], record.results[number]
        ran = f"{result.num_running} tests run this line, {result.num_tests} were tried"
        console.print(f"{mutant.path}:{mutant.line}: {mutant.kind}; {ran}", markup=False)
        console.print(f"    {mutant.before}\n    {mutant.after}", markup=False)


if __name__ == "__main__":
    app()
