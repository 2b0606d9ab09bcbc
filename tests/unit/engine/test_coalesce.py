"""Identical requests in flight at once are sent once; a second coalescer over a folder stands for another process."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any

import pytest

from pytest_lmstudio.engine import shared as shared_module
from pytest_lmstudio.engine.coalesce import Coalescer
from pytest_lmstudio.engine.shared import Shared

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

pytestmark = pytest.mark.timeout(20)

KEY = "ab" * 32
Seen = tuple[str, dict[str, Any] | None]


@pytest.fixture(params=["one process", "workers"])
def coalescer(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Coalescer]:
    shared = Shared(tmp_path if request.param == "workers" else None, 1)
    yield Coalescer(shared)
    shared.close()


@pytest.fixture(params=["bytes", "files"])
def pair(
    request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> Iterator[tuple[Coalescer, Coalescer]]:
    """Return two, with what the system has for locks, and with what every system has."""
    if request.param == "files":
        monkeypatch.setattr(shared_module, "open_lock_file", lambda _: None)
    shareds = Shared(tmp_path, 1), Shared(tmp_path, 1)
    yield Coalescer(shareds[0]), Coalescer(shareds[1])
    for shared in shareds:
        shared.close()


class Caller:
    """Takes a turn; a leader waits until it is told how to end."""

    def __init__(self, coalescer: Coalescer, key: str = KEY) -> None:
        self.end: asyncio.Future[dict[str, Any] | None] = asyncio.get_running_loop().create_future()
        self.leads = asyncio.Event()
        self.task = asyncio.create_task(self.call(coalescer, key))

    async def call(self, coalescer: Coalescer, key: str) -> Seen:
        async with coalescer.turn(key) as (left, leave):
            if left is not None:
                return "followed", left
            self.leads.set()
            entry = await self.end
            if entry is not None:
                leave(entry)
            return "led", entry


async def settle() -> None:
    for _ in range(20):
        await asyncio.sleep(0)


def test_one_leads_and_the_others_get_its_answer(coalescer: Coalescer) -> None:
    async def work() -> list[Seen]:
        callers = [Caller(coalescer) for _ in range(4)]
        await callers[0].leads.wait()
        await settle()
        assert [caller.leads.is_set() for caller in callers] == [True, False, False, False]
        callers[0].end.set_result({"n": 1})
        return await asyncio.gather(*(caller.task for caller in callers))

    assert asyncio.run(work()) == [("led", {"n": 1}), *[("followed", {"n": 1})] * 3]
    assert coalescer._flights == {}


@pytest.mark.parametrize("how", ["leaves nothing", "fails", "is cancelled"])
def test_when_the_leader_leaves_no_answer_the_next_in_line_leads(coalescer: Coalescer, how: str) -> None:
    async def work() -> list[Any]:
        callers = [Caller(coalescer) for _ in range(3)]
        await callers[0].leads.wait()
        await settle()
        if how == "leaves nothing":
            callers[0].end.set_result(None)
        elif how == "fails":
            callers[0].end.set_exception(LookupError("lost"))
        else:
            callers[0].task.cancel()
        await callers[1].leads.wait()
        callers[1].end.set_result({"n": 2})
        return await asyncio.gather(*(caller.task for caller in callers), return_exceptions=True)

    first, *others = asyncio.run(work())
    expected = {"leaves nothing": tuple, "fails": LookupError, "is cancelled": asyncio.CancelledError}
    assert type(first) is expected[how]
    assert others == [("led", {"n": 2}), ("followed", {"n": 2})]
    assert coalescer._flights == {}


def test_a_follower_that_is_cancelled_disturbs_nobody(coalescer: Coalescer) -> None:
    async def work() -> list[Any]:
        callers = [Caller(coalescer) for _ in range(3)]
        await callers[0].leads.wait()
        await settle()
        callers[1].task.cancel()
        await settle()
        callers[0].end.set_result({"n": 1})
        return await asyncio.gather(*(caller.task for caller in callers), return_exceptions=True)

    led, cancelled, followed = asyncio.run(work())
    assert (led, type(cancelled), followed) == (("led", {"n": 1}), asyncio.CancelledError, ("followed", {"n": 1}))


def test_other_keys_go_their_own_way_and_later_calls_ask_anew(coalescer: Coalescer) -> None:
    async def work() -> None:
        one, other = Caller(coalescer), Caller(coalescer, "cd" * 32)
        await one.leads.wait()
        await other.leads.wait()
        for number, caller in enumerate((one, other)):
            caller.end.set_result({"n": number})
            assert await caller.task == ("led", {"n": number})
        later = Caller(coalescer)
        await later.leads.wait()
        later.task.cancel()

    asyncio.run(work())


def test_an_answer_that_the_cache_has_no_room_for_still_reaches_another_process(
    pair: tuple[Coalescer, Coalescer],
) -> None:
    async def work() -> tuple[Seen, Seen]:
        leader = Caller(pair[0])
        await leader.leads.wait()
        follower = Caller(pair[1])
        await settle()
        assert not follower.leads.is_set()
        leader.end.set_result({"n": 1, "stored": False})
        return await asyncio.gather(leader.task, follower.task)

    assert asyncio.run(work())[1] == ("followed", {"n": 1, "stored": False})


def test_all_who_wait_in_another_process_get_an_answer_that_the_cache_has_no_room_for(
    pair: tuple[Coalescer, Coalescer],
) -> None:
    async def work() -> list[Seen]:
        leader = Caller(pair[0])
        await leader.leads.wait()
        followers = [Caller(pair[1]) for _ in range(25)]
        await settle()
        leader.end.set_result({"n": 1, "stored": False})
        return await asyncio.gather(*(follower.task for follower in followers))

    assert asyncio.run(work()) == [("followed", {"n": 1, "stored": False})] * 25


def test_what_was_left_to_others_long_ago_is_no_answer_when_a_later_leader_fails(
    pair: tuple[Coalescer, Coalescer],
) -> None:
    async def work() -> Seen:
        first = Caller(pair[0])
        await first.leads.wait()
        first.end.set_result({"n": 1, "stored": False})
        await first.task
        later = Caller(pair[0])
        await later.leads.wait()
        follower = Caller(pair[1])
        await settle()
        later.end.set_result(None)
        await follower.leads.wait()
        follower.end.set_result({"n": 2})
        return await follower.task

    assert asyncio.run(work()) == ("led", {"n": 2})


def test_what_the_cache_holds_is_left_to_the_cache(pair: tuple[Coalescer, Coalescer], tmp_path: Path) -> None:
    async def work() -> None:
        leader = Caller(pair[0])
        await leader.leads.wait()
        follower = Caller(pair[1])
        await settle()
        leader.end.set_result({"n": 1, "stored": True})
        await leader.task
        await follower.leads.wait()  # with nothing in hand: its caller looks into the cache
        follower.task.cancel()

    asyncio.run(work())
    assert list(tmp_path.glob("inflight/*.json")) == []


@pytest.mark.parametrize("left", [b"", b'{"n": ', b"[1]", b"\xff"], ids=["empty", "cut", "list", "bytes"])
def test_what_a_killed_leader_left_half_written_is_nothing(
    pair: tuple[Coalescer, Coalescer], tmp_path: Path, left: bytes
) -> None:
    async def work() -> Seen:
        leader = Caller(pair[0])
        await leader.leads.wait()
        follower = Caller(pair[1])
        await settle()
        (tmp_path / "inflight" / f"{KEY}.json").write_bytes(left)
        leader.end.set_result(None)
        await follower.leads.wait()
        follower.end.set_result({"n": 2})
        return await follower.task

    assert asyncio.run(work()) == ("led", {"n": 2})
