"""The limit over real processes: it holds, and what a killed process held is free at once."""

from __future__ import annotations

import asyncio
from contextlib import ExitStack
from typing import TYPE_CHECKING

import pytest

from tests.process.workers import end_of, line, slots_of, started
from tests.standin import StandIn, echo

if TYPE_CHECKING:
    from pathlib import Path

pytestmark = pytest.mark.timeout(60)


def test_four_processes_never_have_more_than_three_requests_in_flight(tmp_path: Path) -> None:
    with StandIn(capacity=16) as server, ExitStack() as stack:
        server.default = echo(delay_s=0.01)
        processes = [stack.enter_context(started("take_slots", tmp_path, 3, n, server.url)) for n in range(4)]
        assert [end_of(process) for process in processes] == [[]] * 4
        assert len(server.requests) == 40
        assert server.peak_in_flight == 3  # as the server sees it
    held, most = 0, 0
    for sign in (tmp_path / "log").read_text(encoding="ascii"):  # as the processes see it
        held += 1 if sign == "+" else -1
        most = max(most, held)
    assert (held, most) == (0, 3)


async def taken(folder: Path, limit: int) -> int:
    async with asyncio.timeout(20):
        return await slots_of(folder, limit).acquire()


def test_the_slot_of_a_killed_process_is_free(tmp_path: Path) -> None:
    async def work() -> None:
        slots = slots_of(tmp_path, 1)
        with started("hold_slot", tmp_path, 1) as holder:
            assert line(holder) == "held"
            waiting = asyncio.create_task(slots.acquire())
            await asyncio.sleep(0.05)
            assert not waiting.done()
            holder.kill()
            async with asyncio.timeout(20):
                assert await waiting == 0

    asyncio.run(work())


def test_a_slot_given_back_goes_to_who_waits_in_another_process(tmp_path: Path) -> None:
    async def work() -> None:
        slots = slots_of(tmp_path, 1)
        with started("hold_slot", tmp_path, 1) as holder:
            assert line(holder) == "held"
            waiting = asyncio.create_task(slots.acquire())
            await asyncio.sleep(0.05)
            assert not waiting.done()
            assert holder.stdin is not None
            holder.stdin.write("\n")
            holder.stdin.flush()
            assert line(holder) == "released"
            async with asyncio.timeout(20):
                assert await waiting == 0

    asyncio.run(work())


def test_processes_that_ended_leave_every_slot_free(tmp_path: Path) -> None:
    with started("hold_slot", tmp_path, 2) as one, started("hold_slot", tmp_path, 2) as two:
        assert (line(one), line(two)) == ("held", "held")
    assert asyncio.run(taken(tmp_path, 2)) == 0
