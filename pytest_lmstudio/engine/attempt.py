"""One attempt: one HTTP exchange under one hard deadline."""

from __future__ import annotations

import asyncio
import json
import time
from contextlib import suppress
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from pytest_lmstudio.engine import wire
from pytest_lmstudio.engine.classify import Failure, Refused, classify
from pytest_lmstudio.engine.progress import Progress
from pytest_lmstudio.engine.transport import Broken
from pytest_lmstudio.errors import ErrorKind

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable

    from pytest_lmstudio.engine.transport import Response, Transport

#: After the last event, how long the end of the body may take before the connection is given up instead of kept.
_TAIL_S = 0.25


class AttemptFailed(Exception):
    """An attempt that got no whole answer."""

    def __init__(self, failure: Failure, latency_ms: float, stale_reconnects: int) -> None:
        super().__init__(failure.message)
        self.failure = failure
        self.latency_ms = latency_ms
        self.stale_reconnects = stale_reconnects


@dataclass(frozen=True, slots=True)
class Answer:
    """A whole answer.

    Attributes:
        body: the JSON body, or what the stream adds up to.
        latency_ms: from sending to the last byte.
        ttft_ms: to the first piece of text, reasoning or tool call; None for an answer that came whole.
        pieces: the length of each piece of text as it came; empty for an answer that came whole.
        stale_reconnects: 1 when a kept connection had died and a fresh one was used, else 0.
    """

    body: dict[str, Any]
    latency_ms: float
    ttft_ms: float | None
    pieces: tuple[int, ...]
    stale_reconnects: int


async def get_json(transport: Transport, path: str, timeout_s: float) -> tuple[int, Any]:
    """Return status and JSON body of a GET; the body is None when it is no JSON.

    Raises:
        AttemptFailed: no answer came in time, or none at all.
    """
    progress = Progress(time.monotonic())
    try:
        async with asyncio.timeout(timeout_s):
            response = await transport.send("GET", path, progress=progress)
            try:
                text = await _read(response, progress)
            finally:
                await response.close()
    except (TimeoutError, Broken, Refused) as error:
        raise AttemptFailed(_failure(error, progress, timeout_s), progress.elapsed_ms(), 0) from None
    return response.status, _json(text)


async def run_attempt(  # one attempt needs all of it
    transport: Transport,
    path: str,
    content: bytes,
    *,
    timeout_s: float,
    check: Callable[[object], dict[str, Any]],
    on_piece: Callable[[str], None] | None = None,
) -> Answer:
    """Send one request and return its whole answer.

    A kept connection that dies before the first byte of an answer is replaced once, at once, within the same deadline:
    the server closed it while it was idle and never saw the request.

    Args:
        transport: the connections to use.
        path: such as ``/v1/chat/completions``.
        content: the body.
        timeout_s: hard limit from sending to the last byte, however slowly bytes drip.
        check: takes the body and returns it, or raises `wire.BadAnswer`.
        on_piece: called with each piece of text as it comes.

    Raises:
        AttemptFailed: no whole answer came.
    """
    stale_reconnects = 0
    started_s = time.monotonic()
    progress = Progress(started_s, until_s=started_s + timeout_s - _TAIL_S / 5)
    try:
        async with asyncio.timeout(timeout_s):
            while True:
                try:
                    body, pieces = await _exchange(
                        transport, path, content, progress, on_piece, fresh=stale_reconnects > 0
                    )
                    break
                except Broken:
                    if stale_reconnects or progress.fresh or progress.answered:
                        raise
                    stale_reconnects = 1
                    progress = Progress(started_s, until_s=progress.until_s)
            body = check(body)
    except (TimeoutError, Broken, wire.BadAnswer, wire.StreamError, Refused) as error:
        failure = _failure(error, progress, timeout_s)
        raise AttemptFailed(failure, progress.elapsed_ms(), stale_reconnects) from None
    latency_ms = progress.elapsed_ms()
    first = progress.first_piece_s
    ttft_ms = None if first is None else (first - progress.started_s) * 1000
    return Answer(body, latency_ms, ttft_ms, pieces, stale_reconnects)


async def _exchange(
    transport: Transport,
    path: str,
    content: bytes,
    progress: Progress,
    on_piece: Callable[[str], None] | None,
    *,
    fresh: bool,
) -> tuple[Any, tuple[int, ...]]:
    response = await transport.send("POST", path, content, progress=progress, fresh=fresh)
    try:
        if response.ok and response.is_stream:
            return await _read_stream(response, progress, on_piece)
        text = await _read(response, progress)
    finally:
        await response.close()
    body = _json(text)
    if not response.ok or (isinstance(body, dict) and body.get("error")):
        raise Refused(classify(response.status, response.headers, body, text))
    if body is None:
        msg = "the answer is no JSON"
        raise wire.BadAnswer(msg)
    if on_piece and isinstance(body, dict):
        on_piece(wire.text_of(wire.message_of(body).get("content")))
    return body, ()


async def _read(response: Response, progress: Progress) -> str:
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


async def _received(response: Response, progress: Progress) -> AsyncIterator[bytes]:
    """Yield the body, and note that it has begun."""
    async for chunk in response.chunks():
        progress.phase = "receiving"
        yield chunk


async def _read_stream(
    response: Response, progress: Progress, on_piece: Callable[[str], None] | None
) -> tuple[dict[str, Any], tuple[int, ...]]:
    events = wire.EventStream()
    lengths: list[int] = []
    chunks = _received(response, progress)
    try:
        async for chunk in chunks:
            _take(events.feed(chunk), events, progress, lengths, on_piece)
            if events.done:
                progress.whole_s = time.monotonic()
                await _drain(chunks, min(_TAIL_S, progress.until_s - progress.whole_s))
                break
        _take(events.close(), events, progress, lengths, on_piece)
    except Broken:
        # The server said that the answer is whole; how it hangs up does not matter.
        if not events.complete:
            raise
    return events.body(), tuple(lengths)


def _take(
    pieces: list[str],
    events: wire.EventStream,
    progress: Progress,
    lengths: list[int],
    on_piece: Callable[[str], None] | None,
) -> None:
    if events.started and progress.first_piece_s is None:
        progress.first_piece_s = time.monotonic()
    for piece in pieces:
        lengths.append(len(piece))
        if on_piece:
            on_piece(piece)


async def _drain(chunks: AsyncIterator[bytes], most_s: float) -> None:
    """Read the end of a body so that its connection can be used again; some servers never send one."""
    with suppress(TimeoutError, Broken, Refused):
        async with asyncio.timeout(most_s):
            async for _ in chunks:
                pass


def _json(text: str) -> Any:
    try:
        return json.loads(text)
    except (ValueError, RecursionError):
        return None


def _failure(error: Exception, progress: Progress, timeout_s: float) -> Failure:
    """Return the failure that an exception of an attempt means."""
    if isinstance(error, Refused):
        return error.failure
    if isinstance(error, wire.StreamError):
        return classify(200, {}, error.body, str(error))
    if isinstance(error, wire.BadAnswer):
        return Failure(ErrorKind.INVALID_RESPONSE, str(error), progress.phase, 200)
    if isinstance(error, TimeoutError):
        limit = f"{timeout_s:g} s passed before the answer was whole"
        return Failure(ErrorKind.TIMEOUT, limit, progress.phase, cut_at_limit=True)
    if isinstance(error, Broken) and error.unmade:
        return Failure(ErrorKind.CONNECT, str(error), "connecting")
    kind = ErrorKind.CONNECT if progress.phase == "connecting" else ErrorKind.DISCONNECT
    return Failure(kind, str(error), progress.phase)
