"""The limit within a process, and beside another one (a second `Slots` over the same folder)."""

from __future__ import annotations

import asyncio
from contextlib import suppress
from dataclasses import dataclass
from typing import TYPE_CHECKING, cast

import pytest

from pytest_lmstudio.engine import shared as shared_module
from pytest_lmstudio.engine.pressure import Pressure
from pytest_lmstudio.engine.shared import SLOTS_AT, Shared
from pytest_lmstudio.engine.slots import Slots
from tests.unit.engine import virtual

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

pytestmark = pytest.mark.timeout(20)


@pytest.fixture(params=["one process", "workers"])
def shared(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Shared]:
    shared = Shared(tmp_path if request.param == "workers" else None, 4)
    yield shared
    shared.close()


@pytest.fixture(params=["bytes", "files"])
def pair(
    request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> Iterator[tuple[Shared, Shared]]:
    """Return what two processes see, with what the system has for locks, and with what every system has."""
    if request.param == "files":
        monkeypatch.setattr(shared_module, "open_lock_file", lambda _: None)
    pair = Shared(tmp_path, 2), Shared(tmp_path, 2)
    yield pair
    for shared in pair:
        shared.close()


def slots_of(shared: Shared, most: int, first: int = 0) -> Slots:
    return Slots(shared, most, Pressure(shared, most, None, lambda *_: None), first)


async def settle() -> None:
    """Let every task get as far as it can without time passing."""
    for _ in range(20):
        await asyncio.sleep(0)


def test_slots_are_numbered_apart_and_the_limit_holds(shared: Shared) -> None:
    async def work() -> None:
        slots = slots_of(shared, 3)
        held = [await slots.acquire() for _ in range(3)]
        assert held == [0, 1, 2]
        fourth = asyncio.create_task(slots.acquire())
        await settle()
        assert not fourth.done()
        slots.release(held[1])
        assert await fourth == held[1]

    asyncio.run(work())


def test_each_process_tries_its_own_slot_first(pair: tuple[Shared, Shared]) -> None:
    async def work() -> list[int]:
        return [await slots_of(shared, 2, first).acquire() for first, shared in enumerate(pair)]

    assert asyncio.run(work()) == [0, 1]


def test_slots_go_round_in_order_of_asking(shared: Shared) -> None:
    order: list[int] = []

    async def one(slots: Slots, number: int) -> None:
        slot = await slots.acquire()
        order.append(number)
        await asyncio.sleep(0)
        slots.release(slot)

    async def work() -> None:
        slots = slots_of(shared, 3)
        await asyncio.gather(*(one(slots, number) for number in range(20)))

    asyncio.run(work())
    assert order == list(range(20))


def test_who_asks_later_does_not_overtake_those_who_wait_for_another_process(pair: tuple[Shared, Shared]) -> None:
    order: list[int] = []

    async def one(slots: Slots, number: int) -> None:
        slot = await slots.acquire()
        order.append(number)
        await asyncio.sleep(0)
        slots.release(slot)

    async def work() -> None:
        ours, theirs = (slots_of(shared, 2) for shared in pair)
        held = [await theirs.acquire() for _ in range(2)]
        ones = [asyncio.create_task(one(ours, number)) for number in range(6)]
        await settle()
        assert order == []
        theirs.release(held[0])
        await asyncio.gather(*ones)
        theirs.release(held[1])

    asyncio.run(work())
    assert order == list(range(6))


def test_a_waiter_that_is_cancelled_takes_no_slot_with_it(shared: Shared) -> None:
    async def work() -> None:
        slots = slots_of(shared, 3)
        held = [await slots.acquire() for _ in range(3)]
        waiters = [asyncio.create_task(slots.acquire()) for _ in range(4)]
        await settle()
        for waiter in waiters:
            waiter.cancel()
        slots.release(held[0])  # one of them is being woken while it is cancelled
        for waiter in waiters:
            with suppress(asyncio.CancelledError):
                slots.release(await waiter)
        for slot in held[1:]:
            slots.release(slot)
        again = [await slots.acquire() for _ in range(3)]
        assert sorted(again) == sorted(held)
        assert slots.others_in_flight()

    asyncio.run(work())


def test_a_waiter_for_another_process_that_is_cancelled_frees_the_way(pair: tuple[Shared, Shared]) -> None:
    async def work() -> None:
        ours, theirs = (slots_of(shared, 2) for shared in pair)
        held = [await theirs.acquire() for _ in range(2)]
        waiters = [asyncio.create_task(ours.acquire()) for _ in range(3)]
        await settle()
        for waiter in waiters[:2]:
            waiter.cancel()
        theirs.release(held[0])
        assert await waiters[2] == held[0]

    asyncio.run(work())


def test_others_are_those_of_this_process_and_of_others(pair: tuple[Shared, Shared]) -> None:
    async def work() -> None:
        ours, theirs = (slots_of(shared, 2) for shared in pair)
        mine = await ours.acquire()
        assert not ours.others_in_flight()
        second = await ours.acquire()
        assert ours.others_in_flight()
        ours.release(second)
        assert not ours.others_in_flight()
        foreign = await theirs.acquire()
        assert ours.others_in_flight()
        theirs.release(foreign)
        assert not ours.others_in_flight()
        assert await theirs.acquire() == foreign  # looking took nothing
        ours.release(mine)

    asyncio.run(work())


def test_a_release_adds_one_to_the_counter_of_its_slot_and_touches_nothing_else(pair: tuple[Shared, Shared]) -> None:
    async def work() -> None:
        ours, theirs = slots_of(pair[0], 2), pair[1]
        pair[0].put(SLOTS_AT, (6).to_bytes(8, "little") + b"\xff" * 8)  # the second is about to overflow
        state = bytes(theirs.memory[:SLOTS_AT])
        for slot in (await ours.acquire(), await ours.acquire()):
            ours.release(slot)
        assert bytes(theirs.memory) == state + (7).to_bytes(8, "little") + bytes(8)

    asyncio.run(work())


def test_one_process_alone_makes_no_files_and_knows_its_others() -> None:
    async def work() -> None:
        slots = slots_of(Shared(None, 2), 2)
        await slots.acquire()
        assert not slots.others_in_flight()
        await slots.acquire()
        assert slots.others_in_flight()

    asyncio.run(work())


def test_a_slot_freed_by_another_process_is_taken_within_4_ms(pair: tuple[Shared, Shared]) -> None:
    async def work() -> list[float]:
        other, mine = (slots_of(shared, 1) for shared in pair)
        clock = asyncio.get_running_loop().time
        held = await other.acquire()
        waiting = asyncio.create_task(mine.acquire())
        await asyncio.sleep(0.0302)
        other.release(held)
        freed_s = clock()
        await waiting
        return [round(freed_s, 4), round(clock(), 4)]

    assert virtual.run(work()) == [0.0302, 0.032]


def test_a_slot_of_a_killed_process_is_taken_within_100_ms(pair: tuple[Shared, Shared]) -> None:
    async def work() -> float:
        other, mine = (slots_of(shared, 1) for shared in pair)
        held = await other.acquire()
        waiting = asyncio.create_task(mine.acquire())
        await asyncio.sleep(0.01)
        other._locks[held].release()  # as the kernel does, which moves no counter
        await waiting
        return round(asyncio.get_running_loop().time(), 4)

    assert virtual.run(work()) == 0.1


def test_the_first_slot_comes_first(shared: Shared) -> None:
    slots = Slots(shared, 3, Pressure(shared, 3, None, lambda *_: None))

    assert asyncio.run(slots.acquire()) == 0


@dataclass
class Lowered:
    """Backpressure that a test turns."""

    limit: int


@pytest.mark.parametrize("held", [2, 3])
def test_no_slot_is_given_while_more_are_held_than_the_limit_now_allows(shared: Shared, held: int) -> None:
    async def work() -> bool:
        pressure = Lowered(4)
        slots = Slots(shared, 4, cast("Pressure", pressure))
        taken = [await slots.acquire() for _ in range(4)]
        for slot in taken[: 4 - held]:
            slots.release(slot)
        pressure.limit = 2
        waiting = asyncio.create_task(slots.acquire())
        await settle()
        given = waiting.done()
        waiting.cancel()
        return given

    assert asyncio.run(work()) is False


def test_with_no_request_in_flight_there_are_no_others(shared: Shared) -> None:
    assert slots_of(shared, 3).others_in_flight() is False


def test_while_the_limit_is_lowered_every_process_uses_the_same_first_slots(shared: Shared) -> None:
    async def work() -> list[int]:
        slots = Slots(shared, 4, cast("Pressure", Lowered(2)), first=2)
        return [await slots.acquire() for _ in range(2)]

    assert asyncio.run(work()) == [0, 1]
