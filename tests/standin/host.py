"""The thread, the event loop and the listening socket; nothing of HTTP."""

from __future__ import annotations

import asyncio
import socket
import threading
from typing import TYPE_CHECKING, Any

from tests.standin.connection import Connection

if TYPE_CHECKING:
    from collections.abc import Coroutine

    from tests.standin.server import StandIn

BACKLOG = 512
ACCEPT_ROUNDS = 3  # of the loop, in which connections accepted just now become ours to close
PATIENCE_S = 30.0


class Host:
    """Runs a server's loop on a thread; `port` stays the same from the first start to the end."""

    def __init__(self, server: StandIn, port: int) -> None:
        self.port = port
        self.listening = False
        self.connections: set[Connection] = set()
        self._server = server
        self._connected = 0
        self._loop: asyncio.AbstractEventLoop | None = None
        self._thread: threading.Thread | None = None
        self._socket: socket.socket | None = None
        self._listener: asyncio.Server | None = None

    def start(self) -> None:
        """Listen; with a new thread when none runs."""
        if self._loop is None:
            self._loop = asyncio.SelectorEventLoop()  # Windows' other loop cannot send a reset
            self._thread = threading.Thread(target=_run, args=[self._loop], name="standin", daemon=True)
            self._thread.start()
        self._call(self._loop, self._listen())

    def stop(self) -> None:
        """Reset what is open and refuse connections, while keeping the port."""
        if self._loop is not None:
            self._call(self._loop, self._go_away())

    def close(self) -> None:
        """End thread and sockets."""
        if self._loop is None or self._thread is None:
            return
        self.stop()
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join()
        self._loop = self._thread = None
        if self._socket is not None:
            self._socket.close()
            self._socket = None

    @staticmethod
    def _call(loop: asyncio.AbstractEventLoop, work: Coroutine[Any, Any, None]) -> None:
        asyncio.run_coroutine_threadsafe(work, loop).result(PATIENCE_S)

    def _connect(self) -> Connection:
        self._connected += 1
        return Connection(self._server, self._connected)

    async def _listen(self) -> None:
        if self.listening:
            return
        bound = self._socket or _bind(self.port)
        self._socket, self.port = None, bound.getsockname()[1]
        self.listening = True
        loop = asyncio.get_running_loop()
        self._listener = await loop.create_server(self._connect, sock=bound, backlog=BACKLOG)

    async def _go_away(self) -> None:
        if self._listener is None:
            return
        self.listening = False
        self._listener.close()
        self._listener = None
        for _ in range(ACCEPT_ROUNDS):
            await asyncio.sleep(0)
        open_now = list(self.connections)
        for connection in open_now:
            connection.drop()
        await asyncio.gather(*(c.task for c in open_now if c.task is not None), return_exceptions=True)
        await asyncio.gather(*(connection.closed.wait() for connection in open_now))
        self._socket = _bind(self.port)  # bound but not listening: it refuses, and nobody else takes the port


def _run(loop: asyncio.AbstractEventLoop) -> None:
    loop.run_forever()
    loop.close()


def _bind(port: int) -> socket.socket:
    # asyncio turns Nagle's delay off only where the protocol is named
    made = socket.socket(socket.AF_INET, socket.SOCK_STREAM, socket.IPPROTO_TCP)
    if hasattr(socket, "SO_REUSEPORT"):  # POSIX; on Windows SO_REUSEADDR would let others take the port
        made.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    made.bind(("127.0.0.1", port))
    return made
