"""The connections of one process to one server. The only module that knows httpx."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit
from urllib.request import getproxies, proxy_bypass

import httpx

from pytest_lmstudio.engine.classify import Failure, Refused
from pytest_lmstudio.errors import ErrorKind
from pytest_lmstudio.values import is_loopback

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Awaitable, Callable, Mapping

    Trace = Callable[[str, Any], Awaitable[None]]

#: An answer above this is cut off: no eval needs it, and it would fill memory, log and cache.
MOST_ANSWER_BYTES = 32 * 2**20
#: The server closes an idle connection after 5 s (its Keep-Alive header says so); leaving it earlier avoids the race.
KEEPALIVE_EXPIRY_S = 2.0


class Broken(Exception):
    """A connection that could not be made, or that broke.

    Attributes:
        unmade: whether it was never made.
    """

    def __init__(self, error: Exception) -> None:
        self.unmade = isinstance(error, httpx.ConnectError | httpx.ConnectTimeout | httpx.ProxyError)
        super().__init__(f"no connection: {error}" if self.unmade else f"{type(error).__name__}: {error}")


class Response:
    """An answer whose body is still to be read."""

    def __init__(self, response: httpx.Response) -> None:
        self._response = response

    @property
    def status(self) -> int:
        """Return the HTTP status."""
        return self._response.status_code

    @property
    def ok(self) -> bool:
        """Tell whether the status is 200."""
        return self.status == httpx.codes.OK

    @property
    def headers(self) -> Mapping[str, str]:
        """Return the headers; names are looked up in lower case."""
        return self._response.headers

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
        packed = self.headers.get("content-encoding", "identity") != "identity"
        # What is not packed needs none of httpx's decoders, which cost as much as the rest of a short stream.
        body = self._response.aiter_bytes() if packed else self._response.stream
        try:
            async for chunk in body:  # type: ignore[union-attr]  # an async one
                size += len(chunk)
                if size > MOST_ANSWER_BYTES:
                    msg = f"the answer is larger than {MOST_ANSWER_BYTES // 2**20} MiB"
                    raise self._refused(msg)
                yield chunk
        except httpx.DecodingError as error:
            msg = f"the answer cannot be decoded: {error}"
            raise self._refused(msg) from None
        except (httpx.HTTPError, OSError) as error:
            raise Broken(error) from None

    async def close(self) -> None:
        """Give the connection back, or up when the body was not read to its end."""
        await self._response.aclose()

    def _refused(self, message: str) -> Refused:
        return Refused(Failure(ErrorKind.INVALID_RESPONSE, message, status=self.status))


class Transport:
    """The connections of one process to one server; belongs to the loop it is used on.

    Args:
        url: the server's base URL.
        token: the API token, or None.
    """

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

    async def send(
        self, method: str, path: str, content: bytes = b"", *, trace: Trace, fresh: bool = False
    ) -> Response:
        """Send one request; return its answer, to be closed.

        Args:
            method: GET or POST.
            path: behind the base URL.
            content: the body.
            trace: called with the name of each step of the exchange, as httpcore names them.
            fresh: use no kept connection; several may have died at once.

        Raises:
            Broken: the connection could not be made, or broke.
        """
        if path not in self._urls:
            self._urls[path] = httpx.URL(self.url + path)
        extensions = {"timeout": {}, "trace": trace}
        request = httpx.Request(method, self._urls[path], headers=self._headers, content=content, extensions=extensions)
        try:
            response = await (self._fresh if fresh else self._kept).handle_async_request(request)
        except (httpx.HTTPError, OSError) as error:
            raise Broken(error) from None
        response.request = request
        return Response(response)

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
