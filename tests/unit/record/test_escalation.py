"""A run escalates by the three rules, and by nothing less."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest

from pytest_lmstudio.settings import Settings
from tests.unit.record.logs import bads, error, goods, report_of, request, success, unsent

if TYPE_CHECKING:
    from pytest_lmstudio.record.events import Event


def escalation(events: list[Event], settings: Settings | None = None, **fields: Any) -> dict[str, Any]:
    found: dict[str, Any] = report_of(events, settings, **fields)["escalation"]
    assert found["escalate"] is bool(found["reasons"])
    return found


def test_a_healthy_run_does_not_escalate() -> None:
    assert escalation(goods(30)) == {"escalate": False, "reasons": []}


def test_calls_that_fail_in_spite_of_a_long_timeout_escalate() -> None:
    events = [*goods(18), *bads(2, chars=500, timeout_ms=90_000)]
    events = [{**e, "timeout_ms": 90_000} if e["event"] == "gen_request" else e for e in events]
    assert escalation(events)["reasons"] == [
        "2 of 20 calls (10.0%) failed although their timeout was 90 s or more; at most 5% should"
    ]


@pytest.mark.parametrize(("ok", "timeout_ms"), [(19, 90_000), (1, 89_999)])
def test_one_of_twenty_or_a_shorter_timeout_does_not_escalate(ok: int, timeout_ms: int) -> None:
    events = [*goods(ok), *bads(1, chars=500)]
    events = [{**e, "timeout_ms": timeout_ms} if e["event"] == "gen_request" else e for e in events]
    assert escalation(events)["reasons"] == []


def test_a_call_that_was_never_sent_counts_with_the_timeout_of_the_run() -> None:
    assert len(escalation([unsent("a", "circuit_open")], Settings(timeout=90.0))["reasons"]) == 1
    assert escalation([unsent("a", "circuit_open")], Settings(timeout=45.0))["reasons"] == []
    assert escalation([unsent("a", "circuit_open")], Settings(timeout="auto"))["reasons"] == []


@pytest.mark.parametrize("kind", ["auth", "wrong_url", "cache_miss", "cancelled"])
def test_mistakes_and_interrupts_tell_nothing_of_the_server(kind: str) -> None:
    events = bads(5, kind, error_category="other", timeout_ms=90_000)
    assert escalation(events)["reasons"] == []


def test_first_attempts_of_tiny_prompts_that_fail_escalate_although_a_retry_went_well() -> None:
    events = [
        line
        for i in range(3)
        for line in (
            request(f"c{i}", 0, prompt_chars=199),
            error(f"c{i}", "disconnect", 10, retry_in_ms=800),
            request(f"c{i}", 1000, 2, prompt_chars=199),
            success(f"c{i}", 2000, 2),
        )
    ]
    assert escalation([*events, *goods(2)])["reasons"] == [
        "the first attempt failed in 3 of 5 calls with prompts under 200 characters"
    ]
    assert escalation([*events, *goods(3)])["reasons"] == []


def test_two_tiny_prompts_or_longer_ones_do_not_escalate() -> None:
    assert escalation(bads(2, chars=199))["reasons"] == []
    assert escalation(bads(5, chars=200))["reasons"] == []


def test_context_and_memory_errors_that_recur_escalate() -> None:
    events = [*bads(2, "context_overflow", chars=900), *bads(1, "out_of_memory", "oom", chars=900)]
    assert escalation([*events, *goods(9)])["reasons"] == [
        "the server ran out of context 2 times and out of memory 1 time"
    ]
    assert escalation([*events[:4], *goods(9)])["reasons"] == []


@pytest.mark.parametrize(("lost", "of", "escalates"), [(1, 20, False), (2, 20, True), (5, 100, False), (6, 100, True)])
def test_over_five_percent_of_calls_with_a_long_timeout_escalate_and_five_do_not(
    lost: int, of: int, escalates: bool
) -> None:
    events = [*goods(of - lost, timeout_ms=90_000), *bads(lost, chars=500, timeout_ms=90_000)]
    assert escalation(events)["escalate"] is escalates


def test_only_the_calls_with_a_long_timeout_are_counted_for_that_rule() -> None:
    events = [
        *goods(100, timeout_ms=45_000),
        *goods(9, "long", timeout_ms=90_000),
        *bads(1, chars=500, timeout_ms=90_000),
    ]
    assert escalation(events)["reasons"] == [
        "1 of 10 calls (10.0%) failed although their timeout was 90 s or more; at most 5% should"
    ]


def test_a_retry_that_went_well_is_no_call_that_still_fails() -> None:
    mended = [
        request("a", 0, prompt_chars=900, timeout_ms=90_000),
        error("a", "timeout", 90_000, retry_in_ms=800),
        request("a", 91_000, 2, prompt_chars=900, timeout_ms=90_000),
        success("a", 95_000, 2),
    ]
    assert escalation(mended)["reasons"] == []


@pytest.mark.parametrize(("failing", "well", "escalates"), [(3, 2, True), (3, 3, False), (2, 0, False), (4, 3, True)])
def test_first_attempts_of_tiny_prompts_escalate_from_three_on_and_over_half(
    failing: int, well: int, escalates: bool
) -> None:
    events = [*bads(failing, "disconnect", chars=199), *goods(well, chars=0)]
    assert escalation(events)["escalate"] is escalates


def test_longer_prompts_do_not_make_tiny_ones_look_better() -> None:
    assert escalation([*bads(3, "disconnect", chars=0), *goods(50, chars=200)])["escalate"] is True


@pytest.mark.parametrize(("context", "memory", "escalates"), [(3, 0, True), (0, 3, True), (1, 2, True), (1, 1, False)])
def test_context_and_memory_errors_escalate_from_three_on(context: int, memory: int, escalates: bool) -> None:
    events = [
        *bads(context, "context_overflow", "c", error_category="other", chars=900),
        *bads(memory, "out_of_memory", "m", error_category="other", chars=900),
        *goods(500),
    ]
    assert escalation(events)["escalate"] is escalates


def test_the_reasons_come_together() -> None:
    assert len(escalation(bads(3, "out_of_memory", timeout_ms=90_000))["reasons"]) == 3
