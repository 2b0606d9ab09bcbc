"""The section at the end of a run: verdict first, then what to do, then the numbers, in plain 80 columns."""

from __future__ import annotations

from typing import Any

import pytest

from pytest_lmstudio.report.terminal import Line, lines, lost_lines
from pytest_lmstudio.settings import Settings
from tests.unit.record.logs import bads, cached, event, goods, preflight, report_of, request, unsent

RED = {"red": True, "bold": True}


def shown(report: dict[str, Any], width: int = 80, run_dir: str | None = None) -> list[str]:
    return [line.text for line in lines(report, width=width, run_dir=run_dir)]


def test_a_run_without_calls_shows_nothing() -> None:
    assert shown(report_of([preflight()])) == []


def test_a_healthy_run_is_shown_in_full() -> None:
    report = report_of([preflight(), *goods(9), cached("hit")], cache_entries=9)
    assert list(lines(report, run_dir=".lmstudio/runs/run-1")) == [
        Line("gate passed: 0% of 9 calls lost, limit 5% (95% interval 0% to 29.9%)", {"green": True}),
        Line("calls         9 sent (9 ok, 0 failed), 1 cached"),
        Line("error rate    0% of calls, limit 5%"),
        Line("attempts      9 (0 retries), 0% disconnected, 0% of first attempts failed"),
        Line("latency       p50 1 s  p95 1 s  p99 1 s  mean 1 s  max 1 s"),
        Line("first token   p50 200 ms  p95 200 ms"),
        Line("tokens/s      p50 25.0  p95 25.0"),
        Line("tokens        360 in, 180 out"),
        Line("cache         1 hit, 9 misses, 9 stored, 9 of 500 entries"),
        Line("in flight     at most 1, limit 4"),
        Line("server        http://127.0.0.1:1234, qwen (Q4_K_M, context 4096, 4 at once)"),
        Line("report        .lmstudio/runs/run-1/report.json"),
    ]


def test_a_failed_gate_comes_first_and_then_what_to_do() -> None:
    report = report_of([*goods(28, gap_ms=30_000), *bads(2, "rate_limited", gap_ms=1, chars=500)])
    assert list(lines(report))[:8] == [
        Line("gate FAILED: error rate 6.7% (2 of 30 calls lost) is above the limit of 5%", RED),
        Line("              95% interval 1.8% to 21.3%", RED),
        Line("! the server asks to slow down", {"bold": True}),
        Line('  seen   2 errors of kind rate_limited, the first: "no"'),
        Line("  cause  more requests come than it takes"),
        Line("  check  other programs that use the same server"),
        Line("  fix    set EVAL_CONCURRENCY=1 (--lmstudio-concurrency=1)"),
        Line("calls         30 sent (28 ok, 2 failed)"),
    ]


def test_three_symptoms_are_shown_in_full_and_of_the_others_what_to_change() -> None:
    kinds = ("auth", "no_model", "bad_request", "wrong_url")
    report = report_of([line for kind in kinds for line in bads(1, kind, kind, error_category="other")])
    found = shown(report)
    assert [line for line in found if line.startswith("! ")] == [
        "! the server refuses the API token",
        "! the server does not know the route",
        "! the model asked for is not there",
        "! also: the server rejects the requests; mend the request as the message says;",
    ]
    assert len([line for line in found if line.startswith("  cause")]) == 3


@pytest.mark.parametrize("width", range(60, 100))
def test_a_command_is_never_broken_over_lines(width: int) -> None:
    report = report_of(bads(1, "out_of_memory", error_category="other"))
    found = shown(report, width)
    assert any("`lms load qwen --context-length 4096`" in line for line in found)
    assert max(map(len, found)) <= width


def test_a_command_longer_than_a_line_is_shown_whatever_becomes_of_it() -> None:
    report = report_of(bads(1, "out_of_memory", error_category="other", model="m" * 99))
    assert max(map(len, shown(report, 60))) <= 60


def test_a_tolerated_loss_is_yellow() -> None:
    first = next(lines(report_of([*goods(29), *bads(1, "rate_limited")])))
    assert first.text == "gate passed: 3.3% of 30 calls lost, limit 5% (95% interval 0.6% to 16.7%)"
    assert first.markup == {"yellow": True}


def test_an_interrupted_run_is_not_judged() -> None:
    first = next(lines(report_of(goods(2), interrupted=True)))
    assert first == Line("gate not judged: the run was interrupted", {"yellow": True})


def test_a_run_from_the_cache_alone_passes() -> None:
    assert shown(report_of([cached("a")])) == [
        "gate passed: no call was sent to the server",
        "calls         0 sent (0 ok, 0 failed), 1 cached",
        "cache         1 hit, 0 misses, 0 stored",
        "server        http://127.0.0.1:1234, qwen",
    ]


def test_trouble_of_every_sort_has_its_line() -> None:
    outcomes = {"passed": 1, "lm_error": 2}
    report = report_of(
        [
            *goods(1),
            request("gone"),
            unsent("late", "circuit_open"),
            event("breaker_open", pause_s=30.0, pauses=1, gave_up=False),
            event("breaker_closed", paused_s=31.5),
            event("concurrency_changed", limit=2, previous=4),
        ],
        outcomes={**dict.fromkeys(("failed", "error", "skipped", "xfailed", "xpassed"), 0), **outcomes},
        workers_crashed=1,
    )
    found = shown(report)
    assert "errors        cancelled 1, circuit_open 1" in found
    assert "lost tests    2 (run them again with --lf)" in found
    assert "cut off       1 request without outcome, 1 worker crashed" in found
    assert "breaker       paused 1 time, 31.5 s in all" in found
    assert "in flight     at most 2, limit 4 (lowered 1 time)" in found


def test_an_escalation_names_its_reasons_and_the_bundle() -> None:
    found = list(lines(report_of(bads(3, "disconnect")), run_dir="runs/run-1"))
    start = next(i for i, line in enumerate(found) if line.text.startswith("escalate"))
    assert [line.text for line in found[start : start + 3]] == [
        "escalate      the first attempt failed in 3 of 3 calls with prompts under 200",
        "              characters",
        "              runs/run-1/escalation.zip",
    ]
    assert found[start].markup == {"red": True, "bold": True}


def test_hints_are_short_and_last() -> None:
    assert (
        shown(report_of(goods(1), pipeline_version=""), run_dir="runs/run-1")[-4:]
        == [
            "report        runs/run-1/report.json",
            "hint          the pipeline version is not set: 0 answers came from the cache, 1",
            "              was stored, with an empty pipeline version; set",
            "              EVAL_PIPELINE_VERSION (--lmstudio-pipeline-version), such as to a",
            "              commit id",
        ][-4:]
    )


@pytest.mark.parametrize("width", [60, 80, 120])
def test_no_line_is_wider_than_the_terminal(width: int) -> None:
    report = report_of([preflight(), *goods(3), *bads(9, "disconnect", phase="receiving")], pipeline_version="")
    assert max(len(text) for text in shown(report, width)) <= width


def test_strings_from_outside_cannot_drive_the_terminal() -> None:
    evil = "\x1b]0;x\x07\u202e\nmodel"
    report = report_of(
        [preflight(id=evil), *goods(1, model=evil), *bads(1, "rate_limited", message=evil)],
        Settings(url=f"http://{evil}"),
    )
    texts = shown(report, run_dir=f"runs/{evil}")
    assert [text for text in texts if not text.isprintable()] == []
    assert "report        runs/\\x1b]0;x\\x07\\u202e\\nmodel/report.json" in texts


NARROW, WIDE = 60, 200


@pytest.mark.parametrize("width", [NARROW, 80, WIDE])
def test_what_to_do_stands_before_the_figures_at_any_width(width: int) -> None:
    found = shown(report_of(bads(3, "disconnect"), outcomes=lost_outcomes(3)), width, "runs/run-1")
    assert found[0].startswith("gate FAILED: error rate 100% (3 of 3 calls lost) is above")
    first = {
        name: next(n for n, line in enumerate(found) if line.startswith(name)) for name in ("! ", "escalate", "calls")
    }
    assert list(first) == sorted(first, key=first.__getitem__)


def test_a_wide_terminal_gets_no_lines_that_are_hard_to_read() -> None:
    found = shown(report_of([*goods(3), *bads(9, "disconnect", phase="receiving")], pipeline_version=""), WIDE)
    assert 80 < max(map(len, found)) <= 120


def lost_outcomes(count: int) -> dict[str, int]:
    return {**dict.fromkeys(report_of([])["tests"], 0), "lm_error": count}


def test_of_many_lost_tests_ten_are_named_and_the_rest_is_one_command_away() -> None:
    named = [line.text for line in lost_lines([(f"t.py::test_{n}", "timeout") for n in range(1300)])]
    assert named[:2] == ["lost          t.py::test_0: timeout", "lost          t.py::test_1: timeout"]
    assert named[10:] == ["              and 1,290 more: `pytest --lf --collect-only -q` lists them"]
    assert len(list(lost_lines([("t.py::test", "timeout")] * 10))) == 10


def test_large_numbers_have_their_thousands_apart() -> None:
    report = report_of([cached(str(n)) for n in range(1234)], cache_entries=1234)
    assert shown(report)[1:3] == [
        "calls         0 sent (0 ok, 0 failed), 1,234 cached",
        "cache         1,234 hits, 0 misses, 0 stored, 1,234 of 500 entries",
    ]
