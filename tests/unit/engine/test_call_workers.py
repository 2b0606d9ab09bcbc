"""Calls of two workers that meet: slots that stay taken, back-offs that end early, answers that are shared."""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING, Any

import pytest

from pytest_lmstudio.settings import BreakerLimits
from tests.standin import Step, endless_stream, hang, html_500, length_thinking, rate_limit, reply
from tests.unit.engine.benches import two_workers

if TYPE_CHECKING:
    from collections.abc import Callable
    from contextlib import AbstractContextManager
    from pathlib import Path

    from tests.standin.exchange import Exchange
    from tests.unit.engine.benches import Bench

pytestmark = pytest.mark.timeout(60)

Pair = Any


@pytest.fixture
def pair(tmp_path: Path) -> Callable[..., AbstractContextManager[tuple[Bench, Bench]]]:
    """Open two workers with some settings; a back-off takes 0.3 s."""
    return partial(two_workers, tmp_path, strategy=lambda _: 0.3)


def still_reading_the_prompt() -> Step:
    """Tell that the prompt is processed, as some servers do, and never begin to answer."""

    async def act(exchange: Exchange) -> None:
        await exchange.begin()
        await exchange.send(b": processing the prompt\n\n")
        await exchange.forever()

    return Step("still_reading_the_prompt", act)


def once_followed(step: Step, bench: Bench, calls: int) -> Step:
    """Do a step as soon as so many calls of a bench wait for the answer of another one."""

    async def act(exchange: Exchange) -> None:
        flights = bench.engine.coalescer._flights
        while sum(flight.callers for flight in flights.values()) < calls:
            await exchange.sleep(0.01)
        await step.act(exchange)

    return Step(step.name, act)


def texts(bench: Bench) -> list[str]:
    return [seen.text for seen in bench.server.requests]


@pytest.mark.parametrize(
    ("step", "given"),
    [
        (hang(), {"timeout_s": 0.2}),
        (hang(), {"first_token_s": 0.2}),
        (still_reading_the_prompt(), {"first_token_s": 0.2}),
        (hang(), {"timeout_s": 0.2, "stream": False}),
    ],
    ids=["attempt", "first token", "first token after a comment", "whole"],
)
def test_a_server_that_may_still_compute_a_prompt_gets_no_second_one(
    pair: Pair, step: Step, given: dict[str, Any]
) -> None:
    with pair(concurrency=1) as (one, other):
        one.server.script(step)
        abandons = one.begin("abandoned", retries=1, **given)
        one.server.wait_for(lambda: one.server.in_flight == 1)
        waits = other.begin("of another worker", timeout_s=20.0)
        assert abandons.result().reply.text == "echo: abandoned"
        assert waits.result().reply.text == "echo: of another worker"
        assert texts(one) == ["abandoned", "abandoned", "of another worker"]


@pytest.mark.parametrize(
    ("step", "given"),
    [
        (html_500(delay_s=0.2), {}),
        (rate_limit("0.3", delay_s=0.2), {}),
        (endless_stream(), {"timeout_s": 0.2}),
        (reply("one two", per_token_s=0.4), {"inter_token_s": 0.2}),
    ],
    ids=["failed", "told to wait", "cut while the answer came", "cut between tokens"],
)
def test_a_server_that_is_done_with_a_request_takes_the_next_one_meanwhile(
    pair: Pair, step: Step, given: dict[str, Any]
) -> None:
    with pair(concurrency=1) as (one, other):
        one.server.script(step)
        fails = one.begin("failed", retries=1, **given)
        one.server.wait_for(lambda: one.server.in_flight == 1)
        other.begin("of another worker", timeout_s=20.0).result()
        assert fails.result().reply.text == "echo: failed"
        assert texts(one) == ["failed", "of another worker", "failed"]


def test_an_interrupt_noted_by_another_worker_ends_a_long_back_off(pair: Pair) -> None:
    with pair() as (one, other):
        one.server.script(rate_limit(100))
        told_to_wait = one.begin(retries=3)
        one.server.wait_for(lambda: len(one.events("gen_error")) == 1)
        other.runtime.shared.interrupt()
        assert told_to_wait.result(timeout=50).error.kind == "cancelled"
        assert len(one.server.requests) == 1


def test_a_long_back_off_ends_when_the_breaker_gives_up(pair: Pair) -> None:
    with pair(breaker=BreakerLimits(1, 0.01)) as (one, other):
        one.server.script(rate_limit(100))
        one.server.default = html_500()
        told_to_wait = one.begin("told to wait", retries=3)
        one.server.wait_for(lambda: len(one.events("gen_error")) == 1)
        assert other.call("dead", retries=10).error.kind == "circuit_open"
        assert told_to_wait.result(timeout=50).error.kind == "circuit_open"
        assert texts(one).count("told to wait") == 1


def test_fifty_identical_calls_of_two_workers_are_one_request(pair: Pair) -> None:
    with pair(cache_size=1) as workers:
        one, other = workers
        assert one.call("fills the cache", cache="readwrite").error is None
        one.server.script(once_followed(reply("one answer"), other, 25))
        leads = one.begin("same", cache="readwrite")
        one.server.wait_for(lambda: one.server.in_flight == 1)
        follow = [worker.begin("same", cache="readwrite", number=n) for n in range(25) for worker in workers]
        assert {future.result().reply.text for future in [leads, *follow]} == {"one answer"}
        assert texts(one) == ["fills the cache", "same"]
        assert one.pick("gen_cached", "source") == [("coalesced",)] * 50


@pytest.mark.parametrize("cache", ["off", "refresh"])
def test_calls_that_may_not_read_the_cache_are_all_sent(pair: Pair, cache: str) -> None:
    with pair() as workers:
        workers[0].server.default = reply("x", delay_s=0.1)
        futures = [worker.begin("same", cache=mode) for worker in workers for mode in (cache, "readwrite")]
        assert [future.result().reply.text for future in futures] == ["x"] * 4
        assert len(workers[0].server.requests) == 3  # two that may not, one that leads


@pytest.mark.parametrize("end", ["fails", "is cancelled", "gets no text"])
def test_a_worker_follows_one_that_answered_and_leads_after_one_that_did_not(pair: Pair, end: str) -> None:
    steps = {"fails": html_500(), "is cancelled": hang(), "gets no text": length_thinking("hm")}
    with pair() as (one, other):
        one.server.script(once_followed(steps[end], other, 1), reply("second"))
        leads = one.begin("same", cache="readwrite", timeout_s=20.0)
        one.server.wait_for(lambda: one.server.in_flight == 1)
        follows = other.begin("same", cache="readwrite", timeout_s=20.0)
        if end == "is cancelled":
            leads.cancel()
        reply_ = follows.result().reply
        shared = end == "gets no text"
        assert (reply_.text, reply_.cached) == (("", True) if shared else ("second", False))
        assert len(one.server.requests) == (1 if shared else 2)
