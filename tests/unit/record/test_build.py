"""The report counts every call once, whatever happened to it."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pytest_lmstudio.record.build import RunFacts, build_report, tally
from pytest_lmstudio.settings import Settings
from tests.unit.record.logs import (
    bad,
    bads,
    cached,
    error,
    event,
    facts,
    good,
    goods,
    preflight,
    report_of,
    request,
    success,
    unsent,
)

if TYPE_CHECKING:
    from pytest_lmstudio.record.events import Event


def test_the_report_has_every_section_in_this_order() -> None:
    report = report_of([preflight(), *goods(1)])
    assert list(report) == [
        *("schema_version", "run_id", "started_at", "duration_s", "pipeline_version", "plugin_version", "exit_status"),
        *("server", "settings", "calls", "attempts", "rates", "latency_ms", "ttft_ms", "tokens_per_second"),
        *("prompt_chars", "tokens", "errors_by_kind", "errors_by_category", "by_model", "concurrency", "breaker"),
        *("cache", "tests", "lost", "notes", "gate", "escalation", "diagnosis"),
    ]
    assert report["schema_version"] == 1
    assert (report["run_id"], report["duration_s"], report["exit_status"]) == ("run-1", 12.5, 0)
    assert report["settings"] == Settings().as_dict()


def test_one_call_of_every_end_is_counted_where_it_belongs() -> None:
    report = report_of(
        [
            *good("ok"),
            *bad("failed"),
            unsent("never-sent", "circuit_open"),
            cached("hit"),
            cached("follower", "coalesced"),
            request("left"),
            event("gen_abandoned", 500, call_id="left", attempt=1, latency_ms=500),
        ]
    )
    assert report["calls"] == {
        "total": 6,
        "sent": 3,
        "ok": 1,
        "failed": 2,
        "cached": 1,
        "coalesced": 1,
        "abandoned": 1,
    }
    assert report["attempts"] == {
        "total": 2,
        "ok": 1,
        "failed": 1,
        "retries": 0,
        "disconnects": 1,
        "stale_reconnects": 0,
    }
    assert report["errors_by_kind"] == {"timeout": 1, "circuit_open": 1}
    assert report["errors_by_category"] == {"network": 2}


def test_a_call_that_was_tried_again_and_went_well_has_not_failed() -> None:
    report = report_of(
        [
            request("a"),
            error("a", "disconnect", 100, retry_in_ms=800, stale_reconnects=1),
            request("a", 900, 2),
            success("a", 1900, 2, stale_reconnects=1),
        ]
    )
    assert (report["calls"]["ok"], report["calls"]["failed"]) == (1, 0)
    assert report["attempts"] == {
        "total": 2,
        "ok": 1,
        "failed": 1,
        "retries": 1,
        "disconnects": 1,
        "stale_reconnects": 2,
    }
    assert report["rates"]["error_rate"] == 0.0
    assert report["rates"]["disconnect_rate"] == 0.5
    assert report["rates"]["first_attempt_failure_rate"] == 1.0


def test_a_request_without_outcome_is_a_call_lost_as_cancelled() -> None:
    report = report_of([*good("a"), request("b", 50)], workers_crashed=1)
    assert (report["calls"]["sent"], report["calls"]["failed"]) == (2, 1)
    assert (report["attempts"]["failed"], report["attempts"]["disconnects"]) == (1, 1)
    assert report["errors_by_kind"] == {"cancelled": 1}
    assert report["lost"] == {"requests_without_outcome": 1, "workers_crashed": 1, "damaged_lines": 0}


def test_a_crash_in_the_back_off_is_a_call_lost_as_cancelled() -> None:
    report = report_of([request("b"), error("b", "connect", retry_in_ms=800)])
    assert (report["calls"]["failed"], report["attempts"]["failed"]) == (1, 1)
    assert report["errors_by_kind"] == {"connect": 1, "cancelled": 1}
    assert report["lost"]["requests_without_outcome"] == 0


def test_an_attempt_without_outcome_before_another_one_is_lost_alone() -> None:
    report = report_of([request("b"), request("b", 10, 2), success("b", 20, 2)])
    assert (report["calls"]["ok"], report["calls"]["failed"]) == (1, 0)
    assert (report["attempts"]["total"], report["attempts"]["failed"]) == (2, 1)
    assert report["lost"]["requests_without_outcome"] == 1


def test_a_call_that_failed_without_its_last_attempt_has_that_kind_too() -> None:
    report = report_of([request("a"), error("a", "connect", retry_in_ms=800), unsent("a", "circuit_open")])
    assert report["calls"]["failed"] == 1
    assert report["attempts"]["total"] == 1
    assert report["errors_by_kind"] == {"connect": 1, "circuit_open": 1}


def test_attempts_of_an_abandoned_call_are_outside_of_every_rate() -> None:
    events = [request("a"), error("a", retry_in_ms=800), event("gen_abandoned", call_id="a", attempt=0)]
    report = report_of(events)
    assert (report["calls"]["abandoned"], report["calls"]["sent"]) == (1, 0)
    assert (report["attempts"]["total"], report["errors_by_kind"]) == (0, {})


def test_rates_are_null_when_nothing_was_sent() -> None:
    report = report_of([cached("a")])
    assert report["rates"] == {
        "error_rate": None,
        "disconnect_rate": None,
        "first_attempt_failure_rate": None,
        "error_rate_ci95": None,
    }
    assert report["gate"] == {
        "max_error_rate": 0.05,
        "failed": False,
        "reason": "no call was sent to the server",
    }
    assert report["latency_ms"] == {"p50": None, "p95": None, "p99": None, "mean": None, "max": None, "count": 0}


def test_a_five_percent_budget_tolerates_one_call_of_thirty_and_not_two() -> None:
    one, two = report_of([*goods(29), *bads(1)]), report_of([*goods(28), *bads(2)])
    assert (one["rates"]["error_rate"], one["gate"]["failed"]) == (1 / 30, False)
    assert (two["rates"]["error_rate"], two["gate"]["failed"]) == (2 / 30, True)
    assert two["rates"]["error_rate_ci95"] == pytest.approx([0.01847702, 0.21323458], abs=1e-8)


def test_an_interrupted_run_is_not_judged() -> None:
    assert report_of(bads(3), interrupted=True)["gate"]["failed"] is None


def test_times_are_those_of_successful_attempts() -> None:
    events = [line for i in range(1, 101) for line in good(f"c{i}", i * 1000, i, ttft_ms=i / 2, tokens_per_second=i)]
    report = report_of([*events, *bad("slow", latency_ms=45_000)])
    assert report["latency_ms"] == {"p50": 50.5, "p95": 95.05, "p99": 99.01, "mean": 50.5, "max": 100, "count": 100}
    assert report["ttft_ms"] == {"p50": 25.25, "p95": 47.525}
    assert report["tokens_per_second"] == {"p50": 50.5, "p95": 95.05}
    assert report["tokens"] == {"in": 4000, "out": 2000}


def test_what_the_server_does_not_tell_is_null() -> None:
    report = report_of(good("a", ttft_ms=None, tokens_in=None, tokens_out=None, tokens_per_second=None))
    assert report["ttft_ms"] == {"p50": None, "p95": None}
    assert report["tokens"] == {"in": None, "out": None}


def test_prompt_lengths_are_those_of_all_calls() -> None:
    report = report_of([*good("a", chars=10), *bad("b", chars=30), {**cached("c"), "prompt_chars": 20}])
    assert report["prompt_chars"] == {"p50": 20, "p95": 29.0, "max": 30}


def test_models_are_counted_apart() -> None:
    report = report_of(
        [*good("a", latency_ms=100, model="b"), *bad("b", model="a"), cached("c"), unsent("d", "connect")]
    )
    assert list(report["by_model"]) == ["a", "b", "qwen"]
    assert report["by_model"]["a"]["error_rate"] == 1.0
    assert report["by_model"]["b"] == {
        "calls": 1,
        "sent": 1,
        "failed": 0,
        "error_rate": 0.0,
        "latency_ms": {"p50": 100, "p95": 100},
    }
    assert (report["by_model"]["qwen"]["calls"], report["by_model"]["qwen"]["sent"]) == (2, 1)


@pytest.mark.parametrize(
    ("spans", "peak"),
    [
        ([(0, 10), (10, 10), (20, 10)], 1),
        ([(0, 10), (9, 10), (20, 10)], 2),
        ([(0, 30), (5, 5), (10, 5), (12, 1)], 3),
        ([(5, 0), (5, 0)], 1),
        ([(0, 10), (5, 0)], 2),
    ],
)
def test_the_peak_is_the_most_attempts_that_overlap(spans: list[tuple[int, int]], peak: int) -> None:
    events = [line for i, (start, length) in enumerate(spans) for line in good(f"c{i}", start, length)]
    assert report_of(events, Settings(concurrency=7))["concurrency"] == {
        "limit": 7,
        "peak_in_flight": peak,
        "reductions": 0,
    }


def test_an_attempt_ends_with_its_latency_though_its_line_comes_later() -> None:
    first = [request("a"), success("a", 14, latency_ms=10)]
    second = [request("b", 10), success("b", 20, latency_ms=10)]
    assert report_of([first[0], second[0], first[1], second[1]])["concurrency"]["peak_in_flight"] == 1


def test_lowered_limits_and_pauses_of_the_breaker_are_counted() -> None:
    report = report_of(
        [
            *goods(1),
            event("concurrency_changed", limit=2, previous=4, reason="latency"),
            event("concurrency_changed", limit=3, previous=2, reason="recovered"),
            event("breaker_open", failures=5, pause_s=30.0, pauses=1, gave_up=False),
            event("breaker_closed", paused_s=31.5),
            event("breaker_open", failures=5, pause_s=30.0, pauses=1, gave_up=False),
            event("breaker_open", failures=6, pause_s=30.0, pauses=2, gave_up=False),
            event("breaker_open", failures=7, pause_s=0, pauses=3, gave_up=True),
        ]
    )
    assert report["concurrency"]["reductions"] == 1
    assert report["breaker"] == {"trips": 3, "paused_s": 91.5}


def test_the_cache_is_counted_by_what_it_answered_and_took() -> None:
    report = report_of(
        [
            cached("hit"),
            cached("follower", "coalesced"),
            *good("stored", evicted=1),
            *good("full", stored=False),
            *good("off", stored=False, cache="off"),
            unsent("offline", "cache_miss", error_category="other"),
        ],
        cache_entries=500,
    )
    assert report["cache"] == {
        "hits": 1,
        "misses": 3,
        "stores": 1,
        "evictions": 1,
        "entries": 500,
        "size_limit": 500,
    }


def test_the_server_is_what_the_last_good_preflight_saw_without_its_password() -> None:
    down = event("preflight", server={"url": "http://u:p@h:1", "reachable": False, "models": [], "problem": "refused"})
    report = report_of([preflight("http://u:p@h:1"), down], Settings(url="http://u:p@h:1"))
    assert (report["server"]["url"], report["server"]["reachable"]) == ("http://h:1", True)
    assert report["server"]["models"] == [
        {
            "id": "qwen",
            "type": "llm",
            "loaded": True,
            "quantization": "Q4_K_M",
            "context_length": 4096,
            "parallel": 4,
        }
    ]
    assert report["settings"]["url"] == "http://h:1"
    assert report_of([down])["server"]["problem"] == "refused"


def test_without_a_preflight_the_server_is_the_address_alone() -> None:
    server = report_of(goods(1))["server"]
    assert (server["url"], server["reachable"], server["models"]) == ("http://127.0.0.1:1234", None, [])


def test_outcomes_of_tests_are_taken_as_they_are_given() -> None:
    three = {**tally({}), "passed": 3}
    assert report_of([], outcomes=three)["tests"] == three
    assert set(report_of([])["tests"].values()) == {0}


def test_a_line_that_stands_twice_counts_once() -> None:
    events = [*good("a"), *bad("b")]
    assert report_of([*events, *[dict(line) for line in events]])["attempts"] == report_of(events)["attempts"]


def test_nonsense_in_the_fields_does_not_break_the_report() -> None:
    nonsense = [
        event("gen_request", call_id="a", attempt="one", prompt_chars="many", timeout_ms=None, model=7),
        event("gen_error", call_id="a", attempt=True, error_kind=["x"], latency_ms=float("nan")),
        event("gen_success", call_id="b", attempt=-3, latency_ms=10**400, ttft_ms="x"),
        event("gen_success", call_id=None),
        event("preflight", server={"models": [1, None]}),
        event("preflight", server="gone"),
        event("breaker_open", pause_s="long"),
        {**request("c"), "ts": "never"},
    ]
    report = report_of(nonsense)
    assert (report["calls"]["ok"], report["calls"]["failed"]) == (1, 2)
    assert json.loads(json.dumps(report, allow_nan=False)) == report


KINDS = st.sampled_from(
    ["timeout", "disconnect", "connect", "auth", "context_overflow", "cancelled", "later", "model_lost"]
)
NUMBERS = st.none() | st.integers(0, 100_000) | st.floats(0, 1e6)
LINES = st.builds(
    lambda name, at_ms, call, attempt, kind, latency, retry, worker, source, extra: event(
        name,
        at_ms,
        call_id=f"c{call}",
        attempt=attempt,
        error_kind=kind,
        latency_ms=latency,
        retry_in_ms=retry,
        worker=worker,
        source=source,
        **extra,
    ),
    st.sampled_from(["gen_request", "gen_request", "gen_success", "gen_error", "gen_cached", "gen_abandoned", "other"]),
    st.integers(0, 5000),
    st.integers(0, 6),
    st.integers(0, 3),
    KINDS,
    NUMBERS,
    st.sampled_from([None, 800]),
    st.sampled_from(["main", "gw0", None]),
    st.sampled_from(["cache", "coalesced", None]),
    st.fixed_dictionaries(
        {},
        optional={
            "timeout_ms": NUMBERS,
            "prompt_chars": NUMBERS,
            "phase": st.sampled_from(["connecting", "waiting", "receiving"]),
            "cut_at_limit": st.booleans(),
            "stored": st.booleans(),
            "finish_reason": st.sampled_from(["stop", "length"]),
            "model": st.sampled_from(["a", "b"]),
        },
    ),
)


@given(st.lists(LINES, max_size=40), st.booleans())
def test_the_sums_hold_over_every_history(events: list[Event], interrupted: bool) -> None:
    report = report_of(events, interrupted=interrupted, cache_entries=500)
    calls, attempts = report["calls"], report["attempts"]
    named = {e["call_id"] for e in events if e["event"].startswith("gen_")}
    assert calls["total"] == len(named) == calls["sent"] + calls["cached"] + calls["coalesced"] + calls["abandoned"]
    assert calls["sent"] == calls["ok"] + calls["failed"]
    assert attempts["total"] == attempts["ok"] + attempts["failed"]
    assert attempts["failed"] <= sum(report["errors_by_kind"].values()) == sum(report["errors_by_category"].values())
    assert attempts["disconnects"] <= attempts["failed"]
    assert report["lost"]["requests_without_outcome"] <= attempts["failed"]
    assert sum(model["failed"] for model in report["by_model"].values()) == calls["failed"]
    assert report["concurrency"]["peak_in_flight"] <= len([e for e in events if e["event"] == "gen_request"])
    check_rates(report)
    assert json.loads(json.dumps(report, allow_nan=False)) == report


def check_rates(report: dict[str, Any]) -> None:
    calls, rates = report["calls"], report["rates"]
    if not calls["sent"]:
        assert (rates["error_rate"], rates["error_rate_ci95"]) == (None, None)
        return
    lo, hi = rates["error_rate_ci95"]
    assert 0 <= lo <= rates["error_rate"] <= hi <= 1
    assert rates["error_rate"] == calls["failed"] / calls["sent"]


@given(st.lists(LINES, max_size=20), st.lists(LINES, max_size=20))
def test_the_calls_of_two_logs_add_up(left: list[Event], right: list[Event]) -> None:
    moved = [{**line, "call_id": f"other-{line['call_id']}"} for line in right]
    apart, together = (report_of(left), report_of(right)), report_of([*left, *moved])
    for section in ("calls", "attempts"):
        sums = {name: sum(report[section][name] for report in apart) for name in together[section]}
        assert together[section] == sums


def test_the_same_facts_give_the_same_report() -> None:
    events, run = [*goods(3), *bads(2)], facts()
    assert isinstance(run, RunFacts)
    assert build_report(events, run=run) == build_report(list(events), run=run)
