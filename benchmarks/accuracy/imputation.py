"""``python -m benchmarks.accuracy.imputation``: impute missing cells, compared with scikit-learn.

The script removes cells completely at random from tables that scikit-learn ships. It imputes them
with ``pyrovae.impute``, and with scikit-learn's mean, nearest-neighbour and iterative imputers (the
last one uses Bayesian ridge regression). All have default settings; the columns are standardised by
the observed cells.
"""

import json
from collections.abc import Callable
from pathlib import Path
from time import perf_counter
from typing import Any

import numpy as np
import pandas as pd
from cyclopts import run
from numpy.typing import NDArray
from rich.console import Console
from rich.table import Table
from sklearn.datasets import load_breast_cancer, load_diabetes, load_iris, load_wine
from sklearn.experimental import enable_iterative_imputer  # noqa: F401
from sklearn.impute import IterativeImputer, KNNImputer, SimpleImputer
from sklearn.preprocessing import StandardScaler

from pyrovae.tables.imputation import impute

TABLES: dict[str, Callable[[], Any]] = {
    "breast_cancer": lambda: load_breast_cancer(as_frame=True),
    "wine": lambda: load_wine(as_frame=True),
    "diabetes": lambda: load_diabetes(as_frame=True, scaled=False),
    "iris": lambda: load_iris(as_frame=True),
}
OTHERS: dict[str, Callable[[], Any]] = {
    "mean": SimpleImputer,
    "k-NN": KNNImputer,
    "iterative": lambda: IterativeImputer(random_state=0),
}
_OURS = "pyrovae"


def main(
    *tables: str,
    fractions: tuple[float, ...] = (0.1, 0.3, 0.5),
    num_masks: int = 5,
    level: float = 0.9,
    output: Path = Path("imputation.json"),
) -> None:
    """Impute, print a table and write it as JSON.

    Args:
        tables: names of the tables; all by default.
        fractions: fractions of cells to remove.
        num_masks: number of random masks per fraction; their seeds are 0, 1, ...
        level: nominal coverage of the intervals.
        output: path of the JSON file.
    """
    result_table = Table(
        title=f"RMSE on removed cells, in standard deviations of the column; means of {num_masks} "
        "masks ± s.e. pyrovae imputes posterior means; difference to the best of the others, "
        "paired by mask"
    )
    for column in ("table", "removed", _OURS, *OTHERS, "difference", f"covered, {level:.0%}", "s"):
        result_table.add_column(column, justify="left" if column == "table" else "right")
    record: dict[str, Any] = {"num_masks": num_masks, "level": level}
    verdicts: dict[str, list[str]] = {"ahead of": [], "level with": [], "behind": []}
    for name in tables or tuple(TABLES):
        truth = TABLES[name]().data.astype(float)
        for fraction in fractions:
            figures = [_evaluate_mask(truth, fraction, seed, level) for seed in range(num_masks)]
            frame = pd.DataFrame(figures)
            means, errors = frame.mean(), frame.sem()
            best = min(OTHERS, key=lambda other: means[other])
            difference = frame[_OURS] - frame[best]
            gain, error = difference.mean(), difference.sem()
            key = "level with" if abs(gain) < 2 * error else "ahead of" if gain < 0 else "behind"
            verdicts[key].append(f"{name} at {fraction:.0%} ({best})")
            record[f"{name}, {fraction}"] = {
                "means": means.to_dict(),
                "standard errors": errors.to_dict(),
                "best of the others": best,
                "difference": gain,
                "its standard error": error,
            }
            result_table.add_row(
                name,
                f"{fraction:.0%}",
                *(f"{means[each]:.3f} ± {errors[each]:.3f}" for each in (_OURS, *OTHERS)),
                f"{gain:+.3f} ± {error:.3f}",
                f"{means['coverage']:.3f} ± {errors['coverage']:.3f}",
                f"{means['seconds']:.0f}",
            )
            print(name, fraction, means.to_dict(), flush=True)
            output.write_text(json.dumps(record, indent=2) + "\n")
    console = Console(width=150)
    console.print(result_table)
    for verdict, where in verdicts.items():
        console.print(f"{verdict} the best of the others: {', '.join(where) or 'nowhere'}")


def _evaluate_mask(
    truth: pd.DataFrame, fraction: float, seed: int, level: float
) -> dict[str, float]:
    """Return the error of each imputer on one mask, and the coverage and seconds of pyrovae."""
    removed = np.random.default_rng(seed).random(truth.shape) < fraction
    table = truth.mask(removed)
    start = perf_counter()
    result = impute(table, level=level, seed=seed, progress=False)
    seconds = perf_counter() - start
    has_interval = removed & result.low.notna().to_numpy()
    x = truth.to_numpy()
    inside = (x >= result.low.to_numpy()) & (x <= result.high.to_numpy())
    scaler = StandardScaler().fit(table)
    errors = {_OURS: _rmse(x, result.mean.to_numpy(), removed)}
    for other, make_imputer in OTHERS.items():
        filled = scaler.inverse_transform(make_imputer().fit_transform(scaler.transform(table)))
        errors[other] = _rmse(x, filled, removed)
    return errors | {"coverage": float(inside[has_interval].mean()), "seconds": seconds}


def _rmse(x: NDArray[np.float64], filled: NDArray[np.float64], removed: NDArray[np.bool_]) -> float:
    """Root-mean-square error on removed cells, in standard deviations of the column."""
    return float(np.sqrt(np.square((filled - x) / x.std(0))[removed].mean()))


if __name__ == "__main__":
    run(main)
