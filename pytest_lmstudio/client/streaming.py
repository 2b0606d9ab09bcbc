"""Text that a test reads while the model still writes it."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from typing import TYPE_CHECKING, Self

from pytest_lmstudio.client.waiting import leave

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Iterator

    from pytest_lmstudio.records import Call, Request
    from pytest_lmstudio.runtime import Runtime

#: pytest leaves these frames out of a traceback: what a test did wrong stands in the test.
__tracebackhide__ = True


class Stream:
    """A stream under way; pieces of text, then the `Call`."""

    def __init__(self, runtime: Runtime, request: Request) -> None:
        self._runtime = runtime
        self._queue: asyncio.Queue[str | Call | Exception] = asyncio.Queue()
        self._future = runtime.loop.submit(self._flow(runtime, request))

    async def _flow(self, runtime: Runtime, request: Request) -> None:
        try:
            self._queue.put_nowait(await runtime.engine.call(request, self._queue.put_nowait))
        except Exception as error:  # noqa: BLE001  # else whoever waits for the next piece would wait for ever
            self._queue.put_nowait(error)

    async def next(self) -> str | Call:
        """Return the next piece, or at the end the call."""
        found = await self._queue.get()
        if isinstance(found, Exception):
            raise found
        return found

    def cancel(self) -> None:
        """End the generation, if it still goes on."""
        leave(self._runtime, [self._future])


class AsyncPieces(AsyncIterator[str]):
    """The pieces of one stream, for ``async for``; when nobody holds it any more, the generation is cancelled.

    No async generator, since what one does when it is left early is up to the event loop: asyncio closes it some time
    later, trio warns.

    Args:
        begin: returns the pieces of a cached answer, or the stream that was started.
        step: waits for the next piece of a stream, None at its end.
    """

    def __init__(
        self,
        begin: Callable[[], Awaitable[list[str] | Stream]],
        step: Callable[[Stream], Awaitable[str | None]],
    ) -> None:
        self._begin = begin
        self._step = step
        self._begun: Iterator[str] | Stream | None = None

    def __aiter__(self) -> Self:
        """Return the pieces themselves."""
        return self

    async def __anext__(self) -> str:
        """Return the next piece as it arrives."""
        if self._begun is None:
            begun = await self._begin()
            self._begun = iter(begun) if isinstance(begun, list) else begun
        piece = await self._step(self._begun) if isinstance(self._begun, Stream) else next(self._begun, None)
        if piece is None:
            raise StopAsyncIteration
        return piece

    async def aclose(self) -> None:
        """Cancel the generation."""
        self.cancel()

    def cancel(self) -> None:
        """End the generation, if it still goes on; what has come already is all there is."""
        if isinstance(self._begun, Stream):
            self._begun.cancel()
        self._begun = iter(())

    def __del__(self) -> None:
        """Cancel the generation."""
        self.cancel()
