"""The life of one call through the engine of a process: slot, breaker, retries, coalescing, what is written down."""

from __future__ import annotations

import asyncio
import threading
from contextlib import suppress
from functools import partial
from typing import TYPE_CHECKING, Any

import pytest

from pytest_lmstudio.settings import BreakerLimits
from tests.standin import (
    crash,
    endless_stream,
    error_string,
    hang,
    html_500,
    length_thinking,
    loading_503,
    rate_limit,
    reply,
    stale_keep_alive,
    stall_after_headers,
)
from tests.unit.engine.attempts import MODEL, request
from tests.unit.engine.benches import one_process

if TYPE_CHECKING:
    from collections.abc import Callable
    from contextlib import AbstractContextManager
    from pathlib import Path

    from tests.standin import Step
    from tests.unit.engine.benches import Bench

pytestmark = pytest.mark.timeout(30)

OVERFLOW = "Context size has been exceeded."


@pytest.fixture
def bench(tmp_path: Path) -> Callable[..., AbstractContextManager[Bench]]:
    """Open a bench with some settings."""
    return partial(one_process, tmp_path)


Opened = Any


def test_an_answer_comes_with_its_attempts(bench: Opened) -> None:
    with bench() as it:
        it.server.script(html_500(), rate_limit(), reply("third time"))
        call = it.call(retries=3)
        assert (call.reply.text, call.reply.attempts, call.error) == ("third time", 3, None)
        assert [(a.number, a.kind) for a in call.attempts] == [(1, "server_error"), (2, "rate_limited"), (3, None)]
        assert it.pick("gen_request", "attempt") == [(1,), (2,), (3,)]
        assert it.pick("gen_error", "attempt", "error_kind", "phase") == [
            (1, "server_error", "receiving"),
            (2, "rate_limited", "receiving"),
        ]


def test_a_call_is_lost_with_its_last_attempt(bench: Opened) -> None:
    with bench() as it:
        it.server.default = html_500()
        call = it.call(retries=2)
        assert len(it.server.requests) == len(call.attempts) == 3
        assert (call.reply, call.error.kind, call.error.attempts) == (None, "server_error", 3)
        assert [event["retry_in_ms"] for event in it.events("gen_error")] == [0, 0, None]


def test_a_retry_after_is_obeyed_and_one_above_two_minutes_ends_the_call(bench: Opened) -> None:
    with bench() as it:
        it.server.script(rate_limit("0.3"))
        call = it.call(retries=1)
        first, second = it.server.requests
        assert second.at - first.ended_at >= 0.29
        assert call.attempts[1].waited_ms >= 300
        it.server.script(rate_limit(121))
        assert it.call("again", retries=3).error.kind == "rate_limited"
        assert len(it.server.requests) == 3
        assert it.pick("gen_error", "retry_in_ms") == [(300,), (None,)]


def test_the_slot_stays_taken_through_the_back_off_after_a_timeout_while_waiting(bench: Opened) -> None:
    with bench(concurrency=1) as it:
        it.server.script(hang(), reply("first"), reply("second"))
        calls = it.calls(["one", "two"], timeout_s=0.2, retries=1)
        assert [seen.text for seen in it.server.requests] == ["one", "one", "two"]
    assert [call.reply.text for call in calls] == ["first", "second"]


def test_the_slot_is_free_during_any_other_back_off(bench: Opened) -> None:
    with bench(concurrency=1) as it:
        it.server.script(rate_limit("0.3"), reply("second"), reply("first"))
        calls = it.calls(["one", "two"], retries=1)
        assert [seen.text for seen in it.server.requests] == ["one", "two", "one"]
    assert [call.reply.text for call in calls] == ["first", "second"]


@pytest.mark.parametrize("end", ["answered", "failed", "timed out", "cancelled"])
def test_no_end_of_a_call_keeps_a_slot(bench: Opened, end: str) -> None:
    with bench(concurrency=1) as it:
        steps = {"answered": reply("x"), "failed": html_500()}
        it.server.script(steps.get(end, hang()))
        future = it.runtime.loop.submit(it.engine.call(request(timeout_s=0.1 if end == "timed out" else 20)))
        if end == "cancelled":
            it.server.wait_for(lambda: it.server.in_flight == 1)
            future.cancel()
        with suppress(BaseException):
            future.result()
        assert it.call("next").reply.text == "echo: next"


def test_a_full_context_is_forgiven_once_with_others_in_flight(bench: Opened) -> None:
    with bench(concurrency=2) as it:
        it.server.when(lambda seen: seen.text == "other", reply("slow", delay_s=0.5))
        it.server.script(error_string(400, OVERFLOW), error_string(400, OVERFLOW), reply("never asked"))
        lost, _ = it.calls(["full", "other"], retries=3)
        assert [(a.kind, a.number) for a in lost.attempts] == [("context_overflow", 1), ("context_overflow", 2)]
        assert (lost.error.kind, lost.error.category) == ("context_overflow", "other")
        assert it.pick("gen_error", "error_category") == [("network",), ("other",)]


def test_a_full_context_is_not_forgiven_to_a_request_alone(bench: Opened) -> None:
    with bench() as it:
        it.server.script(error_string(400, OVERFLOW))
        call = it.call(retries=3)
        assert (len(call.attempts), call.error.category) == (1, "other")


def test_a_full_context_is_forgiven_after_another_error_too(bench: Opened) -> None:
    with bench(concurrency=2) as it:
        it.server.when(lambda seen: seen.text == "other", reply("slow", delay_s=0.5))
        it.server.script(html_500(), error_string(400, OVERFLOW), reply("fine"))
        call, _ = it.calls(["full", "other"], retries=3)
        assert call.error is None


@pytest.mark.parametrize(
    ("step", "waits"), [(crash(), True), (loading_503(), True), (html_500(), False)], ids=["lost", "loading", "other"]
)
def test_a_lost_model_is_waited_for_before_the_next_attempt(bench: Opened, step: Step, *, waits: bool) -> None:
    asked: list[tuple[str, int, bool]] = []
    with bench() as it:

        async def model_back(model: str) -> None:
            asked.append((model, len(it.server.requests), it.engine.slots.others_in_flight()))

        it.engine.model_back = model_back
        it.server.script(step)
        assert it.call(retries=1).reply.text == "echo: hello"
    assert asked == ([(MODEL, 1, False)] if waits else [])


@pytest.mark.parametrize("cache", ["readwrite", "off", "refresh"])
def test_identical_calls_in_flight_are_sent_once_where_the_cache_may_be_read(bench: Opened, cache: str) -> None:
    with bench() as it:
        it.server.default = reply("one answer", delay_s=0.05)
        calls = it.calls(["same"] * 4, cache=cache)
        sent = 1 if cache == "readwrite" else 4
        assert len(it.server.requests) == sent
        assert [call.reply.text for call in calls] == ["one answer"] * 4
        assert sorted((call.reply.cached, call.reply.attempts) for call in calls) == [
            *[(False, 1)] * sent,
            *[(True, 0)] * (4 - sent),
        ]
        assert it.pick("gen_cached", "source") == [("coalesced",)] * (4 - sent)


def test_when_the_leader_fails_a_follower_leads_and_a_full_cache_does_not_matter(bench: Opened) -> None:
    with bench(cache_size=1) as it:
        assert it.call("fills the cache", cache="readwrite").reply.text == "echo: fills the cache"
        it.server.script(html_500(delay_s=0.05), reply("second"))
        calls = it.calls(["same"] * 3, cache="readwrite")
        assert len(it.server.requests) == 3
        assert [call.reply and call.reply.text for call in calls] == [None, "second", "second"]
        assert it.pick("gen_success", "stored") == [(True,), (False,)]


def test_fifty_identical_calls_are_one_request(bench: Opened) -> None:
    with bench() as it:
        it.server.default = reply("one answer", delay_s=0.2)
        calls = it.calls(["same"] * 50, cache="readwrite")
        assert [call.reply.text for call in calls] == ["one answer"] * 50
        assert len(it.server.requests) == 1
        assert it.pick("gen_cached", "source") == [("coalesced",)] * 49


def test_a_follower_that_leads_has_its_own_limit(bench: Opened) -> None:
    with bench() as it:
        it.server.script(hang(), reply("for the patient", delay_s=0.4))
        hasty = it.begin("same", cache="readwrite", timeout_s=0.2)
        it.server.wait_for(lambda: it.server.in_flight == 1)
        patient = [it.begin("same", cache="readwrite", number=n, timeout_s=20.0) for n in (2, 3)]
        assert hasty.result().error.kind == "timeout"
        assert [one.result().reply.text for one in patient] == ["for the patient"] * 2
        assert it.pick("gen_request", "timeout_ms") == [(200,), (20_000,)]


def test_thinking_that_ate_all_tokens_reaches_who_waits_for_it_and_nobody_later(bench: Opened) -> None:
    with bench() as it:
        it.server.script(length_thinking("hm", delay_s=0.2))
        calls = it.calls(["same"] * 3, cache="readwrite")
        assert [(call.reply.text, call.reply.reasoning) for call in calls] == [("", "hm")] * 3
        assert len(it.server.requests) == 1
        assert it.call("same", cache="readwrite").reply.text == "echo: same"


def test_an_interrupt_ends_leader_and_followers_and_sends_nothing_more(bench: Opened) -> None:
    with bench() as it:
        it.server.script(html_500(delay_s=0.3))
        calls = [it.begin("same", cache="readwrite", number=n, retries=3) for n in range(3)]
        it.server.wait_for(lambda: it.server.in_flight == 1)
        it.runtime.interrupt()
        assert [one.result().error.kind for one in calls] == ["cancelled"] * 3
        assert len(it.server.requests) == 1
        assert it.pick("gen_error", "attempt", "error_kind") == [
            (1, "server_error"),
            *[(0, "cancelled")] * 3,
        ]


@pytest.mark.parametrize("interrupted", [False, True], ids=["left", "interrupted"])
def test_a_call_that_nobody_waits_for_is_abandoned_or_else_cancelled(bench: Opened, *, interrupted: bool) -> None:
    with bench() as it:
        it.server.default = hang()
        future = it.runtime.loop.submit(it.engine.call(request(timeout_s=20)))
        it.server.wait_for(lambda: it.server.in_flight == 1)
        if interrupted:
            it.runtime.interrupt()
        future.cancel()
        it.server.wait_for(lambda: it.server.in_flight == 0)
        it.run(asyncio.sleep(0))
        assert it.pick("gen_abandoned", "attempt") == ([] if interrupted else [(1,)])
        cancelled = [(1, "cancelled", "network")] if interrupted else []
        assert it.pick("gen_error", "attempt", "error_kind", "error_category") == cancelled


@pytest.mark.parametrize("interrupted", [False, True], ids=["left", "interrupted"])
def test_a_call_that_was_cut_off_tells_how_far_it_got(bench: Opened, *, interrupted: bool) -> None:
    with bench() as it:
        it.call("first")
        it.server.script(stale_keep_alive(), stall_after_headers())
        it.server.default = endless_stream()
        futures = [it.begin("stalls", timeout_s=20)]
        it.server.wait_for(lambda: it.server.requests[-1].step == "stall_after_headers")
        talks = threading.Event()
        futures.append(it.runtime.loop.submit(it.engine.call(request("talks", timeout_s=20), lambda _: talks.set())))
        assert talks.wait(20)
        if interrupted:
            it.runtime.interrupt()
        for future in futures:
            future.cancel()
        it.server.wait_for(lambda: it.server.in_flight == 0)
        it.run(asyncio.sleep(0))
        if interrupted:
            told = it.pick("gen_error", "phase", "stale_reconnects")
            assert sorted(told) == [("receiving", 0), ("waiting", 1)]
        else:
            assert sorted(it.pick("gen_abandoned", "stale_reconnects")) == [(0,), (1,)]


def test_an_interrupted_run_sends_nothing_more(bench: Opened) -> None:
    with bench(concurrency=1) as it:
        it.server.script(reply("in flight", delay_s=0.3))
        futures = [it.runtime.loop.submit(it.engine.call(request(text, retries=3))) for text in ("one", "two")]
        it.server.wait_for(lambda: it.server.in_flight == 1)
        it.runtime.interrupt()
        one, two = (future.result() for future in futures)
        assert len(it.server.requests) == 1
    assert one.reply.text == "in flight"
    assert (two.reply, two.error.kind, two.attempts) == (None, "cancelled", ())


def test_the_breaker_opens_waits_probes_and_gives_up(bench: Opened) -> None:
    with bench(breaker=BreakerLimits(2, 0.05)) as it:
        it.server.default = html_500()
        call = it.call(retries=20)
        assert call.error.kind == "circuit_open"
        assert len(call.attempts) == len(it.server.requests) == 2 + 3
        assert it.pick("breaker_open", "pauses", "gave_up") == [(1, False), (2, False), (3, False), (3, True)]
        assert it.call("next").error.kind == "circuit_open"
        assert len(it.server.requests) == 5


def test_an_answer_closes_the_breaker(bench: Opened) -> None:
    with bench(breaker=BreakerLimits(2, 0.05)) as it:
        it.server.script(html_500(), html_500(), reply("back"))
        assert it.call(retries=3).reply.text == "back"
        [(paused_s,)] = it.pick("breaker_closed", "paused_s")
        assert 0.05 <= paused_s < 5


def test_a_rate_limit_does_not_open_the_breaker(bench: Opened) -> None:
    with bench(breaker=BreakerLimits(2, 20)) as it:
        it.server.script(*[rate_limit()] * 4)
        assert it.call(retries=5).reply.attempts == 5
        assert it.events("breaker_open") == []


def test_a_probe_that_is_cancelled_lets_the_next_one_probe(bench: Opened) -> None:
    with bench(breaker=BreakerLimits(1, 0.05)) as it:
        it.server.script(html_500(), hang())
        it.call()
        probe = it.runtime.loop.submit(it.engine.call(request("probe", timeout_s=20)))
        it.server.wait_for(lambda: it.server.in_flight == 1)
        probe.cancel()
        after = it.runtime.loop.submit(it.engine.call(request("after")))
        assert after.result(timeout=2).reply.text == "echo: after"
