"""Files that are written whole or not at all."""

import os
from pathlib import Path

import pytest

from pyrovae.storage import atomic


def test_what_was_there_is_replaced_and_nothing_else_is_left(tmp_path: Path) -> None:
    path = tmp_path / ("n" * 250)  # as long as a name may be, and no room for more of it
    for data in (b"first", b"second"):
        atomic.write(path, data)
        assert path.read_bytes() == data
    assert list(tmp_path.iterdir()) == [path]


@pytest.mark.skipif(os.name == "nt", reason="modes are those of POSIX")
def test_who_may_read_a_file_stays(tmp_path: Path) -> None:
    private, fresh = tmp_path / "private", tmp_path / "fresh"
    private.touch(0o600)
    before = os.umask(0o027)
    try:
        for path in (private, fresh):
            atomic.write(path, b"x")
    finally:
        os.umask(before)
    assert private.stat().st_mode & 0o777 == 0o600
    assert fresh.stat().st_mode & 0o777 == 0o640


def test_a_write_that_fails_leaves_the_old_file(tmp_path: Path) -> None:
    path = tmp_path / "folder"
    path.mkdir()
    with pytest.raises(OSError, match="directory"):
        atomic.write(path, b"x")
    assert list(tmp_path.iterdir()) == [path]
