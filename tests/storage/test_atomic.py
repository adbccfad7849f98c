"""Files are written completely or not at all."""

import os
from pathlib import Path

import pytest

from pyrovae.storage import atomic


def test_old_file_is_replaced_and_no_other_file_remains(tmp_path: Path) -> None:
    path = tmp_path / ("n" * 250)  # nearly the longest possible name, so that no suffix fits
    for data in (b"first", b"second"):
        atomic.write(path, data)
        assert path.read_bytes() == data
    assert list(tmp_path.iterdir()) == [path]


@pytest.mark.skipif(os.name == "nt", reason="needs POSIX file modes")
def test_file_mode_is_kept(tmp_path: Path) -> None:
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


def test_failed_write_leaves_the_old_file(tmp_path: Path) -> None:
    path = tmp_path / "folder"
    path.mkdir()
    with pytest.raises(OSError, match="directory"):
        atomic.write(path, b"x")
    assert list(tmp_path.iterdir()) == [path]
