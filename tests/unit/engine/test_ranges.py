"""Bytes of one open file as locks: freed with their holder; where a system has none, each lock is a file of its own."""

from __future__ import annotations

import errno
import os
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from pytest_lmstudio.engine.locks import LockError
from pytest_lmstudio.engine.ranges import open_lock_file
from pytest_lmstudio.engine.shared import Shared

if TYPE_CHECKING:
    from collections.abc import Iterator

    from pytest_lmstudio.engine.ranges import LockFile

pytestmark = [pytest.mark.timeout(30), pytest.mark.skipif(sys.platform != "linux", reason="Linux alone has them")]

FAR = 2**61
DESCRIPTORS = Path("/proc/self/fd")
#: Forks a child that lives until standard input ends, and is killed with a byte locked.
FORKS = """
import os, sys
from pathlib import Path
from pytest_lmstudio.engine.ranges import open_lock_file
file = open_lock_file(Path(sys.argv[1]))
lock = file.lock(7)
if sys.argv[2] == "before":
    assert lock.try_acquire()
reads, writes = os.pipe()
if os.fork() == 0:
    os.write(writes, b"!")
    sys.stdin.read()
    os._exit(0)
os.read(reads, 1)
assert lock.try_acquire()
print("locked", flush=True)
os._exit(0)
"""


@pytest.fixture
def files(tmp_path: Path) -> Iterator[tuple[LockFile, LockFile]]:
    """Open a file twice, as two processes do."""
    opened = opened_at(tmp_path / "bytes.lock"), opened_at(tmp_path / "bytes.lock")
    yield opened
    for file in opened:
        file.close()


def opened_at(path: Path) -> LockFile:
    file = open_lock_file(path)
    assert file is not None
    return file


@pytest.mark.parametrize("at", [0, 255, 2**32, FAR])
def test_a_byte_is_one_process_s_at_a_time(files: tuple[LockFile, LockFile], at: int) -> None:
    mine, others = (file.lock(at) for file in files)
    neighbour = files[1].lock(at + 1)
    assert mine.try_acquire()
    assert mine.try_acquire()
    assert neighbour.try_acquire()
    assert not others.try_acquire()
    mine.release()
    assert not others.try_acquire()
    mine.release()
    mine.release()  # it is not held any more: nothing happens
    assert others.try_acquire()
    assert not mine.try_acquire()


def test_a_byte_is_held_around_work(files: tuple[LockFile, LockFile]) -> None:
    mine, others = (file.lock(9) for file in files)
    with mine.held():
        assert not others.try_acquire()
    assert others.try_acquire()


def test_who_closes_the_file_holds_nothing_any_more(files: tuple[LockFile, LockFile]) -> None:
    mine, others = (file.lock(3) for file in files)
    assert mine.try_acquire()
    files[0].close()
    files[0].close()
    assert others.try_acquire()
    mine.release()
    assert not opened_at(files[0].path).lock(3).try_acquire()
    with pytest.raises(LockError, match=r"bytes\.lock cannot be locked \(Bad file descriptor\): set TMPDIR"):
        mine.try_acquire()


@pytest.mark.parametrize("when", ["before", "after"])
def test_a_child_that_was_forked_keeps_no_lock_of_its_parent(tmp_path: Path, when: str) -> None:
    command = [sys.executable, "-c", FORKS, str(tmp_path / "bytes.lock"), when]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "locked\n"
        process.wait()
        file = opened_at(tmp_path / "bytes.lock")
        assert file.lock(7).try_acquire()
        file.close()


@pytest.mark.parametrize("code", [errno.EINVAL, errno.ENOSYS, errno.EOPNOTSUPP], ids=errno.errorcode.get)
def test_a_system_that_knows_no_such_locks_has_a_file_for_each(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, code: int
) -> None:
    refuse(monkeypatch, code)
    assert open_lock_file(tmp_path / "bytes.lock") is None
    one, other = Shared(tmp_path, 1), Shared(tmp_path, 1)
    lock, others = (shared.lock("slot-0", at=0) for shared in (one, other))
    assert lock is not None
    assert others is not None
    assert lock.try_acquire()
    assert not others.try_acquire()
    lock.release()
    assert (tmp_path / "slot-0.lock").exists()
    one.close()
    other.close()


def test_a_system_that_has_no_lock_left_says_so(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Else one process would lock bytes and another one files."""
    refuse(monkeypatch, errno.ENOLCK)
    with pytest.raises(LockError, match=r"bytes\.lock cannot be locked \(No locks available\): set TMPDIR"):
        open_lock_file(tmp_path / "bytes.lock")


def test_a_link_in_place_of_the_file_is_not_followed(tmp_path: Path) -> None:
    (tmp_path / "bytes.lock").symlink_to(tmp_path / "outside")
    with pytest.raises(LockError, match=r"bytes\.lock cannot be locked \(Too many levels of symbolic links\)"):
        open_lock_file(tmp_path / "bytes.lock")
    assert not (tmp_path / "outside").exists()


def test_a_process_opens_as_many_locks_as_it_likes_with_one_descriptor(tmp_path: Path) -> None:
    shared = Shared(tmp_path, 256)
    before = len(list(DESCRIPTORS.iterdir()))
    locks = [shared.lock(f"slot-{n}", at=n) for n in range(256)]
    assert all(lock is not None and lock.try_acquire() for lock in locks)
    assert len(list(DESCRIPTORS.iterdir())) == before
    shared.close()


def refuse(monkeypatch: pytest.MonkeyPatch, code: int) -> None:
    """Let no byte be locked."""
    import fcntl

    def refused(*_: object) -> None:
        raise OSError(code, os.strerror(code))

    monkeypatch.setattr(fcntl, "fcntl", refused)
