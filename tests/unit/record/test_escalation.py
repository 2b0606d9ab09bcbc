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
        "the server ran out of context 2 times and out of memory 1 times"
    ]
    assert escalation([*events[:4], *goods(9)])["reasons"] == []
