"""The files of a run: text and safetensors, each written completely or not at all.

::

    RUN/config.yaml        the resolved options
    RUN/metrics.csv        one line per epoch
    RUN/times.csv          the seconds of each epoch
    RUN/description.json   how to build the model, and what its data are
    RUN/model.safetensors  the weights
    RUN/checkpoint/        states of training, to continue from
    RUN/evaluation.json    test results, with their protocol
    RUN/*.png              pictures
"""

import csv
import io
import json
import os
import tempfile
from collections.abc import Iterable, Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from torch import nn

from ..errors import InputError, error_reason, short_repr
from ..storage import atomic, weights
from .config import RunConfig, read_config, to_yaml

__all__ = ["RunDirectory"]

_CLOCK = "seconds"

_MAX_CLASHES = 1000
"""The largest number of runs that start in one second, and more."""

_TRAINING_FILES = (
    "config.yaml",
    "metrics.csv",
    "times.csv",
    "description.json",
    "model.safetensors",
    "evaluation.json",
    "training.png",
)
"""Files that training writes."""


def _invalid_name(path: Path) -> InputError:
    return InputError(
        f"{short_repr(str(path))} cannot be a name of a folder; give another --output"
    )


class RunDirectory:
    """A run directory, new or from an earlier run.

    Each write replaces a file completely. A write that fails leaves the old file as it was, and
    raises an ``InputError`` that says why.

    Arguments:
        path: the directory.
    """

    def __init__(self, path: Path) -> None:
        self.path = path

    @classmethod
    def create_free(cls, path: Path) -> "RunDirectory":
        """Create a directory for a new run at a path, or at PATH-2, PATH-3 and so on if it is used.

        Runs that start at the same time get different directories.

        Raises:
            InputError: if the path cannot be written to.
        """
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            for number in range(1, _MAX_CLASHES):
                free = path if number == 1 else path.with_name(f"{path.name}-{number}")
                with suppress(FileExistsError):
                    free.mkdir()
                    return cls.create(free)
        except OSError as error:
            raise InputError(f"cannot write to {path}: {error_reason(error)}") from error
        raise InputError(f"{path} and others of this name exist already; give --output")

    @staticmethod
    def refuse_used(path: Path) -> None:
        """Check that a new run can use this path, without creating anything.

        Raises:
            InputError: if there is something already, or the path is not a valid name.
        """
        try:
            if b"\0" in os.fsencode(path):
                raise _invalid_name(path)
            is_used = path.exists() and not (path.is_dir() and not any(path.iterdir()))
            is_used = is_used or (path.is_symlink() and not path.exists())
        except UnicodeEncodeError as error:
            raise _invalid_name(path) from error
        except OSError as error:
            raise InputError(f"cannot write to {path}: {error_reason(error)}") from error
        if is_used:
            raise InputError(f"{path} exists already; give another --output, or move it away")

    @classmethod
    def create(cls, path: Path) -> "RunDirectory":
        """Create a directory for a new run.

        Raises:
            InputError: if the path is in use, or cannot be written to.
        """
        cls.refuse_used(path)
        try:
            path.mkdir(parents=True, exist_ok=True)
            with tempfile.TemporaryFile(dir=path):
                pass
        except OSError as error:
            raise InputError(f"cannot write to {path}: {error_reason(error)}") from error
        return cls(path)

    @classmethod
    def open(cls, path: Path, *needed: str) -> "RunDirectory":
        """Open the directory of an earlier run.

        Links are refused, because they may lead to files outside the run.

        Arguments:
            path: the directory.
            needed: files that must be there; by default the options and the weights.

        Raises:
            InputError: if one of these files is missing or a link.
        """
        for name in needed or ("config.yaml", "model.safetensors"):
            try:
                is_there = (path / name).is_file()
            except OSError as error:
                raise InputError(f"cannot read {path / name}: {error_reason(error)}") from error
            if not is_there:
                raise InputError(f"{path} is not a run directory: it holds no {name}")
            if (path / name).is_symlink():
                raise InputError(f"{path / name} is a link; replace it by the file itself")
        for each in path.iterdir():
            if each.name in _TRAINING_FILES and each.is_dir():
                raise InputError(f"{each} is a folder where a run keeps a file; move it away")
        return cls(path)

    def write_config(self, config: RunConfig) -> None:
        """Write the resolved options as ``config.yaml``, without the path of this directory.

        So equal runs write equal options, and another run can use the file as it is.
        """
        config = config.model_copy(update={"output": None})
        self._write("config.yaml", to_yaml(config).encode())

    def read_config(self) -> RunConfig:
        """Read the options of the run, with ``download`` off.

        A run may come from someone else, and must not cause downloads on this machine.
        """
        try:
            return read_config(self.path / "config.yaml", {"download": False})
        except InputError as error:
            raise InputError(f"{error}{weights.describe_versions(self._weights)}") from None

    def write_metrics(self, rows: Iterable[Mapping[str, Any]]) -> None:
        """Write ``metrics.csv``, with one row per epoch, and what clocks measured as ``times.csv``.

        So equal runs write equal metrics.
        """
        rows = list(rows)
        times = [{key: row[key] for key in ("epoch", _CLOCK)} for row in rows if _CLOCK in row]
        metrics = [{key: each for key, each in row.items() if key != _CLOCK} for row in rows]
        self.write_table("metrics", metrics)
        if times:
            self.write_table("times", times)

    def write_table(self, name: str, rows: Iterable[Mapping[str, Any]]) -> None:
        """Write rows with the same columns as ``NAME.csv``."""
        rows = list(rows)
        text = io.StringIO()
        writer = csv.DictWriter(text, fieldnames=list(rows[0]), lineterminator="\n")
        writer.writeheader()
        writer.writerows(rows)
        self._write(f"{name}.csv", text.getvalue().encode())

    def write_evaluation(self, evaluation: Mapping[str, Any]) -> None:
        """Write test results as ``evaluation.json``."""
        self.write_record("evaluation", evaluation)

    def write_record(self, name: str, record: Mapping[str, Any]) -> None:
        """Write a record as ``NAME.json``."""
        self._write(f"{name}.json", (json.dumps(record, indent=2) + "\n").encode())

    def read_evaluation(self) -> dict[str, Any]:
        """Read the test results of the run.

        Raises:
            InputError: if they cannot be read.
        """
        path = self.path / "evaluation.json"
        try:
            evaluation = json.loads(path.read_text(encoding="utf-8"))
        except (OSError, ValueError, RecursionError) as error:
            raise InputError(f"{path} cannot be read: {error_reason(error)}") from error
        if not isinstance(evaluation, dict):
            raise InputError(f"{path} holds no test results; run pyrovae evaluate again")
        return evaluation

    def write_weights(self, module: nn.Module, metadata: Mapping[str, Any]) -> None:
        """Write the weights, with metadata that is needed to build the module again."""
        weights.write(self._weights, module, metadata)

    def read_metadata(self, *names: str) -> list[Any]:
        """Read metadata that was written with the weights.

        Raises:
            InputError: if the file is damaged, or lacks one of the names.
        """
        return weights.read_metadata(self._weights, *names)

    def weights_size(self) -> int:
        """Bytes of the file of weights.

        Raises:
            InputError: if it cannot be read.
        """
        return weights.size(self._weights)

    def read_weights(self, module: nn.Module) -> None:
        """Load the weights into a module of the same structure.

        Raises:
            InputError: if the file is damaged, or holds weights of another model, or numbers that
                are not finite.
        """
        weights.read(self._weights, module, "config.yaml")

    def write_arrays(self, name: str, **arrays: NDArray[Any]) -> None:
        """Write arrays as ``NAME.npz``."""
        data = io.BytesIO()
        np.savez_compressed(data, **arrays)  # type: ignore[arg-type]
        self._write(f"{name}.npz", data.getvalue())

    def write_figure(self, name: str, figure: Any) -> None:
        """Write a figure as ``NAME.png``."""
        data = io.BytesIO()
        figure.savefig(data, format="png", dpi=150, bbox_inches="tight")
        self._write(f"{name}.png", data.getvalue())

    def write_animation(self, name: str, animation: Any, frames_per_second: int) -> None:
        """Write an animation as ``NAME.gif``."""
        from matplotlib.animation import PillowWriter

        with tempfile.TemporaryDirectory() as folder:
            path = Path(folder) / "animation.gif"
            animation.save(path, writer=PillowWriter(fps=frames_per_second))
            self._write(f"{name}.gif", path.read_bytes())

    @property
    def _weights(self) -> Path:
        return self.path / "model.safetensors"

    def _write(self, name: str, data: bytes) -> None:
        try:
            atomic.write(self.path / name, data)
        except OSError as error:
            raise InputError(f"cannot write {self.path / name}: {error_reason(error)}") from error
