"""How calls end when the run is interrupted: those that wait at once, those in flight within seconds."""

from __future__ import annotations

import asyncio
import time
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterable

    from pytest_lmstudio.engine.call import Engine
    from pytest_lmstudio.engine.shared import Shared

#: How often a process looks whether another one noted an interrupt, or wants it to hurry; this costs no system call.
_LOOK_S = 0.05
#: How long calls that are cut off may take to write that down.
_CLEAN_UP_S = 1.0


class Drain:
    """Ends calls on the loop's own thread, so that nothing which keeps a test busy can delay it.

    Args:
        shared: tells of an interrupt, whichever process noted it.
        engine: has the calls.
        limit_s: how long calls in flight may take from the interrupt on.
    """

    def __init__(self, shared: Shared, engine: Engine, limit_s: float) -> None:
        self._shared = shared
        self._engine = engine
        self._limit_s = limit_s

    async def watch(self) -> None:
        """Wait for an interrupt, then end all calls."""
        while not self._shared.interrupted_s:  # noqa: ASYNC110  # another process sets it
            await asyncio.sleep(_LOOK_S)
        self._engine.end_waiting()
        while (calls := set(self._engine.calls)) and (left_s := self._left_s()) > 0:
            await asyncio.wait(calls, timeout=min(left_s, _LOOK_S))
        await _cut_off(calls)

    def _left_s(self) -> float:
        return self._shared.interrupted_s + self._limit_s - time.monotonic()


async def cut_off_all() -> None:
    """End whatever goes on on this loop."""
    await _cut_off(asyncio.all_tasks() - {asyncio.current_task()})


async def _cut_off(tasks: Iterable[asyncio.Task[object]]) -> None:
    """Cancel tasks, and let them clean up."""
    for task in tasks:
        task.cancel()
    if tasks:
        await asyncio.wait(tasks, timeout=_CLEAN_UP_S)
