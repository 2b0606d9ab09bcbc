"""Prometheus metrics from events: what each event changes, and what scrapers and linters expect of names and text."""

from __future__ import annotations

import re
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
from prometheus_client.parser import text_string_to_metric_families

from pytest_lmstudio.report.metrics import RunMetrics, exposition, write_metrics
from tests.unit.record.logs import START_S, bad, cached, error, event, good, request, success, unsent

if TYPE_CHECKING:
    from prometheus_client.metrics_core import Metric

    from pytest_lmstudio.record.events import Event

PAGE = Path(__file__).parents[3] / "docs" / "metrics.md"


def metrics(*events: Event) -> RunMetrics:
    found = RunMetrics(4, 500, START_S)
    for one in events:
        found.take(one)
    return found


def families(of: RunMetrics) -> list[Metric]:
    return list(text_string_to_metric_families(exposition(of)[1].decode("utf-8")))


def samples(*events: Event) -> dict[str, float]:
    """Return the values by name and labels, as a scraper reads them, but for zeros."""
    found = {}
    for family in families(metrics(*events)):
        for sample in family.samples:
            labels = ",".join(f"{name}={value}" for name, value in sorted(sample.labels.items()))
            found[sample.name + (f"[{labels}]" if labels else "")] = sample.value
    return {name: value for name, value in found.items() if value}


def changed(*events: Event, before: tuple[Event, ...] = ()) -> dict[str, float]:
    """Return what these events change, without histograms' buckets."""
    first, then = samples(*before), samples(*before, *events)
    return {name: value for name, value in then.items() if first.get(name) != value and "_bucket" not in name}


def test_a_run_that_has_just_begun_shows_its_limits_and_nothing_else() -> None:
    assert samples() == {
        "lmstudio_requests_limit": 4,
        "lmstudio_cache_size_limit": 500,
        "lmstudio_run_start_time_seconds": START_S,
        "lmstudio_breaker_state[state=closed]": 1,
    }


def test_a_call_that_goes_well() -> None:
    sent, answered = good("a", latency_ms=1500, evicted=2)
    assert changed(sent) == {"lmstudio_requests_in_flight": 1, "lmstudio_cache_misses_total": 1}
    assert changed(answered, before=(sent,)) == {
        "lmstudio_calls_total[model=qwen,outcome=ok]": 1,
        "lmstudio_attempts_total[model=qwen,outcome=ok]": 1,
        "lmstudio_request_duration_seconds_count[model=qwen]": 1,
        "lmstudio_request_duration_seconds_sum[model=qwen]": 1.5,
        "lmstudio_time_to_first_token_seconds_count[model=qwen]": 1,
        "lmstudio_time_to_first_token_seconds_sum[model=qwen]": 0.2,
        "lmstudio_prompt_tokens_total[model=qwen]": 40,
        "lmstudio_completion_tokens_total[model=qwen]": 20,
        "lmstudio_cache_stores_total": 1,
        "lmstudio_cache_evictions_total": 2,
    }


def test_latencies_fall_into_buckets_that_include_their_bound() -> None:
    found = samples(*good("a", latency_ms=100), *good("b", latency_ms=101), *good("c", latency_ms=900_000))
    buckets = {name: value for name, value in found.items() if name.startswith("lmstudio_request_duration_seconds_b")}
    assert buckets["lmstudio_request_duration_seconds_bucket[le=0.1,model=qwen]"] == 1
    assert buckets["lmstudio_request_duration_seconds_bucket[le=0.25,model=qwen]"] == 2
    assert buckets["lmstudio_request_duration_seconds_bucket[le=300.0,model=qwen]"] == 2
    assert buckets["lmstudio_request_duration_seconds_bucket[le=+Inf,model=qwen]"] == 3


def test_a_call_that_is_lost_after_a_retry() -> None:
    tried = (request("a"), error("a", "timeout", retry_in_ms=800))
    assert changed(*tried) == {
        "lmstudio_attempts_total[model=qwen,outcome=failed]": 1,
        "lmstudio_errors_total[category=network,kind=timeout,model=qwen]": 1,
        "lmstudio_cache_misses_total": 1,
    }
    assert changed(request("a", attempt=2), error("a", "disconnect", attempt=2), before=tried) == {
        "lmstudio_calls_total[model=qwen,outcome=failed]": 1,
        "lmstudio_attempts_total[model=qwen,outcome=failed]": 2,
        "lmstudio_errors_total[category=network,kind=disconnect,model=qwen]": 1,
        "lmstudio_retries_total[model=qwen]": 1,
    }


def test_a_call_that_is_not_sent() -> None:
    assert changed(unsent("a", "unreachable")) == {
        "lmstudio_calls_total[model=qwen,outcome=failed]": 1,
        "lmstudio_errors_total[category=network,kind=unreachable,model=qwen]": 1,
    }
    assert changed(unsent("a", "cache_miss", error_category="other")) == {
        "lmstudio_calls_total[model=qwen,outcome=failed]": 1,
        "lmstudio_errors_total[category=other,kind=cache_miss,model=qwen]": 1,
        "lmstudio_cache_misses_total": 1,
    }


def test_answers_without_a_request_of_their_own() -> None:
    assert changed(cached("a"), cached("b"), cached("c", "coalesced")) == {
        "lmstudio_calls_total[model=qwen,outcome=cached]": 2,
        "lmstudio_calls_total[model=qwen,outcome=coalesced]": 1,
        "lmstudio_cache_hits_total": 2,
    }


def test_a_stream_that_was_left_is_abandoned_and_an_answer_nobody_asked_for_stays() -> None:
    left = event("gen_abandoned", call_id="a", attempt=1, latency_ms=5)
    assert changed(request("a", cache="off"), left) == {
        "lmstudio_calls_total[model=qwen,outcome=abandoned]": 1,
        "lmstudio_attempts_total[model=qwen,outcome=abandoned]": 1,
    }
    assert changed(event("gen_abandoned", call_id="a", attempt=0), before=tuple(good("a"))) == {}


def test_requests_in_flight_end_with_their_worker_their_slot_and_their_run() -> None:
    sent = [request(name, worker=worker, slot=slot) for name, worker, slot in (("a", "gw0", 0), ("b", "gw1", 1))]
    assert samples(*sent)["lmstudio_requests_in_flight"] == 2
    crash = event("worker_crashed", worker="gw0")
    assert samples(*sent, crash)["lmstudio_requests_in_flight"] == 1
    assert samples(*sent, crash)["lmstudio_workers_crashed_total"] == 1
    assert samples(*sent, request("c", slot=1))["lmstudio_requests_in_flight"] == 2
    assert "lmstudio_requests_in_flight" not in samples(*sent, event("run_end"))


def test_the_breaker_and_the_limit() -> None:
    opened = event("breaker_open", pauses=1, pause_s=30)
    assert changed(opened) == {"lmstudio_breaker_state[state=open]": 1, "lmstudio_breaker_trips_total": 1}
    closed = event("breaker_closed", paused_s=31.5)
    assert changed(closed, before=(opened,)) == {
        "lmstudio_breaker_state[state=closed]": 1,
        "lmstudio_breaker_paused_seconds_total": 31.5,
    }
    gave_up = event("breaker_open", gave_up=True)
    assert changed(gave_up, before=(opened,)) == {"lmstudio_breaker_state[state=given_up]": 1}
    assert changed(event("concurrency_changed", limit=2, previous=4)) == {"lmstudio_requests_limit": 2}


def test_tests_count_once_by_their_last_outcome_and_the_end_of_the_run_knows_all() -> None:
    ends = [
        event("test_end", nodeid="a", outcome="passed"),
        event("test_end", nodeid="b", outcome="passed", others={"passed": 3}),
        event("test_end", nodeid="a", outcome="error"),
    ]
    assert changed(*ends) == {"lmstudio_tests[outcome=passed]": 4, "lmstudio_tests[outcome=error]": 1}
    assert changed(*ends, event("run_end", 5000, tests={"passed": 9, "lm_error": 1, "failed": 0}, cache_entries=7)) == {
        "lmstudio_tests[outcome=passed]": 9,
        "lmstudio_tests[outcome=lm_error]": 1,
        "lmstudio_run_end_time_seconds": START_S + 5,
        "lmstudio_cache_entries": 7,
    }


@pytest.mark.parametrize(("gate_failed", "value"), [(True, [1.0]), (False, [0.0]), (None, [])])
def test_the_verdict_shows_when_there_is_one(gate_failed: bool | None, value: list[float]) -> None:
    judged = metrics()
    judged.judged(gate_failed=gate_failed)
    [gate] = [family for family in families(judged) if family.name == "lmstudio_gate_failed"]
    assert [sample.value for sample in gate.samples] == value


@pytest.mark.parametrize("value", [None, "x", True, float("nan"), -1, [], {}, 10**400])
def test_fields_that_are_no_numbers_are_no_numbers_here_either(value: Any) -> None:
    odd = [
        success("a", latency_ms=value, ttft_ms=value, tokens_in=value, tokens_out=value, evicted=value),
        event("breaker_closed", paused_s=value),
        event("concurrency_changed", limit=value if value != -1 else None),
        event("test_end", nodeid=value, outcome=value, others=value),
        event("run_end", tests=value, cache_entries=None),
        request("b", attempt=2 if isinstance(value, (list, dict)) else value, slot=None),
    ]
    assert samples(*odd)["lmstudio_calls_total[model=qwen,outcome=ok]"] == 1


def test_a_hostile_model_is_one_label_and_many_models_are_a_few_labels() -> None:
    named = samples(success("a", model='a"b\\c\n# HELP x\ud800'))
    assert named['lmstudio_attempts_total[model=a"b\\c\\n# HELP x\\ud800,outcome=ok]'] == 1
    found = samples(*(success(str(n), model=f"m{n}") for n in range(80)))
    labels = {name for name in found if name.startswith("lmstudio_attempts_total")}
    assert len(labels) == 51
    assert found["lmstudio_attempts_total[model=(other),outcome=ok]"] == 30


def test_names_follow_the_conventions_of_prometheus() -> None:
    for family in families(metrics(*good("a"), *bad("b"))):
        assert re.fullmatch(r"lmstudio_[a-z_]+", family.name)
        assert family.documentation
        assert not re.search(r"_(ms|milliseconds|count|total|bucket|sum|info)$", family.name)
        is_time = "duration" in family.name or "time" in family.name or "paused" in family.name
        assert family.name.endswith("_seconds") == is_time
        for sample in family.samples:
            assert (family.type == "counter") == sample.name.endswith("_total")
            assert sample.timestamp is None
            assert set(sample.labels) <= {"model", "outcome", "kind", "category", "state", "le"}


def test_the_page_about_metrics_names_each_with_its_type() -> None:
    documented = re.findall(r"^\| `(lmstudio_\w+)` \| (\w+) \|", PAGE.read_text("utf-8"), re.MULTILINE)
    shown = [(f"{f.name}_total" if f.type == "counter" else f.name, f.type) for f in families(metrics())]
    assert documented == shown


def test_scrapers_may_ask_for_openmetrics() -> None:
    content_type, text = exposition(metrics(*good("a")), "application/openmetrics-text; version=1.0.0")
    assert content_type.startswith("application/openmetrics-text")
    assert text.endswith(b"# EOF\n")


def test_a_file_for_the_textfile_collector_is_replaced_whole(tmp_path: Path) -> None:
    path = tmp_path / "new" / "lmstudio.prom"
    write_metrics(metrics(*good("a")), path)
    write_metrics(metrics(*good("a"), *good("b")), path)
    assert b'lmstudio_calls_total{model="qwen",outcome="ok"} 2.0\n' in path.read_bytes()
    assert [one.name for one in path.parent.iterdir()] == ["lmstudio.prom"]
