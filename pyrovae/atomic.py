"""Files written whole or not at all."""

import os
import tempfile
from pathlib import Path

__all__ = ["sweep", "write"]

_PARTIAL = ".partial"


def write(path: Path, data: bytes) -> None:
    """Write to a temporary name beside the file, sync, and rename: nobody sees half a file.

    The folder is synced too, so that the new name outlives a loss of power. Where the disk is full
    or the folder read-only, the old file stays, and nothing is left behind.

    Arguments:
        path: the file, in a folder that is there.
        data: what it shall hold.

    Raises:
        OSError: if it cannot be written.
    """
    descriptor, temporary = tempfile.mkstemp(
        dir=path.parent, prefix=f".{path.name}.", suffix=_PARTIAL
    )
    try:
        with os.fdopen(descriptor, "wb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        Path(temporary).chmod(0o644)
        Path(temporary).replace(path)
    except BaseException:
        Path(temporary).unlink(missing_ok=True)
        raise
    _sync_folder(path.parent)


def sweep(folder: Path) -> None:
    """Remove what writes that were killed have left in a folder; none may be under way."""
    for left in folder.glob(f".*{_PARTIAL}"):
        left.unlink(missing_ok=True)


def _sync_folder(folder: Path) -> None:
    if os.name == "nt":  # where a folder cannot be opened
        return
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
