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
import os
import tempfile
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import safetensors
import safetensors.torch
from numpy.typing import NDArray
from torch import nn

from ..errors import InputError, error_reason, short_repr
from ..storage import atomic
from ..storage.checksum import checksum
from ..storage.versions import versions
from .config import RunConfig, read_config, to_yaml

__all__ = ["RunDirectory"]

_DIGEST = "sha256"
_VERSIONS = "versions"

_KEPT = ("config.yaml", "metrics.csv", "model.safetensors", "evaluation.json", "training.png")
"""Files that training writes to."""

_DAMAGED = (OSError, ValueError, RuntimeError, safetensors.SafetensorError)
"""What comes of reading a file of weights that is none, RecursionError included."""


def _no_name(path: Path) -> InputError:
    return InputError(f"{short_repr(str(path))} is no name of a folder; give another --output")


class RunDirectory:
    """A run directory, new or from a finished run.

    What is written replaces what was there whole, or raises an ``InputError`` that says why it
    cannot be written, and leaves what was there.

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
        try:
            if b"\0" in os.fsencode(path):
                raise _no_name(path)
            is_used = path.exists() and not (path.is_dir() and not any(path.iterdir()))
            is_used = is_used or (path.is_symlink() and not path.exists())
        except UnicodeEncodeError as error:
            raise _no_name(path) from error
        except OSError as error:
            raise InputError(f"cannot write to {path}: {error_reason(error)}") from error
        if is_used:
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
            raise InputError(f"cannot write to {path}: {error_reason(error)}") from error
        return cls(path)

    @classmethod
    def open(cls, path: Path, *needed: str) -> "RunDirectory":
        """The directory of a run that was trained.

        Arguments:
            path: the directory.
            needed: files without which it is of no use; options and weights unless given.

        Nothing that was put there as a link is read, as it may lead to where nobody meant to go.

        Raises:
            InputError: if it holds no run, or one of these files is a link.
        """
        for name in needed or ("config.yaml", "model.safetensors"):
            try:
                is_there = (path / name).is_file()
            except OSError as error:
                raise InputError(f"cannot read {path / name}: {error_reason(error)}") from error
            if not is_there:
                raise InputError(f"{path} is no run directory: it holds no {name}")
            if (path / name).is_symlink():
                raise InputError(f"{path / name} is a link to elsewhere; put the file in its place")
        for each in path.iterdir():
            if each.name in _KEPT and each.is_dir():
                raise InputError(f"{each} is a folder; a run keeps a file there, so move it")
        return cls(path)

    def write_config(self, config: RunConfig) -> None:
        """Keep the resolved options."""
        self._write("config.yaml", to_yaml(config).encode())

    def read_config(self) -> RunConfig:
        """The options that the run was made with, but that nothing is fetched.

        A run may come from others, and is not to say what is written where.
        """
        try:
            return read_config(self.path / "config.yaml", {"download": False})
        except InputError as error:
            raise InputError(f"{error}{self._of_others()}") from None

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
        """The test figures that the run ended with.

        Raises:
            InputError: if they cannot be read.
        """
        path = self.path / "evaluation.json"
        try:
            evaluation = json.loads(path.read_text(encoding="utf-8"))
        except (OSError, ValueError, RecursionError) as error:
            raise InputError(f"{path} cannot be read: {error_reason(error)}") from error
        if not isinstance(evaluation, dict):
            raise InputError(f"{path} holds no test figures; evaluate the run again")
        return evaluation

    def write_weights(self, module: nn.Module, metadata: Mapping[str, Any]) -> None:
        """Keep the weights, and with them what is needed to build the module anew."""
        tensors = {name: t.detach().cpu().contiguous() for name, t in module.state_dict().items()}
        known = {**metadata, _VERSIONS: versions()}
        text = {key: json.dumps(value) for key, value in known.items()}
        text[_DIGEST] = checksum(tensors, json.dumps(text, sort_keys=True))
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
        except (*_DAMAGED, KeyError) as error:
            raise InputError(
                f"{self._weights} is damaged, or of no run: {error_reason(error)}"
            ) from error

    def read_weights(self, module: nn.Module) -> None:
        """Load the weights into a module of the same make.

        Raises:
            InputError: if the file is damaged, or holds the weights of another model, or numbers
                that are not finite.
        """
        try:
            with safetensors.safe_open(self._weights, framework="pt") as file:
                text = dict(file.metadata() or {})
                tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
        except _DAMAGED as error:
            raise InputError(
                f"{self._weights} does not fit its config.yaml, as it is damaged: "
                f"{error_reason(error)}"
            ) from error
        digest = text.pop(_DIGEST, None)  # which older runs have not
        if digest not in (None, checksum(tensors, json.dumps(text, sort_keys=True))):
            raise InputError(
                f"{self._weights} is damaged or was changed: its checksum is not that of what it "
                "holds"
            )
        own = module.state_dict()
        for name, tensor in tensors.items():
            if name in own and tensor.dtype != own[name].dtype:
                raise InputError(
                    f"{self._weights} does not fit its config.yaml: {name} is of {tensor.dtype}, "
                    f"and should be of {own[name].dtype}"
                )
            if not bool(tensor.isfinite().all()):
                raise InputError(f"{self._weights} holds numbers that are not finite, in {name}")
        try:
            module.load_state_dict(tensors)
        except RuntimeError as error:
            reason = " ".join(str(error).split())[:200]
            raise InputError(
                f"{self._weights} does not fit its config.yaml: {reason}{self._of_others()}"
            ) from error

    def _of_others(self) -> str:
        """Under which versions the run was trained, where these are others than now."""
        try:
            (theirs,) = self.read_metadata(_VERSIONS)
        except InputError:
            return ""
        names = [f"{name} {theirs.get(name)}" for name in versions() if isinstance(theirs, dict)]
        is_same = theirs == versions()
        return "" if is_same else f"; the run was trained under {', '.join(names)}"

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
        try:
            atomic.write(self.path / name, data)
        except OSError as error:
            raise InputError(f"cannot write {self.path / name}: {error_reason(error)}") from error
