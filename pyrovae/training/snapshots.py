"""Save states of a fit: the last, the previous and the best."""

import json
import tempfile
import warnings
from pathlib import Path

import safetensors

from ..errors import InputError
from ..infer.svi.state import State
from ..storage import atomic
from ..storage.checksum import checksum
from ..storage.tensors import save_tensors
from ..storage.versions import versions

__all__ = ["BEST", "LAST", "Snapshots"]

LAST, BEST = "last", "best"
_PREVIOUS = "previous"

_FORMAT = 2
"""Version of the file format; files of other versions are refused."""

_RECORD, _DIGEST = "record", "sha256"


class Snapshots:
    """Saves states in a folder, as safetensors with a JSON record and a SHA-256 digest of both.

    ::

        FOLDER/last.safetensors       the state to resume from
        FOLDER/previous.safetensors   the state before, in case the last one is damaged
        FOLDER/best.safetensors       the state with the lowest validation loss

    Arguments:
        folder: folder of the states, which need not exist yet.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._is_last_good = True

    @classmethod
    def create(cls, folder: Path) -> "Snapshots":
        """Prepare a folder for a new fit, and create it if needed.

        Raises:
            InputError: if the folder holds states already, or cannot be written to.
        """
        snapshots = cls(folder)
        if snapshots.exist():
            raise InputError(
                f"{folder} holds states of a fit already; resume it with resume=, or give another "
                "folder"
            )
        snapshots._prepare()
        return snapshots

    @classmethod
    def open(cls, folder: Path) -> "Snapshots":
        """Open the folder of a fit that is to be resumed.

        Raises:
            InputError: if the folder holds no states, or cannot be written to.
        """
        snapshots = cls(folder)
        if not snapshots.exist():
            raise InputError(f"there is no checkpoint {snapshots._path(LAST)}")
        snapshots._prepare()
        return snapshots

    def exist(self) -> bool:
        """Whether there is a state to resume from."""
        return any(self._path(name).is_file() for name in (LAST, _PREVIOUS))

    def _prepare(self) -> None:
        if self.folder.is_symlink():
            raise InputError(
                f"{self.folder} is a symbolic link; replace it by a folder, which states need"
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
                what = "is a folder" if path.is_dir() else "is a symbolic link or not a plain file"
                raise InputError(f"{path} {what}, and a state is to be saved there; move it away")

    def write(self, name: str, state: State) -> None:
        """Save a state under a name; an earlier last state becomes the previous one.

        Raises:
            InputError: if the state cannot be written, for example because the disk is full.
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
            atomic.write(path, save_tensors(tensors, metadata))
        except OSError as error:
            advice = "; the state saved before is intact, and training can resume from it"
            if not self.exist():
                advice = "" if self.folder.is_dir() else "; the folder is no longer there"
            raise InputError(f"cannot write {path}: {error.strerror or error}{advice}") from error
        if name == LAST:
            self._is_last_good = True

    def read(self, name: str) -> State:
        """Read the state under a name; for a damaged last state, warn and read the previous one.

        Raises:
            InputError: if there is no state, or it is damaged, or has another format.
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
            self._is_last_good = False  # so that it will not replace the previous one
            if self._path(LAST).is_file():
                warnings.warn(f"{error}; resuming from {previous}", RuntimeWarning, stacklevel=2)
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
        raise InputError(f"{path} is damaged or not a checkpoint: {error}") from error
    if digest != checksum(tensors, text):
        raise InputError(
            f"{path} is damaged or was changed: its contents do not match its checksum"
        )
    try:
        metadata = json.loads(text)
        file_format, file_versions = metadata["format"], dict(metadata["versions"])
    except (ValueError, KeyError, TypeError, RecursionError) as error:
        raise InputError(f"{path} is not a checkpoint: {error}") from error
    ours = versions()
    if file_format != _FORMAT:
        raise InputError(
            f"{path} has format {file_format}, of pyrovae {file_versions.get('pyrovae')}; this is "
            f"pyrovae {ours['pyrovae']}, which reads format {_FORMAT}: train anew, or resume under "
            "the version that wrote the file"
        )
    record = metadata.get("state")
    if not isinstance(record, dict):
        raise InputError(f"{path} is not a checkpoint: it records no state")
    if file_versions != ours:
        others = [f"{name} {file_versions.get(name)}" for name in ours]
        warnings.warn(
            f"{path} was written under {', '.join(others)}; results may differ in the last bits "
            "from a fit under one version",
            RuntimeWarning,
            stacklevel=3,
        )
    return State(tensors, record)
