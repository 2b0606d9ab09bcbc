"""What becomes of a call when the wait for it ends first: cancelled, unless an interrupt ended the wait."""

from __future__ import annotations

import asyncio
import os
import signal
import sys
from concurrent.futures import CancelledError, Future
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any, cast

import pytest

from pytest_lmstudio.client.waiting import leave, wait, wait_async

if TYPE_CHECKING:
    from collections.abc import Callable

    from pytest_lmstudio.runtime import Runtime

pytestmark = pytest.mark.timeout(30)


class TimesUp(BaseException):
    """What a plugin raises in a test that took too long."""


def runtime(loop_wait: Callable[[Future[Any]], Any] = Future.result, *, interrupted: bool = False) -> Runtime:
    return cast("Runtime", SimpleNamespace(interrupted=interrupted, loop=SimpleNamespace(wait=loop_wait)))


def raising(error: BaseException) -> Callable[[Future[Any]], Any]:
    def loop_wait(_: Future[Any]) -> Any:
        raise error

    return loop_wait


@pytest.mark.parametrize(
    ("error", "interrupted", "cancelled"),
    [
        (TimesUp(), False, True),
        (TimesUp(), True, False),
        (KeyboardInterrupt(), False, False),
        (KeyboardInterrupt(), True, False),
    ],
)
def test_a_test_that_cannot_wait_ends_its_call_but_for_an_interrupt(
    error: BaseException, *, interrupted: bool, cancelled: bool
) -> None:
    future: Future[Any] = Future()
    with pytest.raises(type(error)):
        wait(runtime(raising(error), interrupted=interrupted), future)
    assert future.cancelled() is cancelled


def test_the_last_is_ended_first_so_that_none_is_sent_in_place_of_another() -> None:
    ended: list[int] = []
    futures: list[Future[Any]] = [Future() for _ in range(3)]
    for number, future in enumerate(futures):
        future.add_done_callback(lambda _, number=number: ended.append(number))  # type: ignore[misc]  # a default
    leave(runtime(), futures)
    assert ended == [2, 1, 0]


@pytest.mark.parametrize("interrupted", [False, True])
def test_those_that_ended_already_are_told_but_for_an_interrupt(*, interrupted: bool) -> None:
    ended, lost, waiting = (Future[Any]() for _ in range(3))
    ended.set_result(1)
    lost.cancel()
    assert leave(runtime(interrupted=interrupted), [ended, lost, waiting]) == ([] if interrupted else [ended])
    assert waiting.cancelled() is not interrupted


def test_a_loop_that_is_gone_is_no_trouble() -> None:
    class Gone(Future[Any]):
        def cancel(self) -> bool:
            msg = "Event loop is closed"
            raise RuntimeError(msg)

    one: Future[Any] = Future()
    leave(runtime(), [one, Gone()])
    assert one.cancelled()


def test_coroutines_get_result_error_and_cancellation() -> None:
    async def work() -> list[Any]:
        good, bad, gone = (Future[Any]() for _ in range(3))
        loop = asyncio.get_running_loop()
        loop.call_soon(good.set_result, 5)
        loop.call_soon(bad.set_exception, ValueError("bad"))
        loop.call_soon(gone.cancel)
        return await asyncio.gather(*(wait_async(runtime(), one) for one in (good, bad, gone)), return_exceptions=True)

    good, bad, gone = asyncio.run(work())
    assert good == 5
    assert str(bad) == "bad"
    assert isinstance(gone, asyncio.CancelledError)


@pytest.mark.parametrize("interrupted", [False, True])
def test_a_coroutine_that_is_cancelled_ends_its_call_but_for_an_interrupt(*, interrupted: bool) -> None:
    future: Future[Any] = Future()

    async def work() -> None:
        with pytest.raises(TimeoutError):
            await asyncio.wait_for(wait_async(runtime(interrupted=interrupted), future), 0.01)

    asyncio.run(work())
    assert future.cancelled() is not interrupted


def test_an_answer_that_comes_when_the_tests_loop_is_closed_is_nobodys(caplog: pytest.LogCaptureFixture) -> None:
    future: Future[Any] = Future()

    async def work() -> None:
        task = asyncio.create_task(wait_async(runtime(interrupted=True), future))
        await asyncio.sleep(0)
        task.cancel()

    asyncio.run(work())
    future.set_result(5)
    assert caplog.records == []


def test_ctrl_c_inside_the_coroutine_leaves_the_call_alone() -> None:
    """As trio raises it."""
    future: Future[Any] = Future()

    async def work() -> None:
        waiting = wait_async(runtime(), future)
        waiting.send(None)
        with pytest.raises(KeyboardInterrupt):
            waiting.throw(KeyboardInterrupt())

    asyncio.run(work())
    assert not future.done()


@pytest.mark.skipif(sys.platform == "win32", reason="a process cannot send itself SIGINT")
@pytest.mark.parametrize("runner", [True, False], ids=["asyncio.Runner", "no runner"])
def test_ctrl_c_in_an_event_loop_leaves_the_call_alone(*, runner: bool) -> None:
    """A runner cancels its task; else Ctrl-C leaves the loop, and whoever closes that cancels what is left."""
    future: Future[Any] = Future()

    async def work() -> None:
        asyncio.get_running_loop().call_soon(os.kill, os.getpid(), signal.SIGINT)
        await wait_async(runtime(), future)

    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    try:
        with pytest.raises(KeyboardInterrupt):
            asyncio.run(work()) if runner else without_runner(work())
    finally:
        signal.signal(signal.SIGINT, before)
    assert not future.cancelled()
    assert not future.done()


def without_runner(work: Any) -> None:
    """Run a coroutine as anyio's plugin does: tasks that are left are cancelled while Ctrl-C goes up."""
    loop = asyncio.new_event_loop()
    try:
        task = loop.create_task(work)
        try:
            loop.run_until_complete(task)
        finally:
            task.cancel()
            loop.run_until_complete(asyncio.gather(task, return_exceptions=True))
    finally:
        loop.close()


def test_a_cancelled_future_tells_so_in_a_thread() -> None:
    future: Future[Any] = Future()
    future.cancel()
    with pytest.raises(CancelledError):
        wait(runtime(), future)
