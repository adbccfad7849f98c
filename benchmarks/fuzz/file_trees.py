"""A folder as a value: what lies where, to be written, compared, and damaged."""

import os
import stat
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

__all__ = ["PIPE", "FileTree", "Folder", "Link", "Pipe", "read_tree", "write_tree"]


@dataclass(frozen=True)
class Link:
    """A symbolic link."""

    to: str


@dataclass(frozen=True)
class Folder:
    """An empty folder, of these permissions."""

    mode: int = 0o755


@dataclass(frozen=True)
class Pipe:
    """A named pipe, which nobody writes to."""


PIPE = Pipe()

FileTree = Mapping[str, bytes | Link | Folder | Pipe]
"""For each path what lies there; folders that hold something are not named."""


def write_tree(tree: FileTree, folder: Path) -> None:
    """Write it all, below a folder that is there."""
    for name, what in tree.items():
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        match what:
            case bytes():
                path.write_bytes(what)
            case Link(to):
                path.symlink_to(to)
            case Folder(mode):
                path.mkdir(mode)
            case Pipe():
                os.mkfifo(path)


def read_tree(folder: Path) -> dict[str, bytes | Link | Folder | Pipe]:
    """What lies below a folder, in the bytes that it has; links are not followed."""
    found: dict[str, bytes | Link | Folder | Pipe] = {}
    for path in sorted(folder.iterdir(), key=str):
        name = path.name
        mode = path.lstat().st_mode
        if stat.S_ISLNK(mode):
            found[name] = Link(str(path.readlink()))
        elif stat.S_ISFIFO(mode):
            found[name] = PIPE
        elif stat.S_ISDIR(mode):
            below = read_tree(path)
            found |= {f"{name}/{inner}": what for inner, what in below.items()}
            if not below:
                found[name] = Folder(stat.S_IMODE(mode))
        else:
            found[name] = path.read_bytes()
    return found
