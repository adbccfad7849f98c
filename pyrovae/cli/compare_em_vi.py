"""``pyrovae compare-em-vi``: a table on the console, and a directory of tables and pictures."""

from dataclasses import asdict, replace
from datetime import datetime
from math import isnan
from pathlib import Path

from rich.console import Console

from ..gmm import pictures
from ..gmm.compare import Comparison, Settings, compare, load_points
from ..runs.directory import RunDirectory
from ..runs.report import print_methods

__all__ = ["compare_em_vi", "write_pictures"]


def compare_em_vi(settings: Settings, output: Path | None, console: Console) -> Path:
    """Compare all methods, and write their results and every step to a directory.

    ::

        comparison.csv     one line per method: its final values
        iterations.csv     one line per step of each method
        settings.json      the settings of the comparison
        bounds.png         bound, log-likelihood and gap by step
        densities.png      p(x) and q(z | x) of EM and amortised VI
        gradient_variance.png
        motion.gif         an animation of EM and amortised VI on the same data

    Returns:
        The directory.

    Raises:
        InputError: before any work, if the data, the settings or the directory cannot be used.
    """
    name = Path(settings.data).stem
    path = output or Path("runs") / f"em-vi-{name}-{datetime.now():%Y%m%d-%H%M%S}"
    RunDirectory.refuse_used(path)
    points, num_components = load_points(settings)
    settings = replace(settings, num_components=num_components)
    run = RunDirectory.create(path)
    n, d = points.train.shape
    console.print(
        f"{points.name}: {n:,} training and {len(points.test):,} held-out data of {d} standardised "
        f"columns; {num_components} components, {settings.covariance_type} covariances",
        highlight=False,
        soft_wrap=True,
    )
    comparison = compare(settings)
    _write(run, comparison)
    print_methods([result.row() for result in comparison.results.values()], console)
    _explain(comparison, console)
    with console.status("drawing pictures"):
        write_pictures(run, comparison)
    shown = ", ".join(sorted(p.name for p in path.iterdir()))
    console.print(f"wrote to {path}: {shown}", soft_wrap=True)
    return path


def write_pictures(run: RunDirectory, comparison: Comparison) -> None:
    """Write ``bounds.png``, ``densities.png``, ``gradient_variance.png`` and ``motion.gif``."""
    run.write_figure("bounds", pictures.plot_bounds(comparison))
    run.write_figure("densities", pictures.plot_densities(comparison))
    run.write_figure("gradient_variance", pictures.plot_gradient_variances(comparison))
    run.write_animation("motion", pictures.animate_fits(comparison), pictures.FRAMES_PER_SECOND)


def _write(run: RunDirectory, comparison: Comparison) -> None:
    run.write_record("settings", asdict(comparison.settings))
    run.write_table("comparison", [result.row() for result in comparison.results.values()])
    steps = [
        {"method": name, **row}
        for name, result in comparison.results.items()
        if result.climb is not None
        for row in result.climb.rows()
    ]
    run.write_table("iterations", steps)


def _explain(comparison: Comparison, console: Console) -> None:
    lines = [
        "In nats per datum. log p: log-likelihood of the fitted mixture; for VB and NUTS, of the "
        "posterior predictive.",
        "gap = KL(q || p): log p(x; θ) minus the ELBO; for VB, log evidence minus the ELBO",
    ]
    evidence, error = comparison.log_evidence
    if isnan(evidence):
        lines[1] += ". The log evidence could not be estimated here."
    else:
        lines[1] += f". Log evidence: {evidence:.4f} ± {error:.4f} (importance sampling)."
    if comparison.points.train_labels is not None:
        lines.append("Rand: adjusted Rand index between components and classes, on training data.")
    for name, result in comparison.results.items():
        if result.climb is not None and result.climb.last.degenerate:
            components = ", ".join(map(str, result.climb.last.degenerate))
            lines.append(f"{name} ended with degenerate components: {components}.")
    for line in lines:
        console.print(line, highlight=False, soft_wrap=True)
