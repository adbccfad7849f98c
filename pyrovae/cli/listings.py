"""Commands that list: likelihoods, other parts of a model, and runs."""

from pathlib import Path
from typing import Annotated

from cyclopts import Parameter

from .commands import app, make_console

__all__ = ["likelihoods", "parts", "runs"]


@app.command
def likelihoods() -> None:
    """List the likelihoods with the values they allow, their arguments and defaults."""
    from ..runs.report import print_likelihoods

    print_likelihoods(make_console())


@app.command
def parts() -> None:
    """List the models, priors, posteriors, inferences and objectives with their settings."""
    from ..runs.report import print_parts

    print_parts(make_console())


@app.command
def runs(
    folder: Annotated[Path, Parameter(help="Folder of run directories.")] = Path("runs"),
    /,
) -> None:
    """List the runs in a folder with their data, models and test ELBOs, the best of each first."""
    from ..runs.listing import find_runs, print_runs

    print_runs(find_runs(folder), folder, make_console())
