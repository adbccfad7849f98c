"""What a run keeps on disk: text and safetensors, written whole or not at all.

::

    RUN/config.yaml        the resolved options
    RUN/metrics.csv        one line an epoch
    RUN/model.safetensors  the weights
    RUN/checkpoint/        states of training, from which it can go on
    RUN/evaluation.json    test figures, with the protocol that gave them
    RUN/*.png              pictures
"""

import csv
import io
import json
import tempfile
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import safetensors
import safetensors.torch
from numpy.typing import NDArray
from torch import nn

from . import atomic
from .config import RunConfig, read_config, to_yaml
from .errors import InputError

__all__ = ["RunDirectory"]


class RunDirectory:
    """A run directory, new or from a finished run.

    Arguments:
        path: the directory.
    """

    def __init__(self, path: Path) -> None:
        self.path = path

    @staticmethod
    def refuse_used(path: Path) -> None:
        """Make sure that a new run may go to this path, without making anything.

        Raises:
            InputError: if there is something already.
        """
        if path.exists() and not (path.is_dir() and not any(path.iterdir())):
            raise InputError(f"{path} is there already; give another --output, or move it away")

    @classmethod
    def create(cls, path: Path) -> "RunDirectory":
        """A new directory for a run.

        Raises:
            InputError: if something is there already, or it cannot be written to.
        """
        cls.refuse_used(path)
        try:
            path.mkdir(parents=True, exist_ok=True)
            with tempfile.TemporaryFile(dir=path):
                pass
        except OSError as error:
            raise InputError(f"cannot write to {path}: {error.strerror or error}") from error
        return cls(path)

    @classmethod
    def open(cls, path: Path, *needed: str) -> "RunDirectory":
        """The directory of a run that was trained.

        Arguments:
            path: the directory.
            needed: files without which it is of no use; options and weights unless given.

        Raises:
            InputError: if it holds no run.
        """
        for name in needed or ("config.yaml", "model.safetensors"):
            if not (path / name).is_file():
                raise InputError(f"{path} is no run directory: it holds no {name}")
        return cls(path)

    def write_config(self, config: RunConfig) -> None:
        """Keep the resolved options."""
        self._write("config.yaml", to_yaml(config).encode())

    def read_config(self) -> RunConfig:
        """The options that the run was made with."""
        return read_config(self.path / "config.yaml", {})

    def write_metrics(self, rows: Iterable[Mapping[str, Any]]) -> None:
        """Keep one line an epoch."""
        self.write_table("metrics", rows)

    def write_table(self, name: str, rows: Iterable[Mapping[str, Any]]) -> None:
        """Keep rows of the same columns as ``NAME.csv``."""
        rows = list(rows)
        text = io.StringIO()
        writer = csv.DictWriter(text, fieldnames=list(rows[0]), lineterminator="\n")
        writer.writeheader()
        writer.writerows(rows)
        self._write(f"{name}.csv", text.getvalue().encode())

    def write_evaluation(self, evaluation: Mapping[str, Any]) -> None:
        """Keep test figures."""
        self.write_record("evaluation", evaluation)

    def write_record(self, name: str, record: Mapping[str, Any]) -> None:
        """Keep figures and words as ``NAME.json``."""
        self._write(f"{name}.json", (json.dumps(record, indent=2) + "\n").encode())

    def read_evaluation(self) -> dict[str, Any]:
        """The test figures that the run ended with."""
        evaluation: dict[str, Any] = json.loads((self.path / "evaluation.json").read_text())
        return evaluation

    def write_weights(self, module: nn.Module, metadata: Mapping[str, Any]) -> None:
        """Keep the weights, and with them what is needed to build the module anew."""
        tensors = {name: t.detach().cpu().contiguous() for name, t in module.state_dict().items()}
        text = {key: json.dumps(value) for key, value in metadata.items()}
        self._write("model.safetensors", safetensors.torch.save(tensors, text))

    def read_metadata(self, *names: str) -> list[Any]:
        """What was kept beside the weights under these names.

        Raises:
            InputError: if the file is damaged or holds no such thing.
        """
        try:
            with safetensors.safe_open(self._weights, framework="pt") as file:
                texts = file.metadata() or {}
            return [json.loads(texts[name]) for name in names]
        except (OSError, ValueError, KeyError, safetensors.SafetensorError) as error:
            raise InputError(f"{self._weights} is damaged, or of no run: {error}") from error

    def read_weights(self, module: nn.Module) -> None:
        """Load the weights into a module of the same make.

        Raises:
            InputError: if the file is damaged, or holds the weights of another model.
        """
        try:
            module.load_state_dict(safetensors.torch.load_file(self._weights))
        except (OSError, RuntimeError, safetensors.SafetensorError) as error:
            reason = " ".join(str(error).split())[:200]
            raise InputError(f"{self._weights} does not fit its config.yaml: {reason}") from error

    def write_arrays(self, name: str, **arrays: NDArray[Any]) -> None:
        """Keep arrays as ``NAME.npz``."""
        data = io.BytesIO()
        np.savez_compressed(data, **arrays)  # type: ignore[arg-type]
        self._write(f"{name}.npz", data.getvalue())

    def write_figure(self, name: str, figure: Any) -> None:
        """Keep a picture as ``NAME.png``."""
        data = io.BytesIO()
        figure.savefig(data, format="png", dpi=150, bbox_inches="tight")
        self._write(f"{name}.png", data.getvalue())

    def write_animation(self, name: str, animation: Any, frames_per_second: int) -> None:
        """Keep a moving picture as ``NAME.gif``."""
        from matplotlib.animation import PillowWriter

        with tempfile.TemporaryDirectory() as folder:
            path = Path(folder) / "animation.gif"
            animation.save(path, writer=PillowWriter(fps=frames_per_second))
            self._write(f"{name}.gif", path.read_bytes())

    @property
    def _weights(self) -> Path:
        return self.path / "model.safetensors"

    def _write(self, name: str, data: bytes) -> None:
        atomic.write(self.path / name, data)
