"""Write results with one row for each datum, as the name of the file says."""

import io
import json
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ...errors import InputError, error_reason
from ...storage import atomic

__all__ = ["JSON", "OUTPUTS", "Output", "Target"]

OUTPUTS = (".csv", ".parquet", ".npy", ".npz")
"""Ends of the names of files that results can be written to."""

JSON = (".json",)


@dataclass
class Output:
    """Results for each datum, as columns of a table and as arrays.

    Attributes:
        columns: the columns of a table, in order.
        arrays: the arrays of a ``.npz``.
        main: the array that stands alone in a ``.npy``.
    """

    main: str
    columns: dict[str, Any] = field(default_factory=dict)
    arrays: dict[str, NDArray[Any]] = field(default_factory=dict)

    def add(self, name: str, values: NDArray[Any], names: list[str] | None = None) -> None:
        """Add a result: an array, and a column for each number of a datum.

        Arguments:
            name: name of the array, and of the column if there is one number for each datum.
            values: the results, with data along the first dimension.
            names: names of the columns, if there are several.
        """
        self.arrays[name] = values
        rows = values.reshape(len(values), -1)
        for place, column in enumerate(names or [name]):
            self.add_column(column, rows[:, place])

    def add_column(self, name: str, values: Any) -> None:
        """Add a column alone.

        Raises:
            InputError: if there is one of this name.
        """
        if name in self.columns:
            raise InputError(
                f"two columns of the output would be called {name!r}; rename that of the data, or "
                "write a .npz"
            )
        self.columns[name] = values


class Target:
    """A file to write results to, which is checked before any work.

    Arguments:
        path: the file.
        overwrite: whether to replace a file that is there.
        inputs: files that must not be replaced.
        ends: what its name may end in.

    Raises:
        InputError: if its name says no known format, or it cannot be written to.
    """

    def __init__(
        self,
        path: Path,
        overwrite: bool = False,
        *inputs: Path,
        ends: tuple[str, ...] = OUTPUTS,
    ) -> None:
        self.path = path
        self.suffix = path.suffix.lower()
        if self.suffix not in ends:
            raise InputError(
                f"{path} does not say what to write; end its name in {', '.join(ends)}"
            )
        if self.suffix == ".parquet":
            _polars()
        try:
            if any(path.exists() and each.exists() and path.samefile(each) for each in inputs):
                raise InputError(f"{path} is the file of the data; give another --output")
            if path.is_dir():
                raise InputError(f"{path} is a folder; give the name of a file as --output")
            if path.exists() and not overwrite:
                raise InputError(f"{path} exists already; give another --output, or --overwrite")
            with tempfile.TemporaryFile(dir=path.parent):
                pass
        except OSError as error:
            raise InputError(f"cannot write to {path}: {error_reason(error)}") from error

    def write(self, output: Output) -> None:
        """Write results completely or not at all.

        Raises:
            InputError: if the file cannot be written.
        """
        self._write(self._as_bytes(output))

    def write_record(self, record: Mapping[str, Any]) -> None:
        """Write a record as JSON.

        Raises:
            InputError: if the file cannot be written.
        """
        self._write((json.dumps(record, indent=2) + "\n").encode())

    def _write(self, data: bytes) -> None:
        try:
            atomic.write(self.path, data)
        except OSError as error:
            raise InputError(f"cannot write to {self.path}: {error_reason(error)}") from error

    def _as_bytes(self, output: Output) -> bytes:
        data = io.BytesIO()
        if self.suffix == ".npy":
            np.save(data, output.arrays[output.main], allow_pickle=False)
        elif self.suffix == ".npz":
            arrays: Mapping[str, Any] = {k: _as_plain(v) for k, v in output.arrays.items()}
            np.savez_compressed(data, allow_pickle=False, **arrays)
        elif self.suffix == ".parquet":
            polars = _polars()
            columns = {name: list(values) for name, values in output.columns.items()}
            polars.DataFrame(columns, strict=False).write_parquet(data)
        else:
            import pandas as pd

            table = pd.DataFrame(output.columns)
            return table.to_csv(index=False, float_format="%.9g").encode()
        return data.getvalue()


def _as_plain(values: NDArray[Any]) -> NDArray[Any]:
    """An array without Python objects, which cannot be kept safely: words become text."""
    return values.astype(str) if values.dtype == object else values


def _polars() -> Any:
    try:
        import polars
    except ImportError as error:
        raise InputError(
            "writing .parquet needs polars; install it with: pip install 'pyrovae[parquet]'"
        ) from error
    return polars
