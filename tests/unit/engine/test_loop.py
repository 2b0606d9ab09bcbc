"""The engine's own event loop: waiting for it, ending it, and looking names up without keeping the process alive."""

from __future__ import annotations

import asyncio
import socket
import threading
from typing import TYPE_CHECKING, Any

import pytest

from pytest_lmstudio.engine import loop as room
from pytest_lmstudio.engine.loop import Loop

if TYPE_CHECKING:
    from collections.abc import Iterator

pytestmark = pytest.mark.timeout(30)

FOUND = [(socket.AF_INET, socket.SOCK_STREAM, 6, "", ("192.0.2.1", 80))]


@pytest.fixture
def loop() -> Iterator[Loop]:
    one = Loop()
    yield one
    one.close()


class LookUp:
    """Stands for the system's look-up, which hangs until it is told to end."""

    def __init__(self) -> None:
        self.asked, self.end = threading.Event(), threading.Event()
        self.threads: list[threading.Thread] = []

    def __call__(self, *_: Any) -> list[Any]:
        self.threads.append(threading.current_thread())
        self.asked.set()
        assert self.end.wait(20)
        return FOUND

    def finish(self) -> None:
        self.end.set()
        for thread in self.threads:
            thread.join(20)


@pytest.fixture
def hanging(monkeypatch: pytest.MonkeyPatch) -> Iterator[LookUp]:
    look_up = LookUp()
    monkeypatch.setattr(socket, "getaddrinfo", look_up)
    yield look_up
    look_up.finish()


async def look_up() -> list[Any]:
    return await asyncio.get_running_loop().getaddrinfo("lmstudio.example", 80, type=socket.SOCK_STREAM)


def test_a_wait_in_slices_goes_on_until_the_work_is_done(loop: Loop, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(room, "_SLICE_S", 0.001)
    go_on = asyncio.Event()

    async def work() -> str:
        await go_on.wait()
        return "done"

    future = loop.submit(work())
    threading.Timer(0.05, lambda: loop.call(go_on.set)).start()
    assert loop.wait(future) == "done"


def test_a_timeout_of_the_work_itself_ends_the_wait(loop: Loop, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(room, "_SLICE_S", 0.001)

    async def work() -> None:
        msg = "the work's own"
        raise TimeoutError(msg)

    with pytest.raises(TimeoutError, match="the work's own"):
        loop.run(work())


def test_closing_twice_is_closing_once() -> None:
    loop = Loop()
    seen = [loop.usable]
    for _ in range(2):
        loop.close()
        seen.append(loop.usable)
    assert seen == [True, False, False]
    assert loop._loop.is_closed()


def test_a_loop_that_is_kept_busy_is_stopped_and_not_closed_under_its_thread(monkeypatch: pytest.MonkeyPatch) -> None:
    loop, release = Loop(), threading.Event()
    loop.call(lambda: release.wait(20))
    join = loop._thread.join
    monkeypatch.setattr(loop._thread, "join", lambda timeout: None)  # five seconds, shortened
    loop.close()
    assert not loop._loop.is_closed()
    release.set()
    join(20)
    assert not loop._thread.is_alive()
    loop._loop.close()


def test_a_name_is_looked_up_on_a_thread_that_no_exit_waits_for(loop: Loop, hanging: LookUp) -> None:
    hanging.end.set()
    assert loop.run(look_up()) == FOUND
    assert [(thread.name, thread.daemon) for thread in hanging.threads] == [("lmstudio-dns", True)]


@pytest.mark.parametrize(
    ("error", "seen"),
    [
        (socket.gaierror(socket.EAI_NONAME, "unknown"), (socket.gaierror, f"[Errno {socket.EAI_NONAME}] unknown")),
        (UnicodeError("label too long"), (socket.gaierror, "label too long")),
    ],
    ids=["unknown name", "no name at all"],
)
def test_a_name_that_cannot_be_looked_up_is_an_error_of_the_network(
    loop: Loop, monkeypatch: pytest.MonkeyPatch, error: Exception, seen: tuple[type[Exception], str]
) -> None:
    def fail(*_: Any) -> list[Any]:
        raise error

    monkeypatch.setattr(socket, "getaddrinfo", fail)
    with pytest.raises(OSError) as caught:
        loop.run(look_up())
    assert (type(caught.value), str(caught.value)) == seen


def test_a_look_up_that_nobody_waits_for_any_more_ends_quietly(loop: Loop, hanging: LookUp) -> None:
    problems: list[dict[str, Any]] = []
    loop._loop.set_exception_handler(lambda _, context: problems.append(context))
    future = loop.submit(look_up())
    assert hanging.asked.wait(20)
    future.cancel()
    loop.run(asyncio.sleep(0))
    hanging.finish()
    loop.run(asyncio.sleep(0))
    assert problems == []


def test_a_look_up_that_outlives_its_loop_ends_quietly(hanging: LookUp) -> None:
    async def work() -> None:
        task = asyncio.create_task(room._getaddrinfo("lmstudio.example", 80))
        await asyncio.sleep(0)  # the task starts its thread
        assert hanging.asked.wait(20)
        task.cancel()

    asyncio.run(work())
    hanging.finish()  # an error on its thread would be a warning, and those are errors
    assert [thread.is_alive() for thread in hanging.threads] == [False]
