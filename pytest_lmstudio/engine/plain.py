"""HTTP/1.1 without TLS or a proxy, on asyncio's streams: kept connections, one write a request, h11 for the protocol.

A local model server is reached this way. httpx's own transport needs ten turns of the loop and two writes for the same
exchange, which on loopback is most of what a call costs.
"""

from __future__ import annotations

import asyncio
import socket
import time
from contextlib import suppress
from functools import lru_cache, partial
from typing import TYPE_CHECKING

import h11

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Iterable

    from pytest_lmstudio.engine.progress import Progress

#: What a connection that breaks, or a server that does not speak HTTP, raises here.
ERRORS = (OSError, h11.RemoteProtocolError)
_CHUNK_BYTES = 65_536
_HAPPY_EYEBALLS_S = 0.25
#: Heads of requests that are kept: prompts of an eval are of much the same length.
_REQUESTS = 256


class Connection:
    """One connection, and what h11 knows of it."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._reader = reader
        self._writer = writer
        self._http = h11.Connection(h11.CLIENT)
        self.idle_since_s = 0.0

    @property
    def dead(self) -> bool:
        """Tell whether the server is known to have closed it."""
        return self._reader.at_eof() or self._writer.is_closing()

    async def write(self, request: h11.Request, content: bytes) -> None:
        """Send a whole request at once."""
        parts = [self._http.send(request)]
        if content:
            parts.append(self._http.send(h11.Data(content)))
        parts.append(self._http.send(h11.EndOfMessage()))
        self._writer.write(b"".join(part for part in parts if part))
        await self._writer.drain()

    async def head(self) -> h11.Response:
        """Return the head of the answer; what comes before it is informational, such as 103 Early Hints."""
        while not isinstance(event := await self._event(), h11.Response):
            pass
        return event

    async def body(self) -> AsyncIterator[bytes]:
        """Yield the body of the answer as it comes."""
        while isinstance(event := await self._event(), h11.Data):
            yield bytes(event.data)

    async def _event(self) -> object:
        while (event := self._http.next_event()) is h11.NEED_DATA:
            data = await self._reader.read(_CHUNK_BYTES)
            if not data and self._http.their_state is h11.SEND_RESPONSE:
                msg = "the server closed the connection without an answer"
                raise h11.RemoteProtocolError(msg)
            self._http.receive_data(data)
        return event

    def ready_again(self) -> bool:
        """Make ready for the next request, if the exchange came to its end and the server keeps the connection."""
        if self._http.our_state is not h11.DONE or self._http.their_state is not h11.DONE:
            return False
        if self._http.trailing_data[0]:  # a body longer than announced: it would be read as the next answer
            return False
        self._http.start_next_cycle()
        self.idle_since_s = time.monotonic()
        return True

    def close(self) -> None:
        """Hang up at once, which is what makes a server stop generating.

        Not in the loop's next turn, as `abort` alone does: by then the place may be another process's.
        """
        with suppress(OSError):
            self._writer.get_extra_info("socket").shutdown(socket.SHUT_RDWR)
        self._writer.transport.abort()


class Answer:
    """An answer whose body is still to be read.

    Attributes:
        status: the HTTP status.
        headers: by lower-case name.
    """

    def __init__(self, head: h11.Response, connection: Connection, pool: Pool) -> None:
        self.status = head.status_code
        self.headers = {name.decode("latin-1"): value.decode("latin-1") for name, value in head.headers}
        self._connection = connection
        self._pool = pool

    def body(self) -> AsyncIterator[bytes]:
        """Return the pieces of the body as they come."""
        return self._connection.body()

    async def close(self) -> None:
        """Keep the connection when the body was read to its end, else hang up."""
        self._pool.take_back(self._connection)


class Pool:
    """Connections to one server.

    Args:
        host: name or address.
        port: TCP port.
        headers: of every request; h11 takes time to look them over, so requests of one length share theirs.
        keep_s: how long a connection is kept while nobody uses it.
    """

    def __init__(self, host: str, port: int, headers: Iterable[tuple[bytes, bytes]], keep_s: float) -> None:
        self._host = host
        self._port = port
        self._keep_s = keep_s
        self._request = lru_cache(_REQUESTS)(partial(_request, list(headers)))
        self._race_s = None if _is_address(host) else _HAPPY_EYEBALLS_S
        self._idle: list[Connection] = []

    async def send(self, method: str, target: str, content: bytes, progress: Progress, *, fresh: bool) -> Answer:
        """Send one request and return its answer; one of `ERRORS` is raised when the connection fails."""
        request = self._request(method, target, len(content))
        connection = None if fresh else self._kept()
        if connection is None:
            progress.fresh = True
            connection = await self._connect()
            progress.connected = True
        try:
            await connection.write(request, content)
            progress.phase = "waiting"
            head = await connection.head()
        except BaseException:
            connection.close()
            raise
        progress.answered = True
        return Answer(head, connection, self)

    def take_back(self, connection: Connection) -> None:
        """Keep a connection for the next request, or hang up."""
        if connection.ready_again():
            self._idle.append(connection)
        else:
            connection.close()

    async def close(self) -> None:
        """Close every connection that nobody uses."""
        while self._idle:
            self._idle.pop().close()
        await asyncio.sleep(0)  # the loop closes the sockets in its next turn

    async def _connect(self) -> Connection:
        streams = await asyncio.open_connection(self._host, self._port, happy_eyeballs_delay=self._race_s)
        return Connection(*streams)

    def _kept(self) -> Connection | None:
        """Return the connection used last, as long as the server has most likely kept it too."""
        oldest_s = time.monotonic() - self._keep_s
        while self._idle:
            connection = self._idle.pop()
            if connection.idle_since_s >= oldest_s and not connection.dead:
                return connection
            connection.close()
        return None


def _request(headers: list[tuple[bytes, bytes]], method: str, target: str, length: int) -> h11.Request:
    """Return the head of a request."""
    measured = [(b"Content-Length", b"%d" % length)] if length else []
    return h11.Request(method=method, target=target, headers=[*headers, *measured])


def _is_address(host: str) -> bool:
    """Tell whether a host is one address; a name may have several, of which not all answer."""
    try:
        socket.inet_pton(socket.AF_INET6 if ":" in host else socket.AF_INET, host)
    except OSError:
        return False
    return True
