"""Identical requests in flight at once are sent once, in whichever process they are."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Callable
from contextlib import asynccontextmanager, nullcontext, suppress
from typing import TYPE_CHECKING, Any

from pytest_lmstudio.engine.shared import FLIGHT_LOCKS, LEFT_AT

if TYPE_CHECKING:
    from collections.abc import AsyncIterator
    from pathlib import Path

    from pytest_lmstudio.engine.shared import Shared

_POLL_S = 0.01
#: Hex digits of a key that tell it from others: in the name of a lock, and as the number of one that is a byte.
_NAME_DIGITS, _NUMBER_DIGITS = 32, 14

Entry = dict[str, Any]
Leave = Callable[[Entry], None]


class _Flight:
    """The calls of one key in this process."""

    def __init__(self) -> None:
        self.lock = asyncio.Lock()
        self.callers = 0
        self.left: Entry | None = None


class Coalescer:
    """Lets one caller of a key through at a time; those who waited get what the one before them left.

    When a leader fails or dies it leaves nothing, and the next in line leads, with its own settings.
    """

    def __init__(self, shared: Shared) -> None:
        self._shared = shared
        self._flights: dict[str, _Flight] = {}
        self._folder = shared.folder / "inflight" if shared.folder else None
        if self._folder:
            self._folder.mkdir(exist_ok=True)

    @property
    def over_processes(self) -> bool:
        """Tell whether other processes may ask the same."""
        return self._folder is not None

    @asynccontextmanager
    async def turn(self, key: str) -> AsyncIterator[tuple[Entry | None, Leave]]:
        """Wait for the key's turn; yield what an earlier caller left (None: lead), and the way to leave an answer."""
        flight = self._flights.setdefault(key, _Flight())
        flight.callers += 1
        try:
            async with flight.lock:
                if flight.left is not None:
                    yield flight.left, lambda _: None
                    return
                at = FLIGHT_LOCKS + int(key[:_NUMBER_DIGITS], 16)
                lock = self._shared.lock(f"inflight/{key[:_NAME_DIGITS]}", passing=True, at=at)
                async with nullcontext(enter_result=False) if lock is None else lock.awaited(_POLL_S) as contended:
                    flight.left = _read(self._folder / f"{key}.json") if contended and self._folder else None
                    if flight.left is None:
                        self._forget(key)
                    yield flight.left, lambda entry: self._leave(key, flight, entry)
        finally:
            flight.callers -= 1
            if not flight.callers:
                del self._flights[key]

    def _leave(self, key: str, flight: _Flight, entry: Entry) -> None:
        """Leave an answer for those who wait: in this process, and in a file when the cache has no room for it."""
        flight.left = entry
        if self._folder and not entry.get("stored"):
            self._shared.put(LEFT_AT, b"\x01")
            with suppress(OSError):
                (self._folder / f"{key}.json").write_text(json.dumps(entry), encoding="ascii")

    def _forget(self, key: str) -> None:
        """Remove what a caller left to others long ago: should this one fail, nobody may take that for its answer."""
        if self._folder and self._shared.memory[LEFT_AT]:
            with suppress(OSError):
                (self._folder / f"{key}.json").unlink(missing_ok=True)


def _read(path: Path) -> Entry | None:
    with suppress(OSError, ValueError):
        entry = json.loads(path.read_text(encoding="ascii"))
        return entry if isinstance(entry, dict) else None
    return None
