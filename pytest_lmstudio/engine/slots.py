"""The limit: how many requests are in flight at once, over all processes of the run."""

from __future__ import annotations

import asyncio
import struct
import time
from typing import TYPE_CHECKING

from pytest_lmstudio.engine.locks import ProcessLock
from pytest_lmstudio.engine.shared import BREAKER_BYTES, SLOT_BYTES

if TYPE_CHECKING:
    from pytest_lmstudio.engine.shared import Shared

#: How often a waiting process looks whether a slot's release counter moved; this costs no system call.
_LOOK_S = 0.004
#: How often it tries the locks anyhow, since a killed holder moves no counter.
_TRY_S = 0.1
_COUNTER = struct.Struct("<Q")


class Slots:
    """`limit` slots. Within a process they go round in order of asking; over processes each is a lock that the kernel frees.

    Args:
        shared: what the run's processes share.
        limit: requests in flight at once.
        first: the slot that this process tries first, so that processes do not all try the same.
    """

    def __init__(self, shared: Shared, limit: int, first: int = 0) -> None:
        self.limit = limit
        self._shared = shared
        self._local = asyncio.Semaphore(limit)
        self._turn = asyncio.Lock()
        order = [(first + n) % limit for n in range(limit)]
        folder = shared.folder
        self._locks = {n: ProcessLock(folder / f"slot-{n}.lock") for n in order} if folder else {}
        self._held: set[int] = set()
        self._in_flight = 0

    async def acquire(self) -> int:
        """Wait for a slot; return its number, to be given back to `release`."""
        await self._local.acquire()
        try:
            slot = await self._take() if self._locks else -1
        except BaseException:
            self._local.release()
            raise
        self._in_flight += 1
        return slot

    def release(self, slot: int) -> None:
        """Give a slot back."""
        if slot >= 0:
            self._held.discard(slot)
            self._locks[slot].release()
            offset = BREAKER_BYTES + SLOT_BYTES * slot
            memory = self._shared.memory
            _COUNTER.pack_into(memory, offset, (_COUNTER.unpack_from(memory, offset)[0] + 1) % 2**64)
        self._in_flight -= 1
        self._local.release()

    def others_in_flight(self) -> bool:
        """Tell whether a request besides the caller's own is in flight, in any process."""
        if self._in_flight > 1:
            return True
        for slot in self._locks.keys() - self._held:
            if not self._locks[slot].try_acquire():
                return True
            self._locks[slot].release()
        return False

    async def _take(self) -> int:
        # Whoever asks takes a turn, even when a slot is free: else it would overtake those who wait for another process.
        async with self._turn:
            while True:
                counters = self._counters()
                if (slot := self._try()) is not None:
                    return slot
                until = time.monotonic() + _TRY_S
                while self._counters() == counters and time.monotonic() < until:
                    await asyncio.sleep(_LOOK_S)

    def _try(self) -> int | None:
        for slot, lock in self._locks.items():
            if slot not in self._held and lock.try_acquire():
                self._held.add(slot)
                return slot
        return None

    def _counters(self) -> bytes:
        return bytes(self._shared.memory[BREAKER_BYTES : BREAKER_BYTES + SLOT_BYTES * self.limit])
