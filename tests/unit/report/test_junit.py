"""Properties for JUnit XML: few, stable names, and values that a program can read."""

from __future__ import annotations

from pytest_lmstudio.errors import ErrorKind, make_error
from pytest_lmstudio.record.stats import tally
from pytest_lmstudio.records import Attempt, Call
from pytest_lmstudio.report.junit import properties_of_suite, properties_of_test
from tests.unit.record.logs import bads, goods, report_of
from tests.unit.report.test_section import chat, reply

LATE = Attempt(1, 1000.0, 0.0, ErrorKind.TIMEOUT, "waiting", "1 s passed")
GOOD = Attempt(2, 20.51239, 800.0)


def test_a_suite_tells_its_counts_rates_and_times() -> None:
    report = report_of([*goods(3), *bads(1)], outcomes={**tally({}), "lm_error": 1})
    assert dict(properties_of_suite(report)) == {
        "lmstudio.run_id": "run-1",
        "lmstudio.pipeline_version": "v1",
        "lmstudio.calls.total": "4",
        "lmstudio.calls.sent": "4",
        "lmstudio.calls.ok": "3",
        "lmstudio.calls.failed": "1",
        "lmstudio.calls.cached": "0",
        "lmstudio.calls.coalesced": "0",
        "lmstudio.attempts.total": "4",
        "lmstudio.attempts.failed": "1",
        "lmstudio.attempts.retries": "0",
        "lmstudio.rates.error_rate": "0.25",
        "lmstudio.rates.error_rate_ci95.lo": "0.0456",
        "lmstudio.rates.error_rate_ci95.hi": "0.6994",
        "lmstudio.rates.disconnect_rate": "0.25",
        "lmstudio.rates.first_attempt_failure_rate": "0.25",
        "lmstudio.gate.max_error_rate": "0.05",
        "lmstudio.gate": "failed",
        "lmstudio.latency_ms.p50": "1000",
        "lmstudio.latency_ms.p95": "1000",
        "lmstudio.latency_ms.p99": "1000",
        "lmstudio.latency_ms.max": "1000",
        "lmstudio.ttft_ms.p50": "200",
        "lmstudio.ttft_ms.p95": "200",
        "lmstudio.tests.lm_error": "1",
        "lmstudio.errors.timeout": "1",
    }


def test_what_is_not_known_is_left_out() -> None:
    known = dict(properties_of_suite(report_of([], pipeline_version="", interrupted=True)))
    assert known["lmstudio.gate"] == "not judged"
    assert not {
        name for name in known if name.startswith(("lmstudio.rates", "lmstudio.latency_ms", "lmstudio.ttft_ms"))
    }
    assert "lmstudio.pipeline_version" not in known


def test_a_test_tells_its_calls_attempts_errors_and_latency() -> None:
    error = make_error(ErrorKind.TIMEOUT, "late")
    refused = make_error(ErrorKind.UNREACHABLE, "nobody there")
    calls = [
        Call(chat("a"), (LATE, GOOD), reply()),
        Call(chat("b"), (LATE, LATE), None, error),
        Call(chat("c"), (), reply(cached=True)),
        Call(chat("d"), (), None, refused),
    ]
    assert properties_of_test(calls) == [
        ("lmstudio.calls", "4"),
        ("lmstudio.failed", "2"),
        ("lmstudio.cached", "1"),
        ("lmstudio.attempts", "4"),
        ("lmstudio.errors.timeout", "3"),
        ("lmstudio.errors.unreachable", "1"),
        ("lmstudio.latency_ms.mean", "20.5124"),
        ("lmstudio.latency_ms.max", "20.5124"),
    ]


def test_a_test_without_an_answer_has_no_latency() -> None:
    names = [
        name for name, _ in properties_of_test([Call(chat("a"), (LATE,), None, make_error(ErrorKind.TIMEOUT, "x"))])
    ]
    assert names == [f"lmstudio.{name}" for name in ("calls", "failed", "cached", "attempts", "errors.timeout")]
