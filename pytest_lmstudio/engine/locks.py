"""Locks that the kernel frees when their holder dies. The only module of the engine that knows filelock."""

from __future__ import annotations

import errno
import os
import sys
from contextlib import asynccontextmanager, contextmanager, suppress
from functools import lru_cache
from typing import TYPE_CHECKING, Protocol

from pytest_lmstudio.text import printable

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Iterator
    from pathlib import Path

#: pytest leaves these frames out of a traceback: what is wrong stands in the error.
__tracebackhide__ = True


class LockError(OSError):
    """A file cannot be locked; the text says what to do."""

    def __init__(self, path: Path, error: Exception) -> None:
        why = getattr(error, "strerror", None) or error
        super().__init__(
            f"{printable(path)} cannot be locked ({printable(why)}): set TMPDIR to a folder on a local disk with room"
        )


class Kernel(Protocol):
    """A lock of the kernel's, which its holder may take again and gives back as often."""

    def take(self, *, wait: bool) -> bool:
        """Take it, if need be once it is free; tell whether it was taken."""

    def give_back(self, *, delete: bool) -> None:
        """Give it back, and delete what it leaves; nothing happens when it is not held."""


if sys.platform == "win32":  # which has no flock
    from filelock import FileLock, Timeout

    class _Kernel:
        """A lock of the kernel's on a file."""

        def __init__(self, path: Path) -> None:
            self._lock = FileLock(path, thread_local=False)

        def take(self, *, wait: bool) -> bool:
            try:
                self._lock.acquire(-1 if wait else 0, poll_interval=0.001)
            except Timeout:
                return False
            return True

        def give_back(self, *, delete: bool) -> None:
            del delete  # filelock may do so by itself
            self._lock.release()

    def _try_locking(folder: Path) -> None:
        """Do nothing: every file system has locks."""

else:
    import fcntl

    _FLAGS = os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW
    _NOBODYS = -1
    #: No lock is deleted so often just before somebody else has it.
    _TRIES = 1000

    class _Kernel:
        """A lock of the kernel's on a file; filelock takes ten times as long, and on macOS each call needs two."""

        def __init__(self, path: Path) -> None:
            self._path = path
            self._fd = _NOBODYS
            self._times = 0

        def take(self, *, wait: bool) -> bool:
            if not self._times:
                fd = self._locked(fcntl.LOCK_EX if wait else fcntl.LOCK_EX | fcntl.LOCK_NB)
                if fd is None:
                    return False
                self._fd = fd
            self._times += 1
            return True

        def _locked(self, how: int) -> int | None:
            """Return the file, open and locked; None when somebody else holds it."""
            for _ in range(_TRIES):
                fd, done = os.open(self._path, _FLAGS, 0o600), False
                try:
                    fcntl.flock(fd, how)
                    done = self._is_at(fd)  # else its holder deleted it meanwhile, and others take one of the same name
                except BlockingIOError:
                    return None
                finally:
                    if not done:
                        os.close(fd)
                if done:
                    return fd
            raise OSError(errno.ESTALE, os.strerror(errno.ESTALE))  # a file system that tells each look another file

        def _is_at(self, fd: int) -> bool:
            try:
                return os.path.samestat(os.fstat(fd), self._path.stat())
            except FileNotFoundError:
                return False

        def give_back(self, *, delete: bool) -> None:
            if not self._times:
                return
            self._times -= 1
            if self._times:
                return
            fd, self._fd = self._fd, _NOBODYS
            if delete:
                with suppress(OSError):
                    self._path.unlink(missing_ok=True)
            fcntl.flock(fd, fcntl.LOCK_UN)  # a child that a test forked has the file open as well
            os.close(fd)

    @lru_cache(maxsize=64)
    def _try_locking(folder: Path) -> None:
        """Lock a file once, to see whether that works in its folder, and not only when a request is to be sent."""
        path = folder / "try.lock"
        try:
            fd = os.open(path, _FLAGS, 0o600)
            try:
                fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except (BlockingIOError, PermissionError):
                pass  # another process tries the same right now
            finally:
                os.close(fd)
        except OSError as error:
            raise LockError(path, error) from None


class ProcessLock:
    """An exclusive lock over processes, as a file; it may be taken in one thread and released in another.

    Who holds it may take it again, and gives it back as often.

    Args:
        path: the file.
        passing: whether the file goes when the lock is given back.
        kernel: what is locked in place of the whole file.

    Raises:
        LockError: nothing in the file's folder can be locked.
    """

    def __init__(self, path: Path, *, passing: bool = False, kernel: Kernel | None = None) -> None:
        if kernel is None:
            _try_locking(path.parent)
        self._path = path
        self._passing = passing
        self._kernel: Kernel = kernel or _Kernel(path)

    def try_acquire(self) -> bool:
        """Take the lock if nobody holds it; tell whether it was taken.

        Raises:
            LockError: the file cannot be locked by anybody.
        """
        return self._take(wait=False)

    def _take(self, *, wait: bool) -> bool:
        try:
            return self._kernel.take(wait=wait)
        except OSError as error:
            raise LockError(self._path, error) from None

    def release(self) -> None:
        """Give the lock back; nothing happens when it is not held."""
        self._kernel.give_back(delete=self._passing)

    @contextmanager
    def held(self) -> Iterator[None]:
        """Hold the lock around work of microseconds; blocks the thread.

        Raises:
            LockError: the file cannot be locked by anybody.
        """
        self._take(wait=True)
        try:
            yield
        finally:
            self.release()

    @asynccontextmanager
    async def awaited(self, poll_s: float) -> AsyncIterator[bool]:
        """Hold the lock, waited for without blocking the loop; yields whether somebody else held it before."""
        contended = False
        while not self.try_acquire():
            contended = True
            import asyncio  # whoever is here runs on it; the controller of workers is not

            await asyncio.sleep(poll_s)
        try:
            yield contended
        finally:
            self.release()
