"""Files are whole or not there, and reading one that is none does not wait."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

import pytest

from pytest_lmstudio.files import read_small, replace_file

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path


def test_a_file_is_replaced_and_nothing_stays_beside_it(tmp_path: Path) -> None:
    path = tmp_path / ("n" * 250)  # the longest names leave no room for an ending
    replace_file(path, [b"one"])
    replace_file(path, [b"two", b"\n"])
    assert path.read_bytes() == b"two\n"
    assert list(tmp_path.iterdir()) == [path]


def test_a_file_that_cannot_be_finished_leaves_the_old_one(tmp_path: Path) -> None:
    def parts() -> Iterator[bytes]:
        yield b"half"
        raise OSError(28, "No space left on device")

    path = tmp_path / "file"
    path.write_bytes(b"old")
    with pytest.raises(OSError, match="No space"):
        replace_file(path, parts())
    assert path.read_bytes() == b"old"
    assert list(tmp_path.iterdir()) == [path]


def test_a_link_is_replaced_not_followed(tmp_path: Path) -> None:
    (tmp_path / "outside").write_bytes(b"kept")
    (tmp_path / "link").symlink_to(tmp_path / "outside")
    replace_file(tmp_path / "link", [b"new"])
    assert (tmp_path / "outside").read_bytes() == b"kept"
    assert (tmp_path / "link").read_bytes() == b"new"


def test_a_short_file_is_read_whole(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("é" * 10, encoding="utf-8")
    assert read_small(tmp_path / "file", 20) == "é" * 10
    with pytest.raises(OSError, match="is larger than 19 bytes"):
        read_small(tmp_path / "file", 19)


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="there are no pipes in folders here")
@pytest.mark.parametrize("kind", ["pipe", "folder", "device"])
def test_what_is_no_file_is_not_read(tmp_path: Path, kind: str) -> None:
    path = tmp_path / "it"
    if kind == "pipe":
        os.mkfifo(path)
    elif kind == "folder":
        path.mkdir()
    else:
        path.symlink_to("/dev/zero")
    with pytest.raises(OSError, match="it is no regular file"):
        read_small(path)
