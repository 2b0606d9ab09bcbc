"""A call that waits for its turn or for others: what ends the wait, and what became of the breaker meanwhile."""

from __future__ import annotations

import asyncio
import sqlite3
import threading
import time
from contextlib import closing
from typing import TYPE_CHECKING, Any

import pytest

from pytest_lmstudio.engine import keeper
from pytest_lmstudio.engine.keeper import Keeper
from pytest_lmstudio.engine.retry import OwnStrategy
from pytest_lmstudio.settings import BreakerLimits
from tests.standin import auth_401, hang, html_500, rate_limit, reply
from tests.unit.engine.attempts import request
from tests.unit.engine.benches import one_process

if TYPE_CHECKING:
    from pathlib import Path

    from pytest_lmstudio.engine.cache import Stored
    from pytest_lmstudio.engine.retry import Retry
    from pytest_lmstudio.records import Call
    from tests.standin import Step
    from tests.unit.engine.benches import Bench

pytestmark = pytest.mark.timeout(30)

#: How long something is held up, milliseconds.
_STALL_MS = 300
#: Latencies are told to a tenth of a millisecond.
_ROUNDED_MS = 0.05


def kind_of(call: Call) -> str | None:
    return call.error.kind if call.error else None


def text_of(call: Call) -> str | None:
    return call.reply.text if call.reply else None


def times_of(it: Bench, monkeypatch: pytest.MonkeyPatch) -> tuple[list[float], list[float]]:
    """Let lines of requests take long to write; return when they were written, and a list for when slots are free."""
    books, sent = it.engine.books, it.engine.books.sent
    written: list[float] = []
    freed: list[float] = []

    def slow(*args: Any, **fields: Any) -> None:
        sent(*args, **fields)
        stall(it)
        written.append(now_ms())

    monkeypatch.setattr(books, "sent", slow)
    return written, freed


def stall(it: Bench) -> None:
    until_ms = now_ms() + _STALL_MS
    it.server.wait_for(lambda: now_ms() >= until_ms)


def now_ms() -> float:
    return time.monotonic() * 1000


def test_a_call_that_is_left_while_it_waits_for_a_slot_is_abandoned_without_an_attempt(tmp_path: Path) -> None:
    with one_process(tmp_path, concurrency=1) as it:
        it.server.default = hang()
        first = it.begin("first", timeout_s=20)
        it.server.wait_for(lambda: it.server.in_flight == 1)
        second = it.begin("second", number=2, timeout_s=20)
        it.server.wait_for(lambda: len(it.engine.waiting) == 1)
        second.cancel()
        it.server.wait_for(lambda: not it.engine.waiting)
        it.run(asyncio.sleep(0))
        assert it.pick("gen_abandoned", "call_id", "attempt", "latency_ms") == [("c2", 0, None)]
        assert [seen.text for seen in it.server.requests] == ["first"]
        first.cancel()
        it.server.wait_for(lambda: it.server.in_flight == 0)


def test_a_call_whose_slot_comes_when_the_breaker_has_opened_gives_it_back_and_waits(tmp_path: Path) -> None:
    with one_process(tmp_path, concurrency=1, breaker=BreakerLimits(1, 0.05)) as it:
        it.server.script(html_500(delay_s=0.2), reply("after the pause"))
        calls = it.calls(["opens it", "waits"])
        assert [kind_of(call) for call in calls] == ["server_error", None]
        assert text_of(calls[1]) == "after the pause"
        assert calls[1].attempts[0].waited_ms >= 200 + 50
        assert len(it.pick("breaker_closed", "paused_s")) == 1


@pytest.mark.parametrize(
    ("step", "kind"), [(rate_limit(), "rate_limited"), (auth_401(), "auth")], ids=["rate limit", "no token"]
)
def test_a_probe_that_is_told_no_shows_that_the_server_is_alive(tmp_path: Path, step: Step, kind: str) -> None:
    with one_process(tmp_path, breaker=BreakerLimits(1, 0.05)) as it:
        it.server.script(html_500(), step)
        assert kind_of(it.call("opens it")) == "server_error"
        assert kind_of(it.call("probes")) == kind
        assert len(it.events("breaker_closed")) == 1
        assert text_of(it.call("goes on")) == "echo: goes on"


def test_an_answer_is_stored_once_another_process_has_written(tmp_path: Path) -> None:
    with one_process(tmp_path) as it:
        it.call("opens the cache", cache="refresh")
        [database] = it.runtime.folder.parent.parent.rglob("cache.db")
        it.server.script(reply("kept", delay_s=0.05))
        with closing(sqlite3.connect(database, isolation_level=None)) as writer:
            writer.execute("BEGIN IMMEDIATE")
            future = it.begin("waits", number=2, cache="refresh")
            it.server.wait_for(lambda: len(it.server.requests) == 2 and it.server.in_flight == 0)
            # The loop has deadlines of other calls to keep meanwhile.
            assert text_of(it.call("another", number=3)) == "echo: another"
            assert not future.done()
            writer.execute("COMMIT")
        assert text_of(future.result()) == "kept"
        assert it.pick("gen_success", "call_id", "stored")[-1] == ("c2", True)


def test_a_strategy_that_gives_no_seconds_ends_the_call_and_says_what_to_change(tmp_path: Path) -> None:
    def odd(_: Retry) -> float:
        return -1.0

    with one_process(tmp_path, OwnStrategy("odd", odd)) as it:
        it.server.default = html_500()
        error = it.call(retries=3).error
        assert error is not None
        assert (error.kind, error.attempts, len(it.server.requests)) == ("bad_request", 1, 1)
        said = "the retry strategy 'odd' of the hook pytest_lmstudio_retry_strategy returned -1.0"
        assert it.pick("note", "message") == [(said,)]
        assert str(error) == (
            f"{said}; make it return seconds, a number from 0 up. "
            "The call was not tried again after attempt 1 of 4 (server_error)"
        )
        assert it.pick("gen_error", "error_kind", "retry_in_ms") == [("server_error", None)]


@pytest.mark.parametrize(
    ("script", "freed_at"),
    [
        pytest.param([reply("x")], [1], id="answered"),
        pytest.param([html_500(), reply("x")], [1], id="before the back-off"),
        pytest.param([auth_401()], [1], id="failed for good"),
    ],
)
def test_who_waits_for_the_place_of_a_call_is_told_once_and_soon(
    tmp_path: Path, script: list[Step], freed_at: list[int]
) -> None:
    with one_process(tmp_path) as it:
        it.server.script(*script)
        freed: list[int] = []

        async def told() -> Call:
            return await it.engine.call(request("hello"), on_freed=lambda: freed.append(len(it.server.requests)))

        it.run(told())
        assert freed == freed_at


def test_who_waits_for_the_place_of_a_call_is_told_though_it_needed_none(tmp_path: Path) -> None:
    with one_process(tmp_path) as it:
        freed: list[str] = []
        it.call("hello", cache="readwrite")

        async def told() -> Call:
            return await it.engine.call(request("hello", cache="readwrite"), on_freed=lambda: freed.append("freed"))

        assert it.run(told()).attempts == ()
        assert freed == ["freed"]


def test_an_answer_that_can_be_read_but_not_written_is_not_stored(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """One that is nested almost too deeply, since the entry around it is one level more."""

    def too_deep(_: object) -> str:
        raise RecursionError

    monkeypatch.setattr(keeper, "text_of", too_deep)
    with one_process(tmp_path) as it:
        it.server.script(reply("x"))
        assert text_of(it.call("hello", cache="readwrite")) == "x"
        assert it.pick("gen_success", "stored") == [(False,)]


@pytest.mark.parametrize(
    ("step", "told"),
    [(reply("yes"), "gen_success"), (html_500(), "gen_error"), (hang(), "gen_abandoned")],
    ids=["answered", "failed", "left"],
)
def test_by_the_log_an_attempt_ends_before_its_slot_is_free_however_slow_the_log(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, step: Step, told: str
) -> None:
    with one_process(tmp_path) as it:
        written, freed = times_of(it, monkeypatch)
        it.server.default = step
        future = it.runtime.loop.submit(it.engine.call(request(timeout_s=20), None, lambda: freed.append(now_ms())))
        if told == "gen_abandoned":
            it.server.wait_for(lambda: it.server.in_flight == 1)
            future.cancel()
        it.server.wait_for(lambda: bool(freed))
        it.run(asyncio.sleep(0))
        [(latency_ms,)] = it.pick(told, "latency_ms")
        assert latency_ms <= freed[0] - written[0] + _ROUNDED_MS


def test_an_answer_that_is_being_stored_when_its_call_is_left_took_no_longer_for_that(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with one_process(tmp_path, cache="readwrite") as it:
        written, freed = times_of(it, monkeypatch)
        storing = threading.Event()

        async def store(*_: object, **__: object) -> None:
            storing.set()
            await asyncio.sleep(60)

        monkeypatch.setattr(it.engine.keeper, "store", store)
        future = it.runtime.loop.submit(
            it.engine.call(request(cache="readwrite"), None, lambda: freed.append(now_ms()))
        )
        assert storing.wait(20)
        stall(it)
        future.cancel()
        it.server.wait_for(lambda: bool(it.pick("gen_abandoned", "attempt")))
        [(latency_ms,)] = it.pick("gen_abandoned", "latency_ms")
        assert latency_ms <= freed[0] - written[0] + _ROUNDED_MS


@pytest.mark.parametrize(("others", "alone"), [(0, [True]), (1, [False, True])])
def test_an_answer_is_stored_at_once_where_no_other_call_waits_for_its_turn(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, others: int, alone: list[bool]
) -> None:
    with one_process(tmp_path, concurrency=1) as it:
        seen: list[bool] = []
        store = Keeper.store

        def noted(keeper: Keeper, key: str, entry: dict[str, Any], *, alone: bool) -> asyncio.Future[Stored]:
            seen.append(alone)
            return store(keeper, key, entry, alone=alone)

        monkeypatch.setattr(Keeper, "store", noted)
        it.calls([f"call {number}" for number in range(1 + others)], cache="readwrite")
        assert seen == alone
