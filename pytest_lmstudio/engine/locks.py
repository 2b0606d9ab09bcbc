"""Locks that the kernel frees when their holder dies. The only module of the engine that knows filelock."""

from __future__ import annotations

import asyncio
import os
import sys
from contextlib import asynccontextmanager, contextmanager
from functools import lru_cache
from typing import TYPE_CHECKING

from filelock import FileLock, Timeout

from pytest_lmstudio.text import printable

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Iterator
    from pathlib import Path

if sys.platform != "win32":  # pragma: no branch  # Windows has no fcntl
    import fcntl


#: pytest leaves these frames out of a traceback: what is wrong stands in the error.
__tracebackhide__ = True


class LockError(OSError):
    """A file cannot be locked; the text says what to do."""

    def __init__(self, path: Path, error: Exception) -> None:
        why = getattr(error, "strerror", None) or error
        super().__init__(
            f"{printable(path)} cannot be locked ({printable(why)}): set TMPDIR to a folder on a local disk with room"
        )


class ProcessLock:
    """An exclusive lock over processes, as a file; it may be taken in one thread and released in another.

    Raises:
        LockError: nothing in the file's folder can be locked.
    """

    def __init__(self, path: Path) -> None:
        _try_locking(path.parent)
        self._path = path
        self._lock = FileLock(path, thread_local=False)

    def try_acquire(self) -> bool:
        """Take the lock if nobody holds it; tell whether it was taken.

        Raises:
            LockError: the file cannot be locked by anybody.
        """
        try:
            self._acquire(0)
        except Timeout:
            return False
        return True

    def _acquire(self, timeout_s: float) -> None:
        try:
            self._lock.acquire(timeout_s, poll_interval=0.001)
        except Timeout:
            raise
        except (OSError, NotImplementedError) as error:
            raise LockError(self._path, error) from None

    def release(self) -> None:
        """Give the lock back; nothing happens when it is not held."""
        self._lock.release()

    @contextmanager
    def held(self) -> Iterator[None]:
        """Hold the lock around work of microseconds; blocks the thread.

        Raises:
            LockError: the file cannot be locked by anybody.
        """
        self._acquire(-1)  # for as long as it takes
        try:
            yield
        finally:
            self._lock.release()

    @asynccontextmanager
    async def awaited(self, poll_s: float) -> AsyncIterator[bool]:
        """Hold the lock, waited for without blocking the loop; yields whether somebody else held it before."""
        contended = False
        while not self.try_acquire():
            contended = True
            await asyncio.sleep(poll_s)
        try:
            yield contended
        finally:
            self._lock.release()


@lru_cache(maxsize=64)
def _try_locking(folder: Path) -> None:
    """Lock a file once, to see whether that works in its folder.

    filelock would not tell: older ones take some of the errors for a lock that somebody else holds, and wait for ever;
    newer ones take the presence of a file for a lock, which nobody frees when its holder is killed.
    """
    if sys.platform == "win32":  # where every file system has locks
        return
    path = folder / "try.lock"
    try:
        descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600)
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except (BlockingIOError, PermissionError):
            pass  # another process tries the same right now
        finally:
            os.close(descriptor)
    except OSError as error:
        raise LockError(path, error) from None
