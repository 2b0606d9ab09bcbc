"""The limit: how many requests are in flight at once, over all processes of the run."""

from __future__ import annotations

import asyncio
import struct
from contextlib import suppress
from typing import TYPE_CHECKING

from pytest_lmstudio.engine.shared import SLOT_BYTES, SLOTS_AT

if TYPE_CHECKING:
    from pytest_lmstudio.engine.pressure import Pressure
    from pytest_lmstudio.engine.shared import Shared

#: How often a waiting process looks whether a slot's release counter moved; this costs no system call.
_LOOK_S = 0.004
#: After so many looks it tries the locks anyhow, since a killed holder moves no counter.
_LOOKS = 25
_COUNTER = struct.Struct("<Q")


class Slots:
    """The slots of a run; over several processes each is a lock, which the kernel frees when its holder dies.

    Within a process, waiting calls get slots in the order in which they asked.

    Args:
        shared: what the run's processes share.
        most: how many slots there are.
        pressure: how many of them may be used right now.
        first: the slot that this process tries first, so that processes do not all try the same.
    """

    def __init__(self, shared: Shared, most: int, pressure: Pressure, first: int = 0) -> None:
        self._shared = shared
        self._pressure = pressure
        self._order = [(first + n) % most for n in range(most)]
        locks = {n: shared.lock(f"slot-{n}", at=n) for n in self._order}
        self._locks = {n: lock for n, lock in locks.items() if lock is not None}
        self._held: set[int] = set()
        self._turn = asyncio.Lock()
        self._released = asyncio.Event()

    async def acquire(self) -> int:
        """Wait for a slot; return its number, to be given back to `release`."""
        async with self._turn:
            while True:
                counters = self._counters()  # before the look, or a release right after it is seen too late
                if (slot := self._take()) is not None:
                    return slot
                await self._freed(counters)

    def release(self, slot: int) -> None:
        """Give a slot back."""
        self._held.discard(slot)
        if self._locks:
            self._locks[slot].release()
            at = SLOTS_AT + SLOT_BYTES * slot
            self._shared.put(at, _COUNTER.pack((_COUNTER.unpack_from(self._shared.memory, at)[0] + 1) % 2**64))
        self._released.set()

    def others_in_flight(self) -> bool:
        """Tell whether a request besides the caller's own is in flight, in any process."""
        if len(self._held) > 1:
            return True
        for slot in self._locks.keys() - self._held:
            if not self._locks[slot].try_acquire():
                return True
            self._locks[slot].release()
        return False

    def _take(self) -> int | None:
        """Return a free slot, None when there is none now."""
        limit = self._pressure.limit
        if len(self._held) >= limit:
            return None
        for slot in self._order:
            if slot < limit and slot not in self._held and (not self._locks or self._locks[slot].try_acquire()):
                self._held.add(slot)
                return slot
        return None

    async def _freed(self, counters: bytes) -> None:
        """Wait until a slot may have become free, since the release counters were those."""
        self._released.clear()
        if not self._locks:
            await self._released.wait()
            return
        for _ in range(_LOOKS):
            with suppress(TimeoutError):
                async with asyncio.timeout(_LOOK_S):
                    await self._released.wait()
                return
            if self._counters() != counters:
                return

    def _counters(self) -> bytes:
        return bytes(self._shared.memory[SLOTS_AT:])
