"""The contents of a folder as a value, which you can write, read back, compare and mutate."""

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
    """An empty folder with these permissions."""

    mode: int = 0o755


@dataclass(frozen=True)
class Pipe:
    """A named pipe that has no writer."""


PIPE = Pipe()

FileTree = Mapping[str, bytes | Link | Folder | Pipe]
"""The file at each path. Only empty folders have an entry of their own."""


def write_tree(tree: FileTree, folder: Path) -> None:
    """Write a tree into an existing folder."""
    for name, entry in tree.items():
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        match entry:
            case bytes():
                path.write_bytes(entry)
            case Link(to):
                path.symlink_to(to)
            case Folder(mode):
                path.mkdir(mode)
            case Pipe():
                os.mkfifo(path)


def read_tree(folder: Path) -> dict[str, bytes | Link | Folder | Pipe]:
    """Read everything below a folder, without following links."""
    tree: dict[str, bytes | Link | Folder | Pipe] = {}
    for path in sorted(folder.iterdir(), key=str):
        name = path.name
        mode = path.lstat().st_mode
        if stat.S_ISLNK(mode):
            tree[name] = Link(str(path.readlink()))
        elif stat.S_ISFIFO(mode):
            tree[name] = PIPE
        elif stat.S_ISDIR(mode):
            below = read_tree(path)
            tree |= {f"{name}/{inner}": entry for inner, entry in below.items()}
            if not below:
                tree[name] = Folder(stat.S_IMODE(mode))
        else:
            tree[name] = path.read_bytes()
    return tree
