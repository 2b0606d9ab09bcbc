"""Many locks in one open file, each a byte of it.

What is looked up by its path costs 0.2 ms where nobody did so lately, as between slow answers, and a file that is made
and deleted costs 0.5 ms; a byte of an open file costs 0.03 ms. Linux alone has such locks that belong to an open file,
and not to a process, which would lose them all when it closes another descriptor of that file.
"""

from __future__ import annotations

import errno
import os
import struct
import sys
import weakref
from typing import TYPE_CHECKING, Protocol

from pytest_lmstudio.engine.locks import LockError, ProcessLock

if TYPE_CHECKING:
    from pathlib import Path

_CLOSED = -1
#: What a system says that has no such locks.
_UNKNOWN = {errno.EINVAL, errno.ENOSYS, errno.EOPNOTSUPP}
#: A byte that is nobody's lock.
_TRIED = 2**62


class LockFile(Protocol):
    """A file whose bytes are locks; open until it is closed, or its process ends.

    Attributes:
        path: the file.
    """

    path: Path

    def lock(self, at: int) -> ProcessLock:
        """Return the lock that is the byte at `at`, below 2**62; one object for each, since all share the file."""

    def close(self) -> None:
        """Close the file, and with it give all of its locks back."""


if sys.platform == "linux" and struct.calcsize("P") == 8:  # noqa: PLR2004  # bytes: the layout below is that of 64 bits
    import fcntl

    #: The kernel's ``struct flock``: type, whence, start, length, process (0).
    _FLOCK = struct.Struct("hhqqi0q")

    class _Bytes:
        """A file, open for locks."""

        def __init__(self, path: Path) -> None:
            self.path = path
            self._fd = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600)
            _open_files.add(self)

        def lock(self, at: int) -> ProcessLock:
            return ProcessLock(self.path, kernel=_Byte(self, at))

        def put(self, at: int, kind: int, *, wait: bool = False) -> None:
            """Lock or unlock a byte.

            Raises:
                BlockingIOError: another open file has it locked.
                OSError: it cannot be locked by anybody, or the file is closed.
            """
            if self.closed:
                raise OSError(errno.EBADF, os.strerror(errno.EBADF))
            how = fcntl.F_OFD_SETLKW if wait else fcntl.F_OFD_SETLK
            fcntl.fcntl(self._fd, how, _FLOCK.pack(kind, os.SEEK_SET, at, 1, 0))

        @property
        def closed(self) -> bool:
            """Whether it is closed, and so nothing in it locked by this process."""
            return self._fd == _CLOSED

        def close(self) -> None:
            fd, self._fd = self._fd, _CLOSED
            if fd != _CLOSED:
                os.close(fd)

    _open_files: weakref.WeakSet[_Bytes] = weakref.WeakSet()

    def _close_copies() -> None:
        """Let a child that a test forked hold nothing: its copy would keep a lock when its parent is killed."""
        for file in list(_open_files):
            file.close()

    os.register_at_fork(after_in_child=_close_copies)

    class _Byte:
        """A lock of the kernel's on a byte of an open file."""

        def __init__(self, file: _Bytes, at: int) -> None:
            self._file = file
            self._at = at
            self._times = 0

        def take(self, *, wait: bool) -> bool:
            if not self._times:
                try:
                    self._file.put(self._at, fcntl.F_WRLCK, wait=wait)
                except BlockingIOError:
                    return False
            self._times += 1
            return True

        def give_back(self, *, delete: bool) -> None:
            del delete  # a byte leaves nothing
            if not self._times:
                return
            self._times -= 1
            if not self._times and not self._file.closed:
                self._file.put(self._at, fcntl.F_UNLCK)

    def _open(path: Path) -> LockFile | None:
        file = _Bytes(path)
        try:
            file.put(_TRIED, fcntl.F_RDLCK)  # which as many processes as like may have
            file.put(_TRIED, fcntl.F_UNLCK)
        except OSError as error:
            file.close()
            if error.errno in _UNKNOWN:
                return None
            raise
        return file

else:  # no Linux

    def _open(path: Path) -> LockFile | None:
        del path
        return None


def open_lock_file(path: Path) -> LockFile | None:
    """Open a file for many locks.

    Returns:
        None where the system or its file system has no such locks, for all processes alike; then each takes a file.

    Raises:
        LockError: it cannot be opened, or nothing in it can be locked.
    """
    try:
        return _open(path)
    except OSError as error:
        raise LockError(path, error) from None
