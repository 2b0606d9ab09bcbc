"""The connections of one process to one server. The only module that knows httpx."""

from __future__ import annotations

import zlib
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit
from urllib.request import getproxies, proxy_bypass

import httpx

from pytest_lmstudio.engine import plain
from pytest_lmstudio.engine.classify import Failure, Refused
from pytest_lmstudio.errors import ErrorKind
from pytest_lmstudio.text import printable
from pytest_lmstudio.values import is_loopback

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Awaitable, Callable, Mapping

    from pytest_lmstudio.engine.progress import Progress

#: An answer above this is cut off: no eval needs it, and it would fill memory, log and cache.
MOST_ANSWER_BYTES = 32 * 2**20
#: The server closes an idle connection after 5 s (its Keep-Alive header says so); leaving it earlier avoids the race.
KEEPALIVE_EXPIRY_S = 2.0
_OK = 200
_ENCODINGS = {"gzip", "x-gzip", "deflate"}
_GZIP_OR_ZLIB = zlib.MAX_WBITS | 32
_UNPACKED_BYTES = 65_536


class Broken(Exception):
    """A connection that could not be made, or that broke.

    Attributes:
        unmade: whether it was never made.
    """

    def __init__(self, error: Exception, *, unmade: bool) -> None:
        self.unmade = unmade
        super().__init__(f"no connection: {error}" if unmade else f"{type(error).__name__}: {error}")


class Response:
    """An answer whose body is still to be read.

    Attributes:
        status: the HTTP status.
        headers: by lower-case name.
    """

    def __init__(
        self,
        status: int,
        headers: Mapping[str, str],
        body: AsyncIterator[bytes],
        close: Callable[[], Awaitable[None]],
    ) -> None:
        self.status = status
        self.headers = headers
        self._body = body
        self._close = close

    @property
    def ok(self) -> bool:
        """Tell whether the status is 200."""
        return self.status == _OK

    @property
    def is_stream(self) -> bool:
        """Tell whether the body is an event stream."""
        return self.headers.get("content-type", "").startswith("text/event-stream")

    async def chunks(self) -> AsyncIterator[bytes]:
        """Yield the body, unpacked, up to the limit.

        Raises:
            Broken: the connection broke.
            Refused: the body is too large, or cannot be unpacked.
        """
        size = 0
        encoding = self.headers.get("content-encoding", "identity").strip().lower() or "identity"
        try:
            async for chunk in self._body if encoding == "identity" else self._unpacked(encoding):
                size += len(chunk)
                if size > MOST_ANSWER_BYTES:
                    msg = f"the answer is larger than {MOST_ANSWER_BYTES // 2**20} MiB"
                    raise self._refused(msg)
                yield chunk
        except zlib.error as error:
            msg = f"the answer cannot be decoded: {error}"
            raise self._refused(msg) from None
        except (httpx.HTTPError, *plain.ERRORS) as error:
            raise Broken(error, unmade=False) from None

    async def close(self) -> None:
        """Give the connection back, or up when the body was not read to its end."""
        await self._close()

    async def _unpacked(self, encoding: str) -> AsyncIterator[bytes]:
        """Undo the content encoding, a little at a time: a few kilobytes can unpack to gigabytes."""
        if encoding not in _ENCODINGS:
            msg = f"the answer cannot be decoded: nobody asked for the encoding {printable(encoding, limit=40)}"
            raise self._refused(msg)
        unpacker = zlib.decompressobj(wbits=_GZIP_OR_ZLIB)
        async for chunk in self._body:
            packed = chunk
            while packed and not unpacker.eof:  # what follows the end would be collected
                yield unpacker.decompress(packed, _UNPACKED_BYTES)
                packed = unpacker.unconsumed_tail

    def _refused(self, message: str) -> Refused:
        return Refused(Failure(ErrorKind.INVALID_RESPONSE, message, status=self.status))


class Transport:
    """The connections of one process to one server; belongs to the loop it is used on.

    A server without TLS and without a proxy in between is reached by `plain`, any other by httpx.

    Args:
        url: the server's base URL.
        token: the API token, or None.
    """

    def __init__(self, url: str, token: str | None) -> None:
        self.url = url
        parts, proxy = httpx.URL(url), _proxy(url)
        self._path = parts.path.rstrip("/")
        self._headers = [
            (b"Host", parts.netloc),
            (b"Content-Type", b"application/json"),
            (b"Accept", b"application/json, text/event-stream"),
            (b"User-Agent", b"pytest-lmstudio"),
        ]
        if token:
            self._headers.append((b"Authorization", f"Bearer {token}".encode("ascii")))
        self._httpx = None if parts.scheme == "http" and proxy is None else _Httpx(url, proxy)
        self._plain = plain.Pool(parts.raw_host.decode("ascii"), parts.port or 80, KEEPALIVE_EXPIRY_S)

    async def send(
        self, method: str, path: str, content: bytes = b"", *, progress: Progress, fresh: bool = False
    ) -> Response:
        """Send one request; return its answer, to be closed.

        Args:
            method: GET or POST.
            path: behind the base URL.
            content: the body.
            progress: told how far the exchange gets.
            fresh: use no kept connection; several may have died at once.

        Raises:
            Broken: the connection could not be made, or broke.
        """
        if self._httpx is not None:
            return await self._httpx.send(method, self.url + path, self._headers, content, progress, fresh=fresh)
        try:
            target = self._path + path
            answer = await self._plain.send(method, target, self._headers, content, progress, fresh=fresh)
        except plain.ERRORS as error:
            raise Broken(error, unmade=progress.fresh and not progress.connected) from None
        return Response(answer.status, answer.headers, answer.body(), answer.close)

    async def close(self) -> None:
        """Close every connection."""
        await self._plain.close()
        if self._httpx is not None:
            await self._httpx.close()


class _Httpx:
    """Connections through TLS or a proxy."""

    def __init__(self, url: str, proxy: str | None) -> None:
        self._kept = _connections(url, proxy, httpx.Limits(max_connections=None, keepalive_expiry=KEEPALIVE_EXPIRY_S))
        self._fresh = _connections(url, proxy, httpx.Limits(max_connections=None, max_keepalive_connections=0))

    async def send(  # one request needs all of it
        self,
        method: str,
        url: str,
        headers: list[tuple[bytes, bytes]],
        content: bytes,
        progress: Progress,
        *,
        fresh: bool,
    ) -> Response:
        extensions = {"timeout": {}, "trace": _trace(progress)}
        request = httpx.Request(method, url, headers=headers, content=content, extensions=extensions)
        try:
            response = await (self._fresh if fresh else self._kept).handle_async_request(request)
        except (httpx.HTTPError, OSError) as error:
            unmade = isinstance(error, httpx.ConnectError | httpx.ConnectTimeout | httpx.ProxyError)
            raise Broken(error, unmade=unmade) from None
        lowered = {name.lower(): value for name, value in response.headers.items()}
        return Response(response.status_code, lowered, response.aiter_raw(), response.aclose)

    async def close(self) -> None:
        await self._kept.aclose()
        await self._fresh.aclose()


def _trace(progress: Progress) -> Callable[[str, Any], Awaitable[None]]:
    """Return what httpcore calls with the name of each step of an exchange."""

    async def trace(step: str, _: Any) -> None:
        if step == "http11.send_request_body.complete":
            progress.phase = "waiting"
        elif step == "connection.connect_tcp.started":
            progress.fresh = True
        elif step == "http11.receive_response_headers.complete":
            progress.answered = True

    return trace


def _connections(url: str, proxy: str | None, limits: httpx.Limits) -> httpx.AsyncHTTPTransport:
    secure = urlsplit(url).scheme == "https"
    return httpx.AsyncHTTPTransport(verify=secure, trust_env=True, limits=limits, proxy=proxy)


def _proxy(url: str) -> str | None:
    parts = urlsplit(url)
    if is_loopback(url) or proxy_bypass(parts.hostname or ""):
        return None
    proxies = getproxies()
    return proxies.get(parts.scheme) or proxies.get("all")
