"""States of a fit on disk: the last, the one before it, and the best."""

import json
import tempfile
import warnings
from pathlib import Path

import safetensors
import safetensors.torch

from ..errors import InputError
from ..infer.svi.state import State
from ..storage import atomic
from ..storage.checksum import checksum
from ..storage.versions import versions

__all__ = ["BEST", "LAST", "Snapshots"]

LAST, BEST = "last", "best"
_PREVIOUS = "previous"

_FORMAT = 2
"""Of the files; another one is refused."""

_RECORD, _DIGEST = "record", "sha256"


class Snapshots:
    """States in a folder, as safetensors with a JSON record and a SHA-256 digest of both.

    ::

        FOLDER/last.safetensors       where to go on from
        FOLDER/previous.safetensors   the one before, should the last be damaged
        FOLDER/best.safetensors       that of the lowest validation loss

    Arguments:
        folder: where they are, or will be.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._is_last_good = True

    @classmethod
    def create(cls, folder: Path) -> "Snapshots":
        """Those of a new fit, in a folder that is made where it is not there.

        Raises:
            InputError: if it holds states already, or cannot be written to.
        """
        snapshots = cls(folder)
        if snapshots.exist():
            raise InputError(
                f"{folder} holds states of a fit; go on with resume=, or give another folder"
            )
        snapshots._prepare()
        return snapshots

    @classmethod
    def open(cls, folder: Path) -> "Snapshots":
        """Those of a fit that shall go on.

        Raises:
            InputError: if there are none, or no more can be written.
        """
        snapshots = cls(folder)
        if not snapshots.exist():
            raise InputError(f"there is no checkpoint {snapshots._path(LAST)}")
        snapshots._prepare()
        return snapshots

    def exist(self) -> bool:
        """Whether there is a state to go on from."""
        return any(self._path(name).is_file() for name in (LAST, _PREVIOUS))

    def _prepare(self) -> None:
        if self.folder.is_symlink():
            raise InputError(
                f"{self.folder} is a link to elsewhere; states are kept in a folder, so put one "
                "in its place"
            )
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
            with tempfile.TemporaryFile(dir=self.folder):
                pass
            atomic.remove_partial_files(self.folder)
        except OSError as error:
            raise InputError(f"cannot write to {self.folder}: {error.strerror or error}") from error
        for path in map(self._path, (LAST, _PREVIOUS, BEST)):
            if path.is_symlink() or (path.exists() and not path.is_file()):
                what = "folder" if path.is_dir() else "link, or no plain file"
                raise InputError(f"{path} is a {what}; a state is kept there, so move it")

    def write(self, name: str, state: State) -> None:
        """Keep a state under a name; the last before it stays as the previous one.

        Raises:
            InputError: if there is no room for it, or it cannot be written.
        """
        record = json.dumps(
            {"format": _FORMAT, "versions": versions(), "state": state.record}, sort_keys=True
        )
        tensors = {key: tensor.cpu().contiguous() for key, tensor in state.tensors.items()}
        metadata = {_RECORD: record, _DIGEST: checksum(tensors, record)}
        path = self._path(name)
        try:
            if name == LAST and path.is_file() and self._is_last_good:
                path.replace(self._path(_PREVIOUS))
            atomic.write(path, safetensors.torch.save(tensors, metadata))
        except OSError as error:
            raise InputError(
                f"cannot write {path}: {error.strerror or error}; training can go on from what "
                "was kept before"
            ) from error
        if name == LAST:
            self._is_last_good = True

    def read(self, name: str) -> State:
        """The state under a name; in place of a last one that is damaged, the previous.

        Raises:
            InputError: if there is none, it is damaged, or of another version.
        """
        if name != LAST:
            return _read(self._path(name))
        try:
            return _read(self._path(LAST))
        except InputError as error:
            previous = self._path(_PREVIOUS)
            if not previous.is_file():
                raise
            state = _read(previous)
            self._is_last_good = False  # so that it does not replace the previous one
            if self._path(LAST).is_file():
                warnings.warn(f"{error}; going on from {previous}", RuntimeWarning, stacklevel=2)
            return state

    def _path(self, name: str) -> Path:
        return self.folder / f"{name}.safetensors"


def _read(path: Path) -> State:
    if not path.is_file():
        raise InputError(f"there is no checkpoint {path}")
    try:
        with safetensors.safe_open(path, framework="pt") as file:
            metadata = file.metadata() or {}
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
        text, digest = metadata[_RECORD], metadata[_DIGEST]
    except (OSError, ValueError, KeyError, safetensors.SafetensorError) as error:
        raise InputError(f"{path} is damaged, or no checkpoint: {error}") from error
    if digest != checksum(tensors, text):
        raise InputError(
            f"{path} is damaged or was changed: its checksum is not that of what it holds"
        )
    try:
        kept = json.loads(text)
        written, theirs = kept["format"], dict(kept["versions"])
    except (ValueError, KeyError, TypeError, RecursionError) as error:
        raise InputError(f"{path} is no checkpoint: {error}") from error
    ours = versions()
    if written != _FORMAT:
        raise InputError(
            f"{path} has format {written}, of pyrovae {theirs.get('pyrovae')}; this is "
            f"{ours['pyrovae']}, whose format is {_FORMAT}: train anew, or go on under the version "
            "that wrote it"
        )
    record = kept.get("state")
    if not isinstance(record, dict):
        raise InputError(f"{path} is no checkpoint: it records no state")
    if theirs != ours:
        others = [f"{name} {theirs.get(name)}" for name in ours]
        warnings.warn(
            f"{path} was written under {', '.join(others)}; what follows may differ in the last "
            "bits",
            RuntimeWarning,
            stacklevel=3,
        )
    return State(tensors, record)
