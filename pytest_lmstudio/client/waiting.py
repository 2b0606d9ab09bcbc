"""How a test waits for the engine, and what becomes of a call when the wait ends before the call does."""

from __future__ import annotations

import asyncio
import signal
import sys
from concurrent import futures
from contextlib import suppress
from typing import TYPE_CHECKING, TypeVar

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from concurrent.futures import Future

    from pytest_lmstudio.runtime import Runtime

#: pytest leaves these frames out of a traceback: what a test did wrong stands in the test.
__tracebackhide__ = True

T = TypeVar("T")
#: How long some dozens of requests take to be sent, on a slow machine.
_SENDING_S = 0.03


def wait(runtime: Runtime, future: Future[T], meanwhile: Callable[[], object] | None = None) -> T:
    """Wait in the test's thread.

    Args:
        runtime: what the process opened for calls.
        future: the call.
        meanwhile: called when the requests that were begun have had a moment to be sent.
    """
    try:
        if meanwhile is not None:
            futures.wait([future], _SENDING_S)
            meanwhile()
        return runtime.loop.wait(future)
    except BaseException as cut:
        leave(runtime, [future], cut)
        raise


async def wait_async(runtime: Runtime, future: Future[T]) -> T:
    """Wait for a call in whichever event loop the test runs."""
    cut: BaseException
    try:
        return await result_of(future)
    except BaseException as error:  # noqa: BLE001  # raised below
        cut = error
    leave(runtime, [future], cut)
    raise cut


async def result_of(future: Future[T]) -> T:
    """Wait in asyncio's event loop, or anyio's other one; a wait that is cut leaves the future to its own fate."""
    loop = _running_loop()
    if loop is not None:
        return await _settled(loop, future)
    from anyio import to_thread  # httpx brings it; only tests on trio need it here

    return await to_thread.run_sync(future.result, abandon_on_cancel=True)


def leave(runtime: Runtime, futures: Sequence[Future[T]], cut: BaseException | None = None) -> Sequence[Future[T]]:
    """End calls that the test went on without; those that an interrupt took from it end in their own time.

    Args:
        runtime: what the process opened for calls.
        futures: the calls.
        cut: what ended the wait. A coroutine calls this when it does not handle that any more: then the exception that
            is handled is the one that ends the test's event loop, if that is what cancelled the coroutine.

    Returns:
        Those that had come to their end already, and of which nobody will hear.
    """
    if runtime.interrupted or isinstance(cut, KeyboardInterrupt) or _is_interrupt():
        return []
    for future in reversed(futures):  # else the slot of one goes to the next, which is sent for nothing
        with suppress(RuntimeError):  # the engine's loop, and the call with it, has ended already
            future.cancel()
    return [future for future in futures if not future.cancelled() and future.done()]


def _is_interrupt() -> bool:
    """Tell whether Ctrl-C is what ends the present wait.

    `asyncio.Runner` turns it into the cancellation of its task, and keeps to itself that it did. Should it not tell any
    more one day, such a call is cancelled at once.
    """
    runner = getattr(getattr(signal.getsignal(signal.SIGINT), "func", None), "__self__", None)
    return isinstance(sys.exception(), KeyboardInterrupt) or bool(getattr(runner, "_interrupt_count", 0))


def _running_loop() -> asyncio.AbstractEventLoop | None:
    try:
        return asyncio.get_running_loop()
    except RuntimeError:
        return None


async def _settled(loop: asyncio.AbstractEventLoop, future: Future[T]) -> T:
    """Wait for a future of another thread; unlike `asyncio.wrap_future`, cancel it not when the wait is cancelled."""
    settled = asyncio.Event()

    def tell(_: Future[T]) -> None:
        with suppress(RuntimeError):  # the test's loop is closed
            loop.call_soon_threadsafe(settled.set)

    future.add_done_callback(tell)
    await settled.wait()
    if future.cancelled():
        raise asyncio.CancelledError
    return future.result()
