"""One attempt: one HTTP exchange under hard limits."""

from __future__ import annotations

import asyncio
import time
from typing import TYPE_CHECKING, Any, NamedTuple

from pytest_lmstudio.engine import wire
from pytest_lmstudio.engine.deadline import Deadline, Limits
from pytest_lmstudio.engine.exchange import Exchange, json_or_none, read_text
from pytest_lmstudio.engine.failure import Failure, Refused
from pytest_lmstudio.engine.progress import Progress
from pytest_lmstudio.engine.response import Broken
from pytest_lmstudio.errors import ErrorKind

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from pytest_lmstudio.engine.transport import Transport
    from pytest_lmstudio.errors import Limit

#: A server that closed a kept connection while it was idle lets us know within a round trip, however slow the network.
_STALE_MS = 2000
_PASSED: dict[Limit, str] = {
    "attempt": "{:g} s passed before the answer was whole",
    "first_token": "{:g} s passed before the first token",
    "inter_token": "no further token came for {:g} s",
}


class AttemptFailed(Exception):
    """An attempt that got no whole answer."""

    def __init__(self, failure: Failure, latency_ms: float, stale_reconnects: int) -> None:
        super().__init__(failure.message)
        self.failure = failure
        self.latency_ms = latency_ms
        self.stale_reconnects = stale_reconnects


class Answer(NamedTuple):
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


class Page(NamedTuple):
    """What a GET brought; headers by lower-case name."""

    status: int
    headers: Mapping[str, str]
    text: str


async def get_json(transport: Transport, path: str, timeout_s: float) -> tuple[int, Any]:
    """Return status and JSON body of a GET; the body is None when it is no JSON.

    Raises:
        AttemptFailed: no answer came in time, or none at all.
    """
    page = await get(transport, path, timeout_s)
    return page.status, json_or_none(page.text)


async def get(transport: Transport, path: str, timeout_s: float) -> Page:
    """Return what a GET brings.

    Raises:
        AttemptFailed: no answer came in time, or none at all.
    """
    progress = Progress(time.monotonic())
    try:
        async with asyncio.timeout(timeout_s):
            response = await transport.send("GET", path, progress=progress)
            try:
                text = await read_text(response, progress)
            finally:
                await response.close()
    except (TimeoutError, Broken, Refused) as error:
        failure = _failure(error, progress, Limits(timeout_s))
        raise AttemptFailed(failure, progress.elapsed_ms(), 0) from None
    return Page(response.status, response.headers, text)


async def run_attempt(  # one attempt needs all of it
    transport: Transport,
    path: str,
    content: bytes,
    *,
    limits: Limits,
    check: Callable[[object], dict[str, Any]],
    on_piece: Callable[[str], None] | None = None,
    progress: Progress | None = None,
) -> Answer:
    """Send one request and return its whole answer.

    A kept connection that dies before the first byte of an answer is replaced once, at once, within the same deadline:
    the server most likely closed it while it was idle, and never saw the request. One that dies more than 2 s later
    tells of a server that was at work on the request, so the attempt has failed.

    Args:
        transport: the connections to use.
        path: such as ``/v1/chat/completions``.
        content: the body.
        limits: how long it may take; those on tokens are for a request that asks for a stream.
        check: takes the body and returns it, or raises `wire.BadAnswer`.
        on_piece: called with each piece of text as it comes.
        progress: told how far the attempt gets, for who may cancel it.

    Raises:
        AttemptFailed: no whole answer came.
    """
    deadline = Deadline(limits)
    progress = progress or Progress(time.monotonic())
    try:
        async with deadline:
            while True:
                exchange = Exchange(progress, deadline, on_piece)
                try:
                    body = await exchange.body(transport, path, content, fresh=progress.stale_reconnects > 0)
                    break
                except Broken:
                    if not _was_idle(progress):
                        raise
                    progress.reconnect()
            body = check(body)
    except (TimeoutError, Broken, wire.BadAnswer, wire.StreamError, Refused) as error:
        failure = _failure(error, progress, limits, deadline.passed, content)
        raise AttemptFailed(failure, progress.elapsed_ms(), progress.stale_reconnects) from None
    latency_ms = progress.elapsed_ms()
    first = progress.first_piece_s
    ttft_ms = None if first is None else (first - progress.started_s) * 1000
    return Answer(body, latency_ms, ttft_ms, tuple(exchange.pieces), progress.stale_reconnects)


def _was_idle(progress: Progress) -> bool:
    """Tell whether a connection that broke was most likely closed while it was idle."""
    kept = not (progress.stale_reconnects or progress.fresh)
    return kept and not progress.answered and progress.elapsed_ms() <= _STALE_MS


def _failure(
    error: Exception, progress: Progress, limits: Limits, passed: Limit = "attempt", sent: bytes = b""
) -> Failure:
    """Return the failure that an exception of an attempt means."""
    if isinstance(error, Refused):
        return error.failure
    if isinstance(error, wire.StreamError):
        from pytest_lmstudio.engine.classify import classify  # its patterns take time that most runs need not spend

        return classify(200, {}, error.body, str(error), sent)
    if isinstance(error, wire.BadAnswer):
        return Failure(ErrorKind.INVALID_RESPONSE, str(error), progress.phase, 200)
    if isinstance(error, TimeoutError):
        text = _PASSED[passed].format(getattr(limits, f"{passed}_s"))
        return Failure(ErrorKind.TIMEOUT, text, progress.phase, limit=passed)
    if isinstance(error, Broken) and error.unmade:
        return Failure(ErrorKind.CONNECT, str(error), "connecting")
    kind = ErrorKind.CONNECT if progress.phase == "connecting" else ErrorKind.DISCONNECT
    return Failure(kind, str(error), progress.phase)
