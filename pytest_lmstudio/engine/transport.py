"""The connections of one process to one server."""

from __future__ import annotations

from typing import TYPE_CHECKING
from urllib.parse import quote, urlsplit

from pytest_lmstudio.engine import plain
from pytest_lmstudio.engine.response import Broken, Response
from pytest_lmstudio.values import is_loopback

if TYPE_CHECKING:
    from pytest_lmstudio.engine.progress import Progress
    from pytest_lmstudio.engine.proxied import Proxied

#: The server closes an idle connection after 5 s (its Keep-Alive header says so); leaving it earlier avoids the race.
KEEPALIVE_EXPIRY_S = 2.0
#: What may stand in a path as it is (RFC 3986, section 3.3).
_PATH_CHARS = "/%:@!$&'()*+,;=~"


class Transport:
    """The connections of one process to one server; belongs to the loop it is used on.

    A server without TLS and without a proxy in between is reached by `plain`, any other by `proxied`, which is httpx.

    Args:
        url: the server's base URL.
        token: the API token, or None.
    """

    def __init__(self, url: str, token: str | None) -> None:
        self.url = url
        parts, proxy = urlsplit(url), _proxy(url)
        host = parts.hostname or ""
        if not host.isascii():  # else there is nothing to encode, and the codec takes a millisecond to load
            host = host.encode("idna").decode("ascii")
        self._path = quote(parts.path.rstrip("/"), safe=_PATH_CHARS)
        headers = [
            (b"Host", _authority(host, parts.port, parts.scheme)),
            (b"Content-Type", b"application/json"),
            (b"Accept", b"application/json, text/event-stream"),
            (b"User-Agent", b"pytest-lmstudio"),
        ]
        if token:
            headers.append((b"Authorization", f"Bearer {token}".encode("ascii")))
        self._proxied = _proxied(url, proxy, headers) if parts.scheme == "https" or proxy is not None else None
        self._plain = plain.Pool(host, parts.port or 80, headers, KEEPALIVE_EXPIRY_S)

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
        if self._proxied is not None:
            return await self._proxied.send(method, self.url + path, content, progress, fresh=fresh)
        try:
            target = self._path + path
            answer = await self._plain.send(method, target, content, progress, fresh=fresh)
        except plain.ERRORS as error:
            raise Broken(error, unmade=progress.fresh and not progress.connected) from None
        return Response(answer.status, answer.headers, answer.body(), answer.close)

    async def close(self) -> None:
        """Close every connection."""
        await self._plain.close()
        if self._proxied is not None:
            await self._proxied.close()


def _authority(host: str, port: int | None, scheme: str) -> bytes:
    """Return the value of the Host header (RFC 9110, section 7.2)."""
    name = f"[{host}]" if ":" in host else host
    usual = 443 if scheme == "https" else 80
    return (name if port in {None, usual} else f"{name}:{port}").encode("ascii")


def _proxied(url: str, proxy: str | None, headers: list[tuple[bytes, bytes]]) -> Proxied:
    from pytest_lmstudio.engine.proxied import Proxied  # httpx is half of what a process loads for its first call

    return Proxied(url, proxy, headers, KEEPALIVE_EXPIRY_S)


def _proxy(url: str) -> str | None:
    if is_loopback(url):
        return None
    from urllib.request import getproxies, proxy_bypass  # loads what a call on this machine never needs

    parts = urlsplit(url)
    if proxy_bypass(parts.hostname or ""):
        return None
    proxies = getproxies()
    return proxies.get(parts.scheme) or proxies.get("all")
