"""Connections through TLS or a proxy. The only module that knows httpx."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

import httpx

from pytest_lmstudio.engine.response import Broken, Response

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Awaitable, Callable

    from pytest_lmstudio.engine.progress import Progress


class Proxied:
    """Connections to one server through TLS or a proxy.

    Args:
        url: the server's base URL.
        proxy: the proxy's URL, or None.
        headers: of every request.
        keep_s: how long a connection is kept while nobody uses it.
    """

    def __init__(self, url: str, proxy: str | None, headers: list[tuple[bytes, bytes]], keep_s: float) -> None:
        self._headers = headers
        self._kept = _connections(url, proxy, httpx.Limits(max_connections=None, keepalive_expiry=keep_s))
        self._fresh = _connections(url, proxy, httpx.Limits(max_connections=None, max_keepalive_connections=0))

    async def send(self, method: str, url: str, content: bytes, progress: Progress, *, fresh: bool) -> Response:
        """Send one request; return its answer, to be closed.

        Raises:
            Broken: the connection could not be made, or broke.
        """
        extensions = {"timeout": {}, "trace": _trace(progress)}
        request = httpx.Request(method, url, headers=self._headers, content=content, extensions=extensions)
        try:
            response = await (self._fresh if fresh else self._kept).handle_async_request(request)
        except (httpx.HTTPError, OSError) as error:
            unmade = isinstance(error, httpx.ConnectError | httpx.ConnectTimeout | httpx.ProxyError)
            raise Broken(error, unmade=unmade) from None
        lowered = {name.lower(): value for name, value in response.headers.items()}
        return Response(response.status_code, lowered, _body(response), response.aclose)

    async def close(self) -> None:
        """Close every connection."""
        await self._kept.aclose()
        await self._fresh.aclose()


async def _body(response: httpx.Response) -> AsyncIterator[bytes]:
    try:
        async for chunk in response.aiter_raw():
            yield chunk
    except httpx.HTTPError as error:
        raise Broken(error, unmade=False) from None


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
