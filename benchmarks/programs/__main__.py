"""``python -m benchmarks.programs``: compare programs under our SVI and under Pyro's."""

import json
from dataclasses import asdict
from pathlib import Path
from typing import Annotated

from cyclopts import App, Parameter
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from .compare import Comparison
from .families import load_all
from .program import PROGRAMS
from .workers import compare_each

app = App(name="python -m benchmarks.programs", help_format="markdown")

_COLUMNS = ("program", "records", "graphs", "loss", "parameters", "Pyro (ms)", "ours / Pyro")
_WIDTHS = (46, 7, 7, 9, 10, 10, 11)
_LONGEST = 160
"""Longest reason in the table; the JSON file has all of it."""


@app.default
def main(
    *,
    steps: int = 50,
    compile: Annotated[
        bool, Parameter(name="--compile", negative=["--no-compile", "--replay"])
    ] = True,
    word: Annotated[str, Parameter(name=["--word", "-k"])] = "",
    limit: float = 300.0,
    jobs: int = 1,
    output: Path | None = None,
    markdown: bool = False,
) -> None:
    """Train each program with Pyro's SVI and with ours, and print how they compare.

    Both begin with the same seed and compute in double precision. The differences of losses, and of
    parameters after the last step, are relative to 1 or the larger value. Times are medians of
    steps taken in turns in one process.

    Args:
        steps: number of steps of each program.
        compile: whether recorded steps are compiled, which takes 10 to 20 s each; otherwise the
            recorded operations run one by one.
        word: compare only the programs whose names contain it.
        limit: seconds after which a program is given up.
        jobs: number of programs at a time; with more than one, times are of a busy machine.
        output: path of a JSON file for the results, written after each program.
        markdown: whether to print a table in Markdown.
    """
    load_all()
    chosen = [each for name, each in PROGRAMS.items() if word.lower() in name.lower()]
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn())
    console = Console(stderr=True)
    results: list[Comparison] = []
    with Progress(*columns, TimeRemainingColumn(), console=console) as progress:
        task = progress.add_task("programs", total=len(chosen))
        for result in compare_each(chosen, steps, compile, limit, jobs):
            results.append(result)
            progress.update(task, advance=1, description=result.name)
            if output is not None:
                output.write_text(json.dumps([asdict(each) for each in results], indent=2) + "\n")
    order = {each.name: place for place, each in enumerate(chosen)}
    results.sort(key=lambda each: order[each.name])
    print(_as_markdown(results) if markdown else _as_text(results))
    num = sum(each.records for each in results)
    share = 100 * num / len(results) if results else 0.0
    print(f"{num} of {len(results)} record ({share:.0f} per cent)")


def _cells(result: Comparison) -> list[str]:
    """The cells of a row."""
    return [
        result.name,
        "yes" if result.records else "no",
        f"{result.num_graphs[0]}, {result.num_graphs[1]}",
        _format(result.loss_difference, ".0e"),
        _format(result.parameter_difference, ".0e"),
        _format(result.milliseconds, ".2f"),
        _format(result.ratio, ".2f"),
    ]


def _remark(result: Comparison) -> str:
    """Why steps are not recorded, or where a difference is from."""
    if result.rounding is not None:
        return (
            f"rounding: Pyro's parameters differ by {result.rounding:.0e} if their last digit does"
        )
    return result.reason[:_LONGEST]


def _format(value: float | None, spec: str) -> str:
    return "" if value is None else f"{value:{spec}}"


def _as_text(results: list[Comparison]) -> str:
    lines = []
    for cells in [list(_COLUMNS), *map(_cells, results)]:
        first, *rest = zip(cells, _WIDTHS, strict=True)
        lines.append(
            f"{first[0]:{first[1]}}" + "".join(f" {cell:>{width}}" for cell, width in rest)
        )
    by_name = {each.name: _remark(each) for each in results if _remark(each)}
    return "\n".join([*lines, *(f"{name}: {reason}" for name, reason in by_name.items())])


def _as_markdown(results: list[Comparison]) -> str:
    rows = [[*_cells(each), _remark(each).replace("|", "\\|")] for each in results]
    heads = [*_COLUMNS, "remark"]
    lines = [heads, ["---"] * len(heads), *rows]
    return "\n".join("| " + " | ".join(cells) + " |" for cells in lines)


if __name__ == "__main__":
    app()
