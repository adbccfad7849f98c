"""Files written whole or not at all."""

import os
from pathlib import Path
from secrets import token_hex
from stat import S_IMODE

__all__ = ["remove_partial_files", "write"]

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
    temporary = path.parent / f".{token_hex(8)}{_PARTIAL}"
    descriptor = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o666)
    try:
        with os.fdopen(descriptor, "wb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        if path.is_file() and not path.is_symlink():
            temporary.chmod(S_IMODE(path.stat().st_mode))  # who may read it is not ours to say
        temporary.replace(path)
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise
    _sync_folder(path.parent)


def remove_partial_files(folder: Path) -> None:
    """Remove what writes that were killed have left in a folder; none may be under way."""
    for left in folder.glob(f".*{_PARTIAL}"):
        if left.is_symlink() or left.is_file():
            left.unlink(missing_ok=True)


def _sync_folder(folder: Path) -> None:
    if os.name == "nt":  # where a folder cannot be opened
        return
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
