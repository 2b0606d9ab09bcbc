"""What processes share on a disk without room: told, or worked out anew; and no process is killed by it."""

from __future__ import annotations

import errno
import os
from typing import TYPE_CHECKING, Any

import pytest

from pytest_lmstudio.engine import shared as room
from pytest_lmstudio.engine.shared import Shared
from pytest_lmstudio.errors import LMRequestError
from tests.disks import mounted
from tests.unit.test_runtime import runtime

if TYPE_CHECKING:
    from pathlib import Path

pytestmark = pytest.mark.timeout(60)


def test_memory_that_does_not_fit_is_refused_before_it_is_mapped(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write = os.write
    monkeypatch.setattr(os, "write", lambda fd, data: write(fd, data[:100]))
    with pytest.raises(OSError, match="No space left on device"):
        Shared(tmp_path, 4)


def test_memory_on_a_full_disk_is_refused(tmp_path: Path) -> None:
    """A hole in the file would do until somebody writes to it; that would be the end of the process."""
    with mounted(tmp_path / "small", "64k") as disk:
        disk.fill(leave_bytes=4096)
        with pytest.raises(OSError, match="No space left on device"):
            Shared(disk.folder, 4)
        disk.empty()
        shared = Shared(disk.folder, 4)
        disk.fill()
        for at in range(len(shared.memory)):
            shared.memory[at] = 7
        shared.close()


def test_what_cannot_be_left_for_others_is_worked_out_by_each(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(room, "replace_file", full)
    made: list[int] = []

    def make() -> dict[str, Any]:
        made.append(1)
        return {"it": 1}

    for _ in range(2):
        shared = Shared(tmp_path, 1)
        assert [shared.once_blocking("it", make) for _ in range(2)] == [{"it": 1}] * 2
        shared.close()
    assert made == [1, 1]


def test_a_folder_for_temporary_files_without_room_is_one_clear_line(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*_: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(room, "_open_memory", full)
    problem = runtime(tmp_path / "home", shared=tmp_path).problem
    assert isinstance(problem, LMRequestError)
    said = "the folder for temporary files cannot be used ([Errno 28] No space left on device)"
    assert str(problem) == f"{said}: set TMPDIR to one with room"
    assert not (tmp_path / "home").exists()


@pytest.mark.skipif(os.name == "nt", reason="flock is POSIX's")
def test_a_folder_for_temporary_files_without_locks_is_one_clear_line(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import fcntl

    def refuse(*_: object) -> None:
        raise OSError(errno.ENOLCK, "No locks available")

    monkeypatch.setattr(fcntl, "flock", refuse)
    problem = runtime(tmp_path / "home", shared=tmp_path).problem
    said = f"{tmp_path / 'try.lock'} cannot be locked (No locks available)"
    assert str(problem) == f"{said}: set TMPDIR to a folder on a local disk with room"
