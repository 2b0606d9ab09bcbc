"""Locks are the kernel's or none at all: where there are none, that is said, and nobody waits for ever."""

from __future__ import annotations

import errno
import os
import sys
import warnings
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from pytest_lmstudio.engine import locks
from pytest_lmstudio.engine.locks import LockError, ProcessLock
from pytest_lmstudio.engine.shared import Shared

if TYPE_CHECKING:
    from collections.abc import Iterator

pytestmark = [pytest.mark.timeout(30), pytest.mark.skipif(sys.platform == "win32", reason="flock is POSIX's")]

WHY = {errno.ENOLCK: "No locks available", errno.EOPNOTSUPP: "Operation not supported"} | {
    code: os.strerror(code) for code in (errno.ENOSYS, errno.EINVAL)
}


@pytest.fixture(autouse=True)
def _forget() -> Iterator[None]:
    """Forget which folders were tried."""
    locks._try_locking.cache_clear()
    yield
    locks._try_locking.cache_clear()


@pytest.fixture(params=WHY, ids=[errno.errorcode[code] for code in WHY])
def code(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> int:
    """Let every flock fail with this, as on a network file system."""
    import fcntl

    found: int = request.param

    def refuse(*_: object) -> None:
        raise OSError(found, os.strerror(found))

    monkeypatch.setattr(fcntl, "flock", refuse)
    return found


def test_a_folder_without_locks_is_told_at_once_and_not_worked_around(tmp_path: Path, code: int) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        with pytest.raises(LockError) as caught:
            ProcessLock(tmp_path / "slot.lock")
    path = tmp_path / "try.lock"
    assert str(caught.value) == (
        f"{path} cannot be locked ({os.strerror(code)}): set TMPDIR to a folder on a local disk with room"
    )
    assert not (tmp_path / "slot.lock").exists()


@pytest.mark.usefixtures("code")
def test_what_processes_share_needs_locks(tmp_path: Path) -> None:
    with pytest.raises(LockError, match="set TMPDIR to a folder on a local disk"):
        Shared(tmp_path, 4)
    assert Shared(None, 4).memory  # one process needs none


def test_a_folder_is_tried_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    tried: list[Path] = []
    real = os.open

    def noted(path: Path, *args: int) -> int:
        tried.append(Path(path))
        return real(path, *args)

    monkeypatch.setattr(os, "open", noted)
    for name in ("a", "b", "a"):
        ProcessLock(tmp_path / name)
    assert tried == [tmp_path / "try.lock"]


def test_somebody_else_who_tries_at_the_same_moment_does_no_harm(tmp_path: Path) -> None:
    import fcntl

    with (tmp_path / "try.lock").open("wb") as other:
        fcntl.flock(other, fcntl.LOCK_EX)
        assert ProcessLock(tmp_path / "a.lock").try_acquire()


@pytest.mark.parametrize("place", ["gone/a.lock", "file/a.lock"])
def test_a_folder_that_is_not_there_is_told(tmp_path: Path, place: str) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(LockError, match=r"cannot be locked \((No such file or directory|Not a directory)\)"):
        ProcessLock(tmp_path / place)


def test_a_lock_whose_folder_went_away_is_told_when_it_is_taken(tmp_path: Path) -> None:
    folder = tmp_path / "run"
    folder.mkdir()
    lock = ProcessLock(folder / "a.lock")
    (folder / "try.lock").unlink()
    folder.rmdir()
    folder.touch()
    said = r"a\.lock cannot be locked \((Not a directory|File exists)\): set TMPDIR"
    with pytest.raises(LockError, match=said):
        lock.try_acquire()
    with pytest.raises(LockError, match=said), lock.held():
        pytest.fail("it was taken")
    with pytest.raises(LockError, match=said):
        lock.try_acquire()


@pytest.fixture
def closed(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """Return the descriptors that are closed from now on."""
    found: list[int] = []
    real = os.close

    def noted(fd: int) -> None:
        found.append(fd)
        real(fd)

    monkeypatch.setattr(os, "close", noted)
    return found


def test_who_holds_a_lock_takes_it_again_and_gives_it_back_as_often(tmp_path: Path) -> None:
    one, other = (ProcessLock(tmp_path / "a.lock") for _ in range(2))
    one.release()  # it is not held: nothing happens
    with one.held():
        assert one.try_acquire()
        assert not other.try_acquire()
        one.release()
        assert not other.try_acquire()
    assert other.try_acquire()
    other.release()
    assert (tmp_path / "a.lock").exists()


def test_a_passing_lock_leaves_no_file(tmp_path: Path) -> None:
    one, other = (ProcessLock(tmp_path / "a.lock", passing=True) for _ in range(2))
    assert one.try_acquire()
    assert not other.try_acquire()
    one.release()
    assert not (tmp_path / "a.lock").exists()
    assert other.try_acquire()
    other.release()


def test_a_file_that_its_holder_deletes_in_between_is_no_lock(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, closed: list[int]
) -> None:
    """Else one would hold a file that nobody finds any more, and the next one its successor."""
    import fcntl

    path, real, seen = tmp_path / "a.lock", fcntl.flock, list[int]()

    def deleted_before(fd: int, how: int) -> None:
        if not seen:
            path.unlink()
        elif len(seen) == 1:
            (tmp_path / "successor").rename(path)
        seen.append(fd)
        real(fd, how)

    one, other = (ProcessLock(path, passing=True) for _ in range(2))
    (tmp_path / "successor").touch()
    closed.clear()
    monkeypatch.setattr(fcntl, "flock", deleted_before)
    assert one.try_acquire()
    monkeypatch.undo()
    assert len(seen) == 3
    assert closed == seen[:2]
    assert not other.try_acquire()
    one.release()


def test_a_file_that_is_never_the_one_that_was_opened_is_an_error(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, closed: list[int]
) -> None:
    """As on a file system whose files have no lasting numbers; it must not be tried for ever."""
    lock = ProcessLock(tmp_path / "a.lock")
    closed.clear()
    monkeypatch.setattr(os.path, "samestat", lambda *_: False)
    monkeypatch.setattr(locks, "_TRIES", 3)
    said = rf"a\.lock cannot be locked \({os.strerror(errno.ESTALE)}\): set TMPDIR to a folder on a local disk"
    with pytest.raises(LockError, match=said):
        lock.try_acquire()
    assert len(closed) == 3


def test_a_lock_that_fails_leaves_no_open_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, closed: list[int]
) -> None:
    import fcntl

    tried: list[int] = []

    def refuse(fd: int, _: int) -> None:
        tried.append(fd)
        raise OSError(errno.ENOLCK, "No locks available")

    lock = ProcessLock(tmp_path / "a.lock")
    closed.clear()
    monkeypatch.setattr(fcntl, "flock", refuse)
    for _ in range(2):
        with pytest.raises(LockError, match=r"a\.lock cannot be locked \(No locks available\)"):
            lock.try_acquire()
    assert closed == tried


def test_a_link_in_place_of_the_file_that_is_tried_is_not_followed(tmp_path: Path) -> None:
    (tmp_path / "try.lock").symlink_to(tmp_path / "outside")
    with pytest.raises(LockError, match="cannot be locked"):
        ProcessLock(tmp_path / "a.lock")
    assert not (tmp_path / "outside").exists()
