"""One client's connection: requests in, one exchange at a time, closed when idle for too long."""

from __future__ import annotations

import asyncio
import socket
import struct
import sys
from typing import TYPE_CHECKING, cast

from tests.standin import http1
from tests.standin.dispatch import handle
from tests.standin.exchange import ClientLeftError
from tests.standin.journal import LEFT

if TYPE_CHECKING:
    from tests.standin.exchange import Exchange
    from tests.standin.server import StandIn

NO_LINGER = struct.pack("hh" if sys.platform == "win32" else "ii", 1, 0)


class Connection(asyncio.Protocol):
    """The server's side of one TCP connection, on the server's loop."""

    def __init__(self, server: StandIn, number: int) -> None:
        self.server = server
        self.number = number
        self.served = 0
        self.exchange: Exchange | None = None
        self.writable = asyncio.Event()
        self.writable.set()
        self.closed = asyncio.Event()
        self.task: asyncio.Task[None] | None = None
        self.last = False
        self._buffer = bytearray()
        self._arrived = asyncio.Event()
        self.left = False
        self._streamed = False

    # -- asyncio.Protocol --------------------------------------------------------------------------

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast("asyncio.Transport", transport)
        if not self.server.listening:  # accepted just before the server went away
            self._transport.abort()
            return
        self.server.connections.add(self)
        self.task = asyncio.get_running_loop().create_task(self._serve())
        self.task.add_done_callback(lambda _: self._retire())

    def data_received(self, data: bytes) -> None:
        self._buffer += data
        self._arrived.set()

    def eof_received(self) -> None:
        self._leave()

    def connection_lost(self, exc: Exception | None) -> None:
        self._leave()
        self.closed.set()
        self._retire()

    def pause_writing(self) -> None:
        self.writable.clear()

    def resume_writing(self) -> None:
        self.writable.set()

    # -- for exchanges -----------------------------------------------------------------------------

    @property
    def announced_keep_alive_s(self) -> float | None:
        """What the Keep-Alive header says, None for Connection: close."""
        return None if self.last else self.server.keep_alive_s

    def write(self, data: bytes) -> None:
        """Send bytes, as a packet of their own where the system lets it."""
        if not self._transport.is_closing():
            self._transport.write(data)

    def close(self, *, reset: bool = False) -> None:
        """Close with FIN after what was written, or with RST at once."""
        self.last = True
        if not reset:
            self._transport.close()
            return
        raw = self._transport.get_extra_info("socket")
        if raw is not None and raw.fileno() >= 0:
            raw.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, NO_LINGER)
        self._transport.abort()

    def abandon(self, exchange: Exchange) -> None:
        """Book that the client left before the answer was whole."""
        exchange.end("aborted")
        self.server.journal.log(LEFT)
        exchange.interrupt(ClientLeftError())

    def drop(self) -> None:
        """End the connection because the server goes away."""
        if self.exchange is not None:
            self.exchange.end("fault")
        if self.task is not None:
            self.task.cancel()
        self.close(reset=True)

    # -- inside ------------------------------------------------------------------------------------

    def _leave(self) -> None:
        if self.left:
            return
        self.left = True
        self._arrived.set()
        self.writable.set()
        if self.exchange is not None and self.exchange.received.outcome is None:
            self.abandon(self.exchange)
        elif self._streamed and self.server.log_benign_closes:
            self.server.journal.log(LEFT)

    def _retire(self) -> None:
        """Be forgotten once the socket is closed and the request is over: a prompt may be processed for nobody."""
        if self.closed.is_set() and self.task is not None and self.task.done():
            self.server.connections.discard(self)

    async def _serve(self) -> None:
        try:
            while not self.last and (request := await self._next_request()) is not None:
                self.last = request.headers.get("connection", "").lower() == "close"
                await handle(self.server, self, request)
                self.served += 1
                self._streamed = self.exchange is not None and self.exchange.stream
                self.exchange = None
        finally:
            self._transport.close()

    async def _next_request(self) -> http1.Request | None:
        while True:
            try:
                request = http1.parse_request(self._buffer)
            except http1.BadRequestError:
                self.write(b"HTTP/1.1 400 Bad Request\r\nConnection: close\r\n\r\n")
                return None
            if request is not None:
                del self._buffer[: request.size]
                return request
            if self.left or not await self._more():
                return None

    async def _more(self) -> bool:
        """Wait for bytes; only a connection that was used and is idle now is given up."""
        self._arrived.clear()
        idle_s = self.server.keep_alive_s if self.served and not self._buffer else None
        try:
            async with asyncio.timeout(idle_s):
                await self._arrived.wait()
        except TimeoutError:
            return False
        return True
