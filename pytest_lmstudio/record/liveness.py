"""Whether a log is still written to: the kernel knows, whatever became of the processes that opened it."""

from __future__ import annotations

import os
import sys
from contextlib import suppress
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from pathlib import Path

if sys.platform == "win32":

    def hold(fd: int) -> None:
        """Do nothing: an open file is known by itself."""

    def is_held(path: Path) -> bool:
        """Tell whether a process has the file open; Windows does not rename such a file, not even to its own name."""
        try:
            os.rename(path, path)  # noqa: PTH104  # not Path.rename, whose result would look used
        except PermissionError:
            return True
        return False

else:
    import fcntl

    def hold(fd: int) -> None:
        """Mark an open file as in use until it is closed, or its process dies; any number may hold one at once.

        A file system without locks leaves the file unmarked.
        """
        with suppress(OSError):
            fcntl.flock(fd, fcntl.LOCK_SH | fcntl.LOCK_NB)

    def is_held(path: Path) -> bool:
        """Tell whether a living process holds the file, as far as its file system knows."""
        try:
            fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK)
        except OSError:
            return False
        try:
            fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            return True
        except OSError:
            return False
        finally:
            os.close(fd)
        return False
