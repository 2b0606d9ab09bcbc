"""The answer of one HTTP exchange, read as it comes."""

from __future__ import annotations

import asyncio
import time
from contextlib import suppress
from typing import TYPE_CHECKING, Any

from pytest_lmstudio.engine import wire
from pytest_lmstudio.engine.failure import Failure, Refused
from pytest_lmstudio.engine.response import Broken
from pytest_lmstudio.errors import ErrorKind

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable

    from pytest_lmstudio.engine.deadline import Deadline
    from pytest_lmstudio.engine.progress import Progress
    from pytest_lmstudio.engine.response import Response
    from pytest_lmstudio.engine.transport import Transport

#: After the finish reason, how long token counts and the last event may take; the text is whole without them.
_CLOSING_S = 1.0
#: After the last event, how long the end of the body may take before the connection is given up instead of kept.
_TAIL_S = 0.25
#: So long before the hard limit an answer that is whole is taken as it is.
_SPARE_S = 0.05


class Exchange:
    """One request, and its answer.

    Args:
        progress: told how far the exchange gets.
        deadline: told when tokens come.
        on_piece: called with each piece of text as it comes.

    Attributes:
        pieces: the length of each piece of text as it came; empty for an answer that came whole.
    """

    def __init__(self, progress: Progress, deadline: Deadline, on_piece: Callable[[str], None] | None) -> None:
        self._progress = progress
        self._deadline = deadline
        self._on_piece = on_piece
        self._tokens = 0
        self.pieces: list[int] = []

    async def body(self, transport: Transport, path: str, content: bytes, *, fresh: bool) -> Any:
        """Send a request; return the JSON body of its answer, or what its event stream adds up to.

        Raises:
            Broken: the connection could not be made, or broke.
            Refused: the answer is an error.
            wire.BadAnswer: it is no completion.
            wire.StreamError: its stream carries an error.
        """
        response = await transport.send("POST", path, content, progress=self._progress, fresh=fresh)
        try:
            if response.ok and response.is_stream:
                return await self._streamed(response)
            self._deadline.tokens_are_held_back()
            text = await read_text(response, self._progress)
        finally:
            await response.close()
        body = wire.parsed(text) if response.ok else json_or_none(text)
        if not response.ok or wire.is_error(body):
            from pytest_lmstudio.engine.classify import classify  # its patterns take time that most runs need not spend

            raise Refused(classify(response.status, response.headers, body, text, content))
        if self._on_piece and isinstance(body, dict):
            self._on_piece(wire.text_of(wire.message_of(body).get("content")))
        return body

    async def _streamed(self, response: Response) -> dict[str, Any]:
        events = wire.EventStream()
        chunks = _received(response, self._progress)
        try:
            async for chunk in chunks:
                self._take(events, events.feed(chunk))
                if events.complete:
                    await self._close(events, chunks)
                    break
            self._take(events, events.close())
        except Broken:
            # The server said that the answer is whole; how it hangs up does not matter.
            if not events.complete:
                raise
        return events.body()

    def _take(self, events: wire.EventStream, pieces: list[str]) -> None:
        """Note what came, and hand its text on."""
        if events.tokens > self._tokens:
            self._tokens = events.tokens
            if self._progress.first_piece_s is None:
                self._progress.first_piece_s = time.monotonic()
            if events.calls_tool:
                self._deadline.tokens_are_held_back()
            else:
                self._deadline.token_came()
        for piece in pieces:
            self.pieces.append(len(piece))
            if self._on_piece:
                self._on_piece(piece)

    async def _close(self, events: wire.EventStream, chunks: AsyncIterator[bytes]) -> None:
        """Read what follows the finish reason: token counts, the last event, the end of the body."""
        self._deadline.tokens_are_held_back()
        if not events.done:
            with suppress(TimeoutError):
                async with asyncio.timeout(self._at_most(_CLOSING_S)):
                    await self._read_on(events, chunks)
        self._progress.whole_s = time.monotonic()
        with suppress(TimeoutError, Broken, Refused):
            async with asyncio.timeout(self._at_most(_TAIL_S)):
                async for _ in chunks:
                    pass

    async def _read_on(self, events: wire.EventStream, chunks: AsyncIterator[bytes]) -> None:
        while not events.done and (chunk := await anext(chunks, None)) is not None:
            self._take(events, events.feed(chunk))

    def _at_most(self, seconds: float) -> float:
        return min(seconds, self._deadline.left_s - _SPARE_S)


async def read_text(response: Response, progress: Progress) -> str:
    """Return the body as text.

    Raises:
        Refused: an answer with status 200 is no UTF-8; in the text of an error that does not matter.
    """
    body = b"".join([chunk async for chunk in _received(response, progress)])
    try:
        return body.decode()
    except UnicodeDecodeError:
        if response.ok:
            msg = "the answer holds bytes that are no UTF-8"
            raise Refused(Failure(ErrorKind.INVALID_RESPONSE, msg, status=200)) from None
        return body.decode(errors="replace")


def json_or_none(text: str) -> Any:
    """Return what a text holds as JSON, None when it is none that Python can read."""
    try:
        return wire.parsed(text)
    except wire.BadAnswer:
        return None


async def _received(response: Response, progress: Progress) -> AsyncIterator[bytes]:
    """Yield the body, and note that it has begun."""
    async for chunk in response.chunks():
        progress.phase = "receiving"
        yield chunk
