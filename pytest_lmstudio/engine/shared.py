"""What the processes of a run share: a folder of locks, answers worked out once, and a few numbers in common memory."""

from __future__ import annotations

import errno
import json
import mmap
import os
import struct
import sys
import time
from contextlib import nullcontext, suppress
from typing import TYPE_CHECKING, Any

from pytest_lmstudio.engine.locks import ProcessLock
from pytest_lmstudio.engine.ranges import open_lock_file
from pytest_lmstudio.files import replace_file

if TYPE_CHECKING:
    import asyncio
    from collections.abc import Awaitable, Callable
    from contextlib import AbstractContextManager
    from pathlib import Path

#: pytest leaves these frames out of a traceback: what a test did wrong stands in the test.
__tracebackhide__ = True

#: Where things lie in the common memory, bytes: the states of breaker and backpressure, when the run was interrupted
#: (seconds of the monotonic clock, 0 when it was not), latencies by model, and last one release counter for each slot.
#: Before the time of the interrupt stands whether a request's answer was ever left to others in a file.
BREAKER_AT, PRESSURE_AT, LEFT_AT, _INTERRUPTED_AT, LATENCIES_AT = 0, 128, 240, 248, 256
LATENCIES_BYTES = 8 * 1040
SLOTS_AT = LATENCIES_AT + LATENCIES_BYTES
SLOT_BYTES = 8
#: Where the locks of requests in flight begin in the file of many locks; those of slots stand before, by their number.
FLIGHT_LOCKS = 2**32
_SECONDS = struct.Struct("<d")
_POLL_S = 0.01


class Shared:
    """The common ground of a run's processes; with one process (`folder` None) it is all in memory, without any lock.

    Args:
        folder: a folder on a local disk, made by the controller for this run alone; None without workers.
        slots: how many slots may ever be asked for.
    """

    def __init__(self, folder: Path | None, slots: int) -> None:
        self.folder = folder
        self._memory = _open_memory(folder, SLOTS_AT + SLOT_BYTES * slots)
        self._guard = ProcessLock(folder / "guard.lock") if folder else None
        self._bytes = open_lock_file(folder / "bytes.lock") if folder else None
        self._known: dict[str, dict[str, Any]] = {}
        self._pending: dict[str, asyncio.Lock] = {}

    @property
    def memory(self) -> mmap.mmap | bytearray:
        """The common bytes; change them only inside `guard`, but for a slot's counter, which its holder may change."""
        return self._memory

    def put(self, at: int, packed: bytes) -> None:
        """Write common memory in one piece: others read without `guard`, and `Struct.pack_into` clears it first."""
        self._memory[at : at + len(packed)] = packed

    @property
    def interrupted_s(self) -> float:
        """When the run was interrupted, seconds of the monotonic clock; 0.0 when it was not."""
        seconds: float = _SECONDS.unpack_from(self._memory, _INTERRUPTED_AT)[0]
        return seconds

    def interrupt(self) -> None:
        """Let no process of the run send anything more."""
        if not self.interrupted_s:
            self.put(_INTERRUPTED_AT, _SECONDS.pack(time.monotonic()))

    def hurry(self) -> None:
        """Let no process of the run wait for calls in flight any more, as if the interrupt came long ago."""
        self.put(_INTERRUPTED_AT, _SECONDS.pack(sys.float_info.min))

    def guard(self) -> AbstractContextManager[None]:
        """Hold the one lock of the common memory, for microseconds."""
        return self._guard.held() if self._guard else nullcontext()

    def lock(self, name: str, *, passing: bool = False, at: int | None = None) -> ProcessLock | None:
        """Return a lock of the run, or None when there is only one process.

        Args:
            name: of its file.
            passing: whether the file goes when the lock is given back.
            at: the byte that is the lock instead, where the system can lock bytes; for a lock that each request needs.
        """
        if self.folder is None:
            return None
        if at is not None and self._bytes is not None:
            return self._bytes.lock(at)
        return ProcessLock(self.folder / f"{name}.lock", passing=passing)

    async def once(self, name: str, produce: Callable[[], Awaitable[dict[str, Any]]]) -> dict[str, Any]:
        """Return what `produce` returned in the one process that ran it; the others wait.

        When that process dies, or `produce` raises, the next one runs it.
        """
        if name in self._known:
            return self._known[name]
        import asyncio  # the controller of workers only looks at the numbers, at the end of its run

        async with self._pending.setdefault(name, asyncio.Lock()):
            if name not in self._known:
                self._known[name] = await self._once(name, produce)
            return self._known[name]

    async def _once(self, name: str, produce: Callable[[], Awaitable[dict[str, Any]]]) -> dict[str, Any]:
        lock = self.lock(name)
        if lock is None or self.folder is None:
            return await produce()
        path = self.folder / f"{name}.json"
        async with lock.awaited(_POLL_S):
            if (known := _load(path)) is not None:
                return known
            made = await produce()
            _keep(path, made)
            return made

    def once_blocking(self, name: str, produce: Callable[[], dict[str, Any]]) -> dict[str, Any]:
        """Return what `produce` returned in the one process that ran it; blocks the thread."""
        if name not in self._known:
            if self.folder is None:
                self._known[name] = produce()
            else:
                path = self.folder / f"{name}.json"
                with ProcessLock(self.folder / f"{name}.lock").held():
                    known = _load(path)
                    if known is None:
                        known = produce()
                        _keep(path, known)
                    self._known[name] = known
        return self._known[name]

    def alone(self, name: str) -> AbstractContextManager[None]:
        """Let one process at a time through; blocks the thread."""
        lock = self.lock(name)
        return lock.held() if lock else nullcontext()

    def peek(self, name: str) -> dict[str, Any] | None:
        """Return what `once` worked out, or None when it has not run."""
        known = self._known.get(name)
        return known if known is not None or self.folder is None else _load(self.folder / f"{name}.json")

    def close(self) -> None:
        """Give the common memory back, and what is locked of those files that stay open."""
        if self._bytes is not None:
            self._bytes.close()
        if isinstance(memory := self._memory, mmap.mmap):
            self._memory = bytearray(memory)  # whoever still looks sees how it was at the end
            memory.close()


def _load(path: Path) -> dict[str, Any] | None:
    try:
        return json.loads(path.read_text(encoding="utf-8"))  # type: ignore[no-any-return]  # written above
    except (OSError, ValueError):
        return None


def _keep(path: Path, made: dict[str, Any]) -> None:
    """Leave what was worked out for the other processes; where the disk is full, each works it out again."""
    with suppress(OSError):
        replace_file(path, [json.dumps(made).encode("ascii")])


def _open_memory(folder: Path | None, size: int) -> mmap.mmap | bytearray:
    if folder is None:
        return bytearray(size)
    descriptor = os.open(folder / "memory", os.O_RDWR | os.O_CREAT | getattr(os, "O_BINARY", 0), 0o600)
    try:
        with ProcessLock(folder / "memory.lock").held():
            missing = size - os.fstat(descriptor).st_size
            if missing > 0:  # written, since a hole in a file on a full disk would kill who first writes to its memory
                os.lseek(descriptor, 0, os.SEEK_END)
                if os.write(descriptor, bytes(missing)) < missing:
                    raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        return mmap.mmap(descriptor, size)
    finally:
        os.close(descriptor)
