"""The server's parallel predictions: so many at once, the rest waits in order and in silence."""

from __future__ import annotations

import asyncio
from collections import deque
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from tests.standin.exchange import Exchange
    from tests.standin.journal import Journal


class Slots:
    """`capacity` slots for one loop, given first come, first served."""

    def __init__(self, capacity: int, journal: Journal) -> None:
        self._free = capacity
        self._journal = journal
        self._queue: deque[asyncio.Future[None]] = deque()

    async def acquire(self, exchange: Exchange) -> None:
        """Wait for a slot; who leaves the queue loses the place.

        Raises:
            ClientLeftError: the client left.
            CrashedError: the engine crashed meanwhile.
        """
        exchange.check()
        if self._free:
            self._free -= 1
        else:
            await self._wait(exchange)
        self._journal.computing(1)

    async def _wait(self, exchange: Exchange) -> None:
        turn: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._queue.append(turn)
        either: list[asyncio.Future[Any]] = [turn, exchange.over]
        try:
            await asyncio.wait(either, return_when=asyncio.FIRST_COMPLETED)
            exchange.check()
        except BaseException:  # a cancelled wait gives its place back too
            self._leave(turn)
            raise

    def _leave(self, turn: asyncio.Future[None]) -> None:
        if turn.done():
            self._pass_on()
        else:
            self._queue.remove(turn)

    def release(self) -> None:
        """Free one slot."""
        self._journal.computing(-1)
        self._pass_on()

    def _pass_on(self) -> None:
        if self._queue:
            self._queue.popleft().set_result(None)
        else:
            self._free += 1
