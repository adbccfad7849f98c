"""Write files completely or not at all."""

import os
from contextlib import suppress
from pathlib import Path
from secrets import token_hex
from stat import S_IMODE

__all__ = ["remove_partial_files", "write"]

_PARTIAL = ".partial"


def write(path: Path, data: bytes) -> None:
    """Write a temporary file in the same folder, sync it, and rename it: never half a file.

    The folder is synced too, so that the rename survives a power failure. If the disk is full or
    the folder is read-only, the old file stays, and the temporary file is removed.

    Arguments:
        path: the file, in an existing folder.
        data: the contents to write.

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
            temporary.chmod(S_IMODE(path.stat().st_mode))  # keep the permissions of the old file
        temporary.replace(path)
    except BaseException:
        with suppress(OSError):  # the error to tell is that of the write
            temporary.unlink(missing_ok=True)
        raise
    _sync_folder(path.parent)


def remove_partial_files(folder: Path) -> None:
    """Remove the temporary files of killed writes from a folder; no write may be in progress."""
    for partial in folder.glob(f".*{_PARTIAL}"):
        if partial.is_symlink() or partial.is_file():
            partial.unlink(missing_ok=True)


def _sync_folder(folder: Path) -> None:
    if os.name == "nt":  # Windows cannot open folders
        return
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
