"""A run's diagnosis as a whole: the root first, nothing twice, nothing that contradicts it, and safe to show."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest

from pytest_lmstudio.record.diagnosis import HINTS, ROWS
from pytest_lmstudio.settings import Settings
from tests.unit.record.cases import bad, bads, crowd, foreign, good, goods, of_kind, own_limit, rows_of, server_log
from tests.unit.record.logs import error, preflight, report_of, request, success, unsent
from tests.unit.record.test_symptoms_calls import CASES as OF_CALLS
from tests.unit.record.test_symptoms_server import CASES as OF_THE_SERVER

if TYPE_CHECKING:
    from pytest_lmstudio.record.events import Event

OWN_SLOW = "attempts are cut at the run's own timeout, and whole answers come close to it"
OWN_QUICK = "attempts are cut at the run's own timeout, although other answers are quick"
GROWS = "failures grow with the requests in flight"
LOOPBACK = "connections to this machine are cut before an answer begins"
CRASH = "The model has crashed without additional information. (Exit code: null)"


def given_up(count: int) -> list[Event]:
    return [unsent(f"open{n}", "circuit_open") for n in range(count)]


def retried(count: int, kind: str, **fields: Any) -> list[Event]:
    """Return calls whose first attempt failed and whose second was answered."""
    return [
        line
        for n in range(count)
        for line in (
            request(f"r{n}", n * 20_000),
            error(f"r{n}", kind, n * 20_000 + 1000, retry_in_ms=800, **fields),
            request(f"r{n}", n * 20_000 + 2000, 2),
            success(f"r{n}", n * 20_000 + 3000, 2),
        )
    ]


def dying(refused: int) -> list[Event]:
    """Return answers, connections that a dying server cut, and connections that nobody took."""
    cut = bads(4, "disconnect", "cut", 1, latency_ms=61_000)
    return [preflight(), *goods(5), *cut, *(e for n in range(refused) for e in bad(f"r{n}", "connect", 62_000 + n, 2))]


#: What happened, and every row that may be told of it, the first of them first.
DISASTERS: dict[str, tuple[list[Event], list[str]]] = {
    "no server": ([unsent(f"u{n}", "unreachable") for n in range(9)], ["the server cannot be reached"]),
    "a server that dies": ([*dying(5), *given_up(40)], ["the server went away while the run was on"]),
    "a slow model": (
        [preflight(), *own_limit(6, gap_ms=50_000), *goods(4, latency_ms=40_000, gap_ms=60_000)],
        [OWN_SLOW],
    ),
    "a slow model until the breaker gives up": (
        [preflight(), *own_limit(15, gap_ms=50_000), *given_up(30)],
        [OWN_SLOW],
    ),
    "one call that hangs": ([preflight(), *own_limit(1), *goods(30)], [OWN_QUICK]),
    "a proxy": (
        [preflight(), *foreign([60_000] * 5, phase="receiving"), *goods(9, latency_ms=30_000)],
        ["attempts are cut at one constant time that is not this run's timeout"],
    ),
    "a proxy that answers 504": (
        [preflight(), *foreign([60_010] * 5, "timeout", status=504), *goods(9)],
        ["attempts are cut at one constant time that is not this run's timeout"],
    ),
    "resets": ([preflight(), *bads(8, "disconnect", latency_ms=300), *given_up(20)], [LOOPBACK]),
    "crashes": (
        [preflight(), *of_kind("model_lost", "network", CRASH, 4), *goods(6)],
        ["the model crashed while it answered"],
    ),
    "crashes for memory": (
        [
            preflight(),
            *of_kind("model_lost", "network", CRASH, 4),
            server_log(counts={"out_of_memory": 4, "crashed": 4}),
        ],
        ["the server ran out of memory while it answered"],
    ),
    "a server that is asked for too much": (
        [preflight(parallel=16), *goods(20), *crowd(8, 5, [3, 4, 5, 6, 7])],
        [GROWS],
    ),
    "more than its slots": (
        [preflight(parallel=2), *goods(20), *(e for e in crowd(4, 5, [2, 3], kind="timeout", lasts_ms=900))],
        ["more requests are in flight than the server answers at once"],
    ),
    "rate limits": ([preflight(), *bads(9, "rate_limited"), *goods(3)], ["the server asks to slow down"]),
    "a small context": (
        [preflight(), *bads(3, "context_overflow", error_category="other", chars=40_000), *goods(9)],
        ["prompts do not fit into the model's context"],
    ),
    "a wrong model": (
        [preflight(), *of_kind("wrong_model", count=5)],
        ["another model answers than the one asked for"],
    ),
    "a killed worker": (
        [preflight(), *goods(5), request("lost", 90_000)],
        ["calls ended with the process that made them"],
    ),
    "a healthy run": ([preflight(), *goods(40)], []),
}


@pytest.mark.parametrize("name", DISASTERS)
def test_each_disaster_is_told_by_its_own_row_and_no_other(name: str) -> None:
    events, expected = DISASTERS[name]
    assert list(rows_of(events)) == expected


@pytest.mark.parametrize(
    "case", [case for case in (*OF_THE_SERVER, *OF_CALLS) if case.symptom not in HINTS], ids=lambda case: case.symptom
)
def test_what_shows_a_symptom_is_told_by_it_first_or_by_the_root_of_it(case: Any) -> None:
    first = next(iter(rows_of(case.shows, **case.facts)))
    order = [row.symptom for row in ROWS]
    assert order.index(first) <= order.index(case.symptom)


def test_what_few_failures_tell_comes_after_what_most_tell() -> None:
    events = [preflight(), *of_kind("auth", "auth"), *own_limit(20, gap_ms=50_000)]
    assert list(rows_of(events)) == [OWN_SLOW, "the server refuses the API token"]
    events = [preflight(), *of_kind("auth", "auth"), *own_limit(9, gap_ms=50_000)]
    assert list(rows_of(events)) == ["the server refuses the API token", OWN_SLOW]


def test_calls_that_the_breaker_failed_make_no_failure_look_rare() -> None:
    events = [preflight(), *of_kind("auth", "auth"), *own_limit(9, gap_ms=50_000), *given_up(500)]
    assert list(rows_of(events)) == ["the server refuses the API token", OWN_SLOW]


def test_a_view_that_shows_more_than_is_told_stays() -> None:
    events = [*dying(5), *bads(3, "disconnect", "early", latency_ms=300)]
    assert list(rows_of(events)) == ["the server went away while the run was on", LOOPBACK]


def test_attempts_that_a_retry_mended_are_told_as_well() -> None:
    assert list(rows_of([preflight(), *retried(3, "disconnect", latency_ms=300)])) == [LOOPBACK]


def test_every_row_has_a_case() -> None:
    shown = {case.symptom for case in (*OF_THE_SERVER, *OF_CALLS)}
    assert [row.symptom for row in ROWS if row.symptom not in shown] == []
    assert len({row.symptom for row in ROWS}) == len(ROWS)


def test_every_fix_names_something_to_type_or_to_do_to_the_requests() -> None:
    typed = ("--", "`", "_", "(-m", "the request", "max_tokens", "-n")
    assert [row.symptom for row in ROWS if not any(word in row.fix for word in typed)] == [
        "answers get slower as the run goes on"
    ]


def test_a_healthy_run_has_no_diagnosis() -> None:
    assert report_of([preflight(), *goods(40)])["diagnosis"] == []


def test_a_row_of_the_report_says_what_to_change_by_its_name() -> None:
    (row,) = report_of(bads(4, "rate_limited", gap_ms=1))["diagnosis"]
    assert row == {
        "symptom": "the server asks to slow down",
        "cause": "more requests come than it takes",
        "check": "other programs that use the same server",
        "fix": "set EVAL_CONCURRENCY=2 (--lmstudio-concurrency=2)",
        "evidence": '4 errors of kind rate_limited, the first: "no"',
    }


def test_evidence_shows_no_control_characters_and_no_passwords_and_is_short() -> None:
    events = bads(1, "rate_limited", message="\x1b[2Jat http://me:secret@h/" + "x" * 1000)
    (row,) = report_of(events)["diagnosis"]
    assert row["evidence"].startswith('1 error of kind rate_limited, the first: "\\x1b[2Jat http://h/xxx')
    assert len(row["evidence"]) < 300
    assert row["evidence"].endswith('..."')


def test_a_name_that_a_shell_would_obey_is_in_no_command() -> None:
    evil = "$(touch /tmp/x)`id`"
    events = [preflight(id=evil), *(e for n in range(9) for e in bad(f"o{n}", "out_of_memory", model=evil))]
    (row,) = rows_of([{**event, "model": evil} for event in events]).values()
    assert row["fix"] == (
        "make room with `lms unload --all`, then `lms load MODEL --context-length 4096`; if that fails take a smaller "
        "model or quantization"
    )


def test_remarks_on_runs_that_may_be_all_right_are_hints_and_come_last() -> None:
    assert {
        "the first request is slow, the others are quick",
        "answers get slower as the run goes on",
        "all tokens of an answer were gone before its text began",
        "answers are cut by their length",
        "the pipeline version is not set",
        "the cache is smaller than the suite",
        "declared cases need no xdist workers",
    } == HINTS
    assert [row.symptom for row in ROWS if row.symptom in HINTS] == [row.symptom for row in ROWS][-len(HINTS) :]


def test_a_run_of_many_calls_is_diagnosed_like_a_short_one() -> None:
    events = [line for n in range(3000) for line in (good if n % 3 else bad)(f"x{n}", at_ms=n * 100, latency_ms=90)]
    assert list(rows_of(events, settings=Settings(concurrency=8))) == []
