"""The engine's event loop: one a process, on a daemon thread of its own, so that tests may be sync or async."""

from __future__ import annotations

import asyncio
import contextvars
import os
import socket
import sys
import threading
from typing import TYPE_CHECKING, Any, TypeVar

if TYPE_CHECKING:
    from collections.abc import Callable, Coroutine
    from concurrent.futures import Future

#: pytest leaves these frames out of a traceback: what a test did wrong stands in the test.
__tracebackhide__ = True

T = TypeVar("T")

#: On Windows a wait for a lock cannot be interrupted by Ctrl-C, so it is cut into slices.
_SLICE_S = 0.2 if sys.platform == "win32" else None


class Loop:
    """An asyncio loop on a daemon thread."""

    def __init__(self) -> None:
        self._pid = os.getpid()
        self._loop = asyncio.new_event_loop()
        self._loop.getaddrinfo = _getaddrinfo  # type: ignore[method-assign]  # see _getaddrinfo
        self._thread = threading.Thread(target=self._loop.run_forever, name="lmstudio-engine", daemon=True)
        self._thread.start()

    @property
    def usable(self) -> bool:
        """Tell whether this process has the thread; a forked child has not."""
        return self._pid == os.getpid() and self._thread.is_alive()

    def submit(self, work: Coroutine[Any, Any, T]) -> Future[T]:
        """Start work on the loop; return its future.

        In a context of its own: the caller's may say that another async library is running.
        """
        return contextvars.Context().run(asyncio.run_coroutine_threadsafe, work, self._loop)

    def call(self, function: Callable[[], object]) -> None:
        """Call a function on the loop, before all work that is submitted later."""
        self._loop.call_soon_threadsafe(function)

    def run(self, work: Coroutine[Any, Any, T]) -> T:
        """Do work on the loop and wait for it; an interrupt ends the wait, not the work."""
        return self.wait(self.submit(work))

    def wait(self, future: Future[T]) -> T:
        """Wait for a future of this loop."""
        while True:
            try:
                return future.result(_SLICE_S)
            except TimeoutError:
                if future.done():
                    raise

    def close(self) -> None:
        """Stop the loop and end its thread."""
        if not self.usable:
            return
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join(timeout=5)
        if not self._thread.is_alive():
            self._loop.close()


async def _getaddrinfo(  # the loop's own signature
    host: Any,
    port: Any,
    *,
    family: int = 0,
    type: int = 0,  # noqa: A002  # the loop's own signature
    proto: int = 0,
    flags: int = 0,
) -> list[Any]:
    """Look a name up on a daemon thread.

    The loop's own look-up uses a pool whose threads Python waits for at exit, so a hung one would keep the process
    alive long past its deadline.
    """
    loop = asyncio.get_running_loop()
    found: asyncio.Future[list[Any]] = loop.create_future()

    def settle(result: list[Any] | Exception) -> None:
        if found.done():
            return
        if isinstance(result, Exception):
            found.set_exception(result)
        else:
            found.set_result(result)

    def look_up() -> None:
        result: list[Any] | Exception
        try:
            result = socket.getaddrinfo(host, port, family, type, proto, flags)
        except (OSError, UnicodeError) as error:
            result = error if isinstance(error, OSError) else socket.gaierror(str(error))
        if not loop.is_closed():
            loop.call_soon_threadsafe(settle, result)

    threading.Thread(target=look_up, name="lmstudio-dns", daemon=True).start()
    return await found
