"""Find the runs in a folder, and list them with their data, models and test figures."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table
from rich.text import Text

from ..errors import InputError
from ..likelihoods import Likelihood, Mixed
from .config import RunConfig
from .directory import RunDirectory
from .resolve import as_settings

__all__ = ["ListedRun", "find_runs", "print_runs"]

_DEPTH = 3
"""Runs are looked for in folders of a folder, so deep."""

_MOST = 1000
"""The largest number of runs that are listed."""


@dataclass(frozen=True)
class ListedRun:
    """What is known of a run from its text files.

    Attributes:
        path: its directory.
        config: its options.
        evaluation: its test results; None if it is not finished.
        fault: why it cannot be read; empty if it can.
    """

    path: Path
    config: RunConfig | None
    evaluation: Mapping[str, Any] | None = None
    fault: str = ""

    @property
    def elbo(self) -> tuple[float, float] | None:
        """The test ELBO and its standard error."""
        try:
            elbo = (self.evaluation or {})["elbo"]
            return float(elbo["mean"]), float(elbo["standard_error"])
        except (KeyError, TypeError, ValueError):
            return None

    @property
    def kind(self) -> str:
        """What the ELBO bounds."""
        return str((self.evaluation or {}).get("kind", ""))


def find_runs(folder: Path) -> list[ListedRun]:
    """The runs in a folder and in folders within it; the best of each data set first.

    Nothing but ``config.yaml`` and ``evaluation.json`` is read.

    Raises:
        InputError: if there is no such folder, or it holds no runs.
    """
    if not folder.is_dir():
        raise InputError(f"there is no folder {folder}; name the folder of your runs")
    found = []
    for path in _directories(folder, _DEPTH):
        found.append(_read(path))
        if len(found) == _MOST:
            break
    if not found:
        raise InputError(f"{folder} holds no runs of pyrovae train")
    return sorted(found, key=_order)


def print_runs(runs: list[ListedRun], folder: Path, console: Console) -> None:
    """Print a table of runs."""
    table = Table(box=None, padding=(0, 2, 0, 0), pad_edge=False)
    table.add_column("run", overflow="fold")
    table.add_column("data")
    table.add_column("model")
    table.add_column("likelihood")
    table.add_column("test ELBO", justify="right", no_wrap=True)
    table.add_column("bounds")
    for run in runs:
        name = str(run.path.relative_to(folder)) if run.path != folder else str(folder)
        if run.config is None:
            table.add_row(Text(name), Text(run.fault, style="italic"))
            continue
        elbo = run.elbo
        figure = "not finished" if elbo is None else f"{elbo[0]:.2f} ± {elbo[1]:.2f}"
        cells = (Path(run.config.data).name, _describe_model(run.config))
        likelihood = _describe_likelihood(run.config)
        table.add_row(Text(name), *map(Text, (*cells, likelihood, figure, run.kind)))
    console.print(table)
    if any(run.elbo is not None for run in runs):
        console.print(
            "test ELBO: nats per datum, with its standard error. Compare only runs on the same "
            "data whose ELBOs bound the same kind of quantity.",
            highlight=False,
            soft_wrap=True,
        )


def _directories(folder: Path, depth: int) -> Iterator[Path]:
    """Directories of runs, without those within a run."""
    if (folder / "config.yaml").is_file():
        yield folder
        return
    if depth == 0:
        return
    try:
        inside = sorted(each for each in folder.iterdir() if each.is_dir())
    except OSError:
        return
    for each in inside:
        if not each.is_symlink():
            yield from _directories(each, depth - 1)


def _read(path: Path) -> ListedRun:
    try:
        run = RunDirectory.open(path, "config.yaml")
        config = run.read_config()
        is_done = (path / "evaluation.json").is_file()
        return ListedRun(path, config, run.read_evaluation() if is_done else None)
    except InputError as error:
        return ListedRun(path, None, fault=str(error))


def _order(run: ListedRun) -> tuple[Any, ...]:
    data = "" if run.config is None else Path(run.config.data).name
    elbo = run.elbo
    return (run.config is None, data, elbo is None, run.kind, -(elbo or (0.0, 0.0))[0], run.path)


def _describe_model(config: RunConfig) -> str:
    parts = [as_settings(config.model)["name"]]
    parts += [
        f"{as_settings(each)['name']} {what}"
        for what, each in (("prior", config.prior), ("q", config.posterior))
        if each is not None
    ]
    return ", ".join(map(str, parts))


def _describe_likelihood(config: RunConfig) -> str:
    if config.likelihood is None:
        return ""
    likelihood = Likelihood.of(config.likelihood)
    return "Mixed" if isinstance(likelihood, Mixed) else likelihood.family.name
