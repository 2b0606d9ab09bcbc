"""Work that a run does once, and the bytes in common; a second `Shared` over a folder stands for another process."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any

import pytest

from pytest_lmstudio.engine.locks import ProcessLock
from pytest_lmstudio.engine.shared import SLOT_BYTES, SLOTS_AT, Shared

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Iterator
    from pathlib import Path

pytestmark = pytest.mark.timeout(20)


@pytest.fixture(params=["one process", "workers"])
def folder(request: pytest.FixtureRequest, tmp_path: Path) -> Path | None:
    return tmp_path if request.param == "workers" else None


@pytest.fixture
def pair(tmp_path: Path) -> Iterator[tuple[Shared, Shared]]:
    pair = Shared(tmp_path, 2), Shared(tmp_path, 2)
    yield pair
    for shared in pair:
        shared.close()


class Producer:
    """Counts how often it ran, and fails the first times."""

    def __init__(self, failures: int = 0) -> None:
        self.runs, self.failures = 0, failures

    async def __call__(self) -> dict[str, Any]:
        self.runs += 1
        await asyncio.sleep(0)
        return self.now()

    def now(self) -> dict[str, Any]:
        if self.failures:
            self.failures -= 1
            msg = "not this time"
            raise LookupError(msg)
        return {"made_by": self.runs}

    def blocking(self) -> dict[str, Any]:
        self.runs += 1
        return self.now()


def test_once_runs_once_for_all_who_ask(folder: Path | None) -> None:
    producer, shared = Producer(), Shared(folder, 1)

    async def work() -> list[dict[str, Any]]:
        return await asyncio.gather(*(shared.once("it", producer) for _ in range(5)))

    assert asyncio.run(work()) == [{"made_by": 1}] * 5
    assert asyncio.run(shared.once("it", producer)) == {"made_by": 1}
    assert producer.runs == 1
    assert shared.peek("it") == {"made_by": 1}
    assert shared.peek("other") is None
    shared.close()


def test_when_the_producer_fails_only_its_caller_hears_of_it_and_the_next_one_produces(folder: Path | None) -> None:
    producer, shared = Producer(failures=1), Shared(folder, 1)

    async def work() -> list[dict[str, Any] | BaseException]:
        return await asyncio.gather(*(shared.once("it", producer) for _ in range(3)), return_exceptions=True)

    failed, *others = asyncio.run(work())
    assert repr(failed) == "LookupError('not this time')"
    assert others == [{"made_by": 2}] * 2
    shared.close()


def test_when_the_producer_is_cancelled_the_next_one_produces(folder: Path | None) -> None:
    shared = Shared(folder, 1)

    async def never() -> dict[str, Any]:
        await asyncio.Event().wait()
        return {}

    async def work() -> dict[str, Any]:
        first = asyncio.create_task(shared.once("it", never))
        second = asyncio.create_task(shared.once("it", Producer()))
        await asyncio.wait([first, second], timeout=0)
        first.cancel()
        return await second

    assert asyncio.run(work()) == {"made_by": 1}
    shared.close()


def test_another_process_gets_what_was_made_and_makes_nothing(pair: tuple[Shared, Shared]) -> None:
    here, there = Producer(), Producer()

    async def work(shared: Shared, produce: Callable[[], Awaitable[dict[str, Any]]]) -> dict[str, Any]:
        return await shared.once("it", produce)

    assert asyncio.run(work(pair[0], here)) == asyncio.run(work(pair[1], there)) == {"made_by": 1}
    assert (here.runs, there.runs) == (1, 0)
    assert pair[1].once_blocking("it", there.blocking) == {"made_by": 1}
    assert pair[0].once_blocking("b", here.blocking) == pair[1].once_blocking("b", there.blocking) == {"made_by": 2}
    assert (here.runs, there.runs) == (2, 0)


@pytest.mark.parametrize("left", [b"", b'{"made_by": 9', b"\xff\xfe", b"[1"], ids=["empty", "cut", "bytes", "list"])
def test_what_a_killed_producer_left_half_written_is_made_anew(tmp_path: Path, left: bytes) -> None:
    (tmp_path / "it.json").write_bytes(left)
    shared, blocking = Shared(tmp_path, 1), Shared(tmp_path, 1)
    assert shared.peek("it") is None
    assert asyncio.run(shared.once("it", Producer())) == {"made_by": 1}
    (tmp_path / "it.json").write_bytes(left)
    assert blocking.once_blocking("it", Producer().blocking) == {"made_by": 1}
    shared.close()
    blocking.close()


def test_blocking_work_that_fails_is_done_by_the_next_one(folder: Path | None) -> None:
    producer, shared = Producer(failures=1), Shared(folder, 1)
    with pytest.raises(LookupError, match="not this time"):
        shared.once_blocking("it", producer.blocking)
    assert shared.once_blocking("it", producer.blocking) == {"made_by": 2}
    shared.close()


def test_the_common_memory_is_common_and_begins_as_zeros(pair: tuple[Shared, Shared]) -> None:
    one, two = (shared.memory for shared in pair)
    assert bytes(one[:]) == bytes(SLOTS_AT + 2 * SLOT_BYTES)
    one[7] = 200
    assert two[7] == 200


def test_the_common_memory_has_its_place_on_the_disk(tmp_path: Path) -> None:
    # A hole in it would kill who first writes there, should the disk be full by then.
    shared = Shared(tmp_path, 40)
    stat = (tmp_path / "memory").stat()
    assert stat.st_size == SLOTS_AT + 40 * SLOT_BYTES
    assert getattr(stat, "st_blocks", stat.st_size) * 512 >= stat.st_size
    shared.close()


def test_what_is_put_is_never_seen_half(pair: tuple[Shared, Shared]) -> None:
    pair[0].put(8, b"abcdefgh")
    assert bytes(pair[1].memory[:24]) == bytes(8) + b"abcdefgh" + bytes(8)
    with pytest.raises((IndexError, ValueError)):
        pair[0].put(SLOTS_AT + 2 * SLOT_BYTES - 4, b"abcdefgh")


def test_the_time_of_an_interrupt_is_that_of_the_first(pair: tuple[Shared, Shared]) -> None:
    assert pair[0].interrupted_s == 0.0
    pair[0].interrupt()
    first_s = pair[1].interrupted_s
    assert first_s > 0.0
    pair[1].interrupt()
    assert (pair[0].interrupted_s, pair[1].interrupted_s) == (first_s, first_s)


def test_a_lock_that_is_waited_for_tells_whether_somebody_held_it(tmp_path: Path) -> None:
    async def work() -> tuple[bool, bool]:
        one, two = (ProcessLock(tmp_path / "a.lock") for _ in range(2))
        async with one.awaited(0.001) as first:
            waiting = asyncio.create_task(hold(two))
            for _ in range(5):
                await asyncio.sleep(0)
            assert not waiting.done()
        return first, await waiting

    async def hold(lock: ProcessLock) -> bool:
        async with lock.awaited(0.001) as contended:
            return contended

    assert asyncio.run(work()) == (False, True)


def test_a_lock_taken_in_one_thread_is_released_in_another(tmp_path: Path) -> None:
    async def work() -> bool:
        one, two = (ProcessLock(tmp_path / "a.lock") for _ in range(2))
        assert await asyncio.to_thread(one.try_acquire)
        assert not two.try_acquire()
        one.release()
        return two.try_acquire()

    assert asyncio.run(work())
