"""Options that several commands share."""

from pathlib import Path
from typing import Annotated

from cyclopts import Parameter

__all__ = ["Data", "Device", "Key", "Output", "Overwrite", "Run", "Seed"]

Run = Annotated[Path, Parameter(help="Directory of a run of pyrovae train.")]
Device = Annotated[str | None, Parameter(help="As in pyrovae train. Default: that of the run.")]
Data = Annotated[
    str | None,
    Parameter(
        help="New data: a .csv, .parquet, .npy or .npz file, or the name of a data set. Columns "
        "are matched by name. Default: the test data of the run."
    ),
]
Key = Annotated[
    str | None,
    Parameter(
        name="--id", help="Column of the table that identifies each row, kept in the output."
    ),
]
Output = Annotated[
    Path, Parameter(help="File to write; its name ends in .csv, .parquet, .npy or .npz.")
]
Overwrite = Annotated[bool, Parameter(help="Replace output files that exist already.", negative=())]
Seed = Annotated[int, Parameter(help="Seed of all draws.")]
