"""Answers that come at once are stored together, after the calls that their slots were freed for."""

from __future__ import annotations

import asyncio
import sqlite3
import threading
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from typing import TYPE_CHECKING

import pytest

from pytest_lmstudio.engine.cache import AnswerCache, Stored
from pytest_lmstudio.engine.keeper import Keeper
from tests.unit.engine import virtual
from tests.unit.engine.caches import Run, held

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

STORED = Stored(stored=True, evicted=0)


@pytest.fixture
def beside() -> Iterator[ThreadPoolExecutor]:
    with ThreadPoolExecutor(1, "beside") as executor:
        yield executor


@pytest.fixture
def run(tmp_path: Path) -> Iterator[Run]:
    run = Run(tmp_path, 10)
    yield run
    run.cache.close()


@pytest.fixture
def second() -> threading.Event:
    return threading.Event()


@pytest.fixture
def batches(monkeypatch: pytest.MonkeyPatch, second: threading.Event) -> list[list[str]]:
    """Return the keys that were stored together, and by which thread if that was another one."""
    seen: list[list[str]] = []
    main = threading.current_thread()

    def noted(name: str) -> None:
        real = getattr(AnswerCache, name)

        def note(cache: AnswerCache, rows: list[tuple[str, str]]) -> list[Stored] | None:
            here = threading.current_thread()
            seen.append([key for key, _ in rows] + ([] if here is main else [here.name]))
            if len(seen) > 1:
                second.set()
            stored: list[Stored] | None = real(cache, rows)
            return stored

        monkeypatch.setattr(AnswerCache, name, note)

    noted("put_now")
    noted("put_all")
    return seen


def test_what_one_turn_brought_is_stored_together_after_the_next_calls_went(
    run: Run, beside: ThreadPoolExecutor, batches: list[list[str]], tmp_path: Path
) -> None:
    keeper, went = Keeper(run.cache, beside), []

    async def answered(key: str) -> Stored:
        next_call = asyncio.create_task(sent(f"after {key}"))
        stored = await keeper.store(key, {"answer": key})
        await next_call
        return stored

    async def sent(name: str) -> None:
        went.append((name, len(batches)))

    async def all_at_once() -> list[Stored]:
        return await asyncio.gather(*map(answered, "abc"))

    assert virtual.run(all_at_once()) == [STORED] * 3
    assert went == [("after a", 0), ("after b", 0), ("after c", 0)]
    assert batches == [["a", "b", "c"]]
    assert held(tmp_path) == ["a", "b", "c"]


def test_one_after_the_other_is_stored_each_for_itself(
    run: Run, beside: ThreadPoolExecutor, batches: list[list[str]]
) -> None:
    async def one_by_one() -> list[Stored]:
        keeper = Keeper(run.cache, beside)
        return [await keeper.store(key, {"answer": key}) for key in "ab"]

    assert virtual.run(one_by_one()) == [STORED] * 2
    assert batches == [["a"], ["b"]]


def test_while_another_process_writes_the_loop_goes_on(
    run: Run, beside: ThreadPoolExecutor, batches: list[list[str]], second: threading.Event, tmp_path: Path
) -> None:
    async def both() -> tuple[bool, list[Stored]]:
        keeper = Keeper(run.cache, beside)
        storing = [keeper.store(key, {"answer": key}) for key in "ab"]
        await asyncio.to_thread(second.wait, 30)
        waits = not storing[0].done()
        other.execute("COMMIT")
        return waits, await asyncio.gather(*storing)

    with closing(sqlite3.connect(tmp_path / "cache.db", isolation_level=None)) as other:
        other.execute("BEGIN IMMEDIATE")
        assert asyncio.run(both()) == (True, [STORED] * 2)
    assert batches == [["a", "b"], ["a", "b", "beside_0"]]


def test_a_call_that_is_cancelled_meanwhile_disturbs_no_other(
    run: Run, beside: ThreadPoolExecutor, tmp_path: Path
) -> None:
    async def one_is_left() -> Stored:
        keeper = Keeper(run.cache, beside)
        left, kept = (keeper.store(key, {"answer": key}) for key in "ab")
        left.cancel()
        return await kept

    assert virtual.run(one_is_left()) == STORED
    assert held(tmp_path) == ["a", "b"]  # it came, so it can be used the next time


def test_a_cache_that_is_read_alone_stores_none(run: Run, beside: ThreadPoolExecutor, tmp_path: Path) -> None:
    run.cache.put("a", {"answer": "a"})
    reader = AnswerCache(tmp_path, size=10, run=2, on_problem=pytest.fail, way="read")

    async def stored() -> list[Stored]:
        keeper = Keeper(reader, beside)
        return await asyncio.gather(*(keeper.store(key, {"answer": key}) for key in "bc"))

    assert virtual.run(stored()) == [Stored(stored=False, evicted=0)] * 2
    reader.close()
    assert held(tmp_path) == ["a"]


def test_an_answer_that_cannot_be_written_down_costs_no_other(run: Run, beside: ThreadPoolExecutor) -> None:
    deep: dict[str, object] = {}
    for _ in range(200_000):
        deep = {"deeper": deep}

    async def both() -> Stored:
        keeper = Keeper(run.cache, beside)
        stored = keeper.store("a", {"answer": "a"})
        with pytest.raises(RecursionError):
            keeper.store("b", deep)
        return await stored

    assert virtual.run(both()) == STORED
    while deep:  # else Python would take it apart by a recursion of its own
        deep = deep.pop("deeper")  # type: ignore[assignment]


def test_the_answer_of_an_only_call_is_stored_at_once_with_all_that_waits(
    run: Run, beside: ThreadPoolExecutor, batches: list[list[str]], tmp_path: Path
) -> None:
    async def work() -> list[Stored]:
        keeper = Keeper(run.cache, beside)
        first = keeper.store("a", {"answer": "a"})
        assert batches == []
        last = keeper.store("b", {"answer": "b"}, alone=True)
        assert batches == [["a", "b"]]
        assert (first.done(), last.done()) == (True, True)
        await asyncio.sleep(0)
        return [await first, await last, await keeper.store("c", {"answer": "c"})]

    assert virtual.run(work()) == [STORED] * 3
    assert batches == [["a", "b"], ["c"]]
    assert held(tmp_path) == ["a", "b", "c"]
