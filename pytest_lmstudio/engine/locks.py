"""Locks that the kernel frees when their holder dies. The only module of the engine that knows filelock."""

from __future__ import annotations

import asyncio
from contextlib import asynccontextmanager, contextmanager
from typing import TYPE_CHECKING

from filelock import FileLock, Timeout

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Iterator
    from pathlib import Path


class ProcessLock:
    """An exclusive lock over processes, as a file; it may be taken in one thread and released in another."""

    def __init__(self, path: Path) -> None:
        self._lock = FileLock(path, thread_local=False)

    def try_acquire(self) -> bool:
        """Take the lock if nobody holds it; tell whether it was taken."""
        try:
            self._lock.acquire(timeout=0)
        except Timeout:
            return False
        return True

    def release(self) -> None:
        """Give the lock back; nothing happens when it is not held."""
        self._lock.release()

    @contextmanager
    def held(self) -> Iterator[None]:
        """Hold the lock around work of microseconds; blocks the thread."""
        self._lock.acquire(poll_interval=0.001)
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
