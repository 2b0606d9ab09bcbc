"""One attempt: one HTTP exchange under one hard deadline. The only module that knows httpx."""

from __future__ import annotations

import asyncio
import json
import time
from contextlib import suppress
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit
from urllib.request import getproxies, proxy_bypass

import httpx

from pytest_lmstudio.engine import wire
from pytest_lmstudio.engine.classify import Failure, Refused, classify
from pytest_lmstudio.errors import ErrorKind
from pytest_lmstudio.values import is_loopback

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable

    from pytest_lmstudio.errors import Phase

#: An answer above this is cut off: no eval needs it, and it would fill memory, log and cache.
MOST_ANSWER_BYTES = 32 * 2**20
#: The server closes an idle connection after 5 s (its Keep-Alive header says so); leaving it earlier avoids the race.
KEEPALIVE_EXPIRY_S = 2.0
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


@dataclass(slots=True)
class _Progress:
    """How far an exchange got; written by httpcore's trace while it goes."""

    started_s: float
    phase: Phase = "connecting"
    fresh: bool = False
    answered: bool = False
    first_piece_s: float | None = None
    until_s: float = float("inf")
    whole_s: float | None = None

    async def trace(self, event: str, _info: dict[str, Any]) -> None:
        if event == "http11.send_request_body.complete":
            self.phase = "waiting"
        elif event == "connection.connect_tcp.started":
            self.fresh = True
        elif event == "http11.receive_response_headers.complete":
            self.answered = True

    def elapsed_ms(self) -> float:
        return ((self.whole_s or time.monotonic()) - self.started_s) * 1000


class Transport:
    """The connections of one process to one server; belongs to the loop it is used on."""

    def __init__(self, url: str, token: str | None) -> None:
        self.url = url
        self._urls: dict[str, httpx.URL] = {}
        self._headers = [
            (b"Host", httpx.URL(url).netloc),
            (b"Content-Type", b"application/json"),
            (b"Accept", b"application/json, text/event-stream"),
            (b"User-Agent", b"pytest-lmstudio"),
        ]
        if token:
            self._headers.append((b"Authorization", f"Bearer {token}".encode("ascii")))
        self._kept = _connections(url, httpx.Limits(max_connections=None, keepalive_expiry=KEEPALIVE_EXPIRY_S))
        self._fresh = _connections(url, httpx.Limits(max_connections=None, max_keepalive_connections=0))

    async def exchange(  # noqa: D417  # the rest is HTTP
        self, method: str, path: str, content: bytes = b"", progress: _Progress | None = None, *, fresh: bool = False
    ) -> httpx.Response:
        """Send one request and return its answer, the body not yet read.

        Args:
            fresh: use no kept connection; several may have died at once.
        """
        if path not in self._urls:
            self._urls[path] = httpx.URL(self.url + path)
        request = httpx.Request(
            method,
            self._urls[path],
            headers=self._headers,
            content=content,
            extensions={"timeout": {}, **({"trace": progress.trace} if progress else {})},
        )
        response = await (self._fresh if fresh else self._kept).handle_async_request(request)
        response.request = request
        return response

    async def close(self) -> None:
        """Close every connection."""
        await self._kept.aclose()
        await self._fresh.aclose()


def _connections(url: str, limits: httpx.Limits) -> httpx.AsyncHTTPTransport:
    secure = urlsplit(url).scheme == "https"
    return httpx.AsyncHTTPTransport(verify=secure, trust_env=not is_loopback(url), limits=limits, proxy=_proxy(url))


def _proxy(url: str) -> str | None:
    parts = urlsplit(url)
    if is_loopback(url) or proxy_bypass(parts.hostname or ""):
        return None
    proxies = getproxies()
    return proxies.get(parts.scheme) or proxies.get("all")


async def get_json(transport: Transport, path: str, timeout_s: float) -> tuple[int, Any]:
    """Return status and JSON body of a GET; the body is None when it is no JSON.

    Raises:
        AttemptFailed: no answer came in time, or none at all.
    """
    progress = _Progress(time.monotonic())
    try:
        async with asyncio.timeout(timeout_s):
            response = await transport.exchange("GET", path, progress=progress)
            try:
                text = await _read(response)
            finally:
                await response.aclose()
    except (TimeoutError, httpx.HTTPError, OSError, Refused) as error:
        raise AttemptFailed(_failure(error, progress, timeout_s), progress.elapsed_ms(), 0) from None
    return response.status_code, _json(text)


async def run_attempt(  # noqa: PLR0913  # one attempt needs all of it
    transport: Transport,
    path: str,
    content: bytes,
    *,
    timeout_s: float,
    check: Callable[[object], dict[str, Any]],
    on_piece: Callable[[str], None] | None = None,
) -> Answer:
    """Send one request and return its whole answer.

    A kept connection that dies before the first byte of an answer is replaced once, at once, within the same deadline: the
    server closed it while it was idle and never saw the request.

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
    progress = _Progress(started_s, until_s=started_s + timeout_s - _TAIL_S / 5)
    try:
        async with asyncio.timeout(timeout_s):
            while True:
                try:
                    body, pieces = await _exchange(transport, path, content, progress, on_piece, stale_reconnects)
                    break
                except httpx.TransportError:
                    if stale_reconnects or progress.fresh or progress.answered:
                        raise
                    stale_reconnects = 1
                    progress = _Progress(started_s, until_s=progress.until_s)
            body = check(body)
    except (TimeoutError, httpx.HTTPError, OSError, wire.BadAnswer, wire.StreamError, Refused) as error:
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
    progress: _Progress,
    on_piece: Callable[[str], None] | None,
    stale_reconnects: int,
) -> tuple[Any, tuple[int, ...]]:
    response = await transport.exchange("POST", path, content, progress, fresh=stale_reconnects > 0)
    try:
        if response.status_code == httpx.codes.OK and _is_stream(response):
            return await _read_stream(response, progress, on_piece)
        text = await _read(response, progress)
    finally:
        await response.aclose()
    body = _json(text)
    if response.status_code != httpx.codes.OK or (isinstance(body, dict) and body.get("error")):
        raise Refused(classify(response.status_code, response.headers, body, text))
    if body is None:
        msg = "the answer is no JSON"
        raise wire.BadAnswer(msg)
    if on_piece and isinstance(body, dict):
        on_piece(wire.text_of(wire.message_of(body).get("content")))
    return body, ()


def _is_stream(response: httpx.Response) -> bool:
    return str(response.headers.get("content-type", "")).startswith("text/event-stream")


async def _read(response: httpx.Response, progress: _Progress | None = None) -> str:
    """Return the body as text; bytes that are no UTF-8 are left to the JSON parser's eyes as replacement characters."""
    chunks = []
    async for chunk in _chunks(response, progress):
        chunks.append(chunk)
    try:
        return b"".join(chunks).decode()
    except UnicodeDecodeError:
        if response.status_code == httpx.codes.OK:
            msg = "the answer holds bytes that are no UTF-8"
            raise Refused(Failure(ErrorKind.INVALID_RESPONSE, msg, status=200)) from None
        return b"".join(chunks).decode(errors="replace")


async def _chunks(response: httpx.Response, progress: _Progress | None = None) -> AsyncIterator[bytes]:
    """Yield the decoded body, up to the limit."""
    size = 0
    encoded = response.headers.get("content-encoding", "identity") != "identity"
    # What is not compressed needs none of httpx's decoders, which cost as much as the rest of a short stream.
    async for chunk in response.aiter_bytes() if encoded else response.stream:  # type: ignore[union-attr]  # an async one
        if progress is not None:
            progress.phase = "receiving"
        size += len(chunk)
        if size > MOST_ANSWER_BYTES:
            msg = f"the answer is larger than {MOST_ANSWER_BYTES // 2**20} MiB"
            raise Refused(Failure(ErrorKind.INVALID_RESPONSE, msg, status=response.status_code))
        yield chunk


async def _read_stream(
    response: httpx.Response, progress: _Progress, on_piece: Callable[[str], None] | None
) -> tuple[dict[str, Any], tuple[int, ...]]:
    events = wire.EventStream()
    lengths: list[int] = []
    chunks = _chunks(response, progress)
    try:
        async for chunk in chunks:
            _take(events.feed(chunk), events, progress, lengths, on_piece)
            if events.done:
                progress.whole_s = time.monotonic()
                await _drain(chunks, min(_TAIL_S, progress.until_s - progress.whole_s))
                break
        _take(events.close(), events, progress, lengths, on_piece)
    except httpx.TransportError:
        # The server said that the answer is whole; how it hangs up does not matter.
        if not events.complete:
            raise
    return events.body(), tuple(lengths)


def _take(
    pieces: list[str],
    events: wire.EventStream,
    progress: _Progress,
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
    with suppress(TimeoutError, httpx.TransportError):
        async with asyncio.timeout(most_s):
            async for _ in chunks:
                pass


def _json(text: str) -> Any:
    try:
        return json.loads(text)
    except (ValueError, RecursionError):
        return None


def _failure(error: Exception, progress: _Progress, timeout_s: float) -> Failure:
    """Return the failure that an exception of an attempt means."""
    if isinstance(error, Refused):
        return error.failure
    if isinstance(error, wire.StreamError):
        return classify(200, {}, error.body, str(error))
    if isinstance(error, wire.BadAnswer):
        return Failure(ErrorKind.INVALID_RESPONSE, str(error), progress.phase, 200)
    if isinstance(error, httpx.ConnectError | httpx.ConnectTimeout | httpx.ProxyError):
        return Failure(ErrorKind.CONNECT, f"no connection: {error}", "connecting")
    if isinstance(error, TimeoutError):
        limit = f"{timeout_s:g} s passed before the answer was whole"
        return Failure(ErrorKind.TIMEOUT, limit, progress.phase, cut_at_limit=True)
    if isinstance(error, httpx.DecodingError):
        return Failure(ErrorKind.INVALID_RESPONSE, f"the answer cannot be decoded: {error}", progress.phase, 200)
    kind = ErrorKind.CONNECT if progress.phase == "connecting" else ErrorKind.DISCONNECT
    return Failure(kind, f"{type(error).__name__}: {error}", progress.phase)
