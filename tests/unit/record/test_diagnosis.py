"""Every row of the diagnosis is told from the run's numbers, and not from a run that only looks alike."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, NamedTuple

import pytest

from pytest_lmstudio.record.diagnosis import HINTS, ROWS
from pytest_lmstudio.settings import Settings
from tests.unit.record.logs import bad, bads, good, goods, preflight, report_of, request, unsent

if TYPE_CHECKING:
    from pytest_lmstudio.record.events import Event


class Case(NamedTuple):
    """A run that shows a symptom, what is said of it, and a run that is nearly the same and does not."""

    symptom: str
    shows: list[Event]
    evidence: str
    near_miss: list[Event]
    facts: dict[str, Any] = {}  # noqa: RUF012  # never written to
    near_facts: dict[str, Any] = {}  # noqa: RUF012  # the same


def own_limit(count: int, cut: bool = True, phase: str = "waiting") -> list[Event]:
    return bads(count, "timeout", latency_ms=45_000, cut_at_limit=cut, phase=phase)


def foreign(latencies: list[int], kind: str = "disconnect", timeout_ms: int = 120_000) -> list[Event]:
    return [
        line
        for i, latency in enumerate(latencies)
        for line in bad(f"f{i}", kind, i * 200_000, latency, timeout_ms=timeout_ms)
    ]


def under_load(fail_every: int) -> list[Event]:
    """Return 10 calls one at a time that go well, and 10 times 4 at once of which some fail."""
    crowd = [
        line
        for n in range(40)
        for line in (
            bad(f"n{n}", "server_error", 500_000 + n // 4 * 10_000 + n % 4, 1000)
            if n % 4 == 3 and n // 4 % fail_every == 0
            else good(f"n{n}", 500_000 + n // 4 * 10_000 + n % 4, 1000)
        )
    ]
    return [*goods(20), *crowd]


def turns(slow_ms: int) -> list[Event]:
    """Return calls of two models that change after every second call."""
    calls = ((n, "ab"[n // 2 % 2], slow_ms if n % 2 == 0 else 1000) for n in range(12))
    return [line for n, model, ms in calls for line in good(f"t{n}", n * 60_000, ms, model=model)]


def of_kind(kind: str, category: str = "other") -> list[Event]:
    return bads(1, kind, error_category=category, message="told by the server")


def simple(symptom: str, kind: str, near: str, category: str = "other") -> Case:
    evidence = f'1 error of kind {kind}, the first: "told by the server"'
    return Case(symptom, of_kind(kind, category), evidence, of_kind(near))


CASES = [
    Case(
        "the server cannot be reached",
        [unsent("a", "unreachable", message="refused\x1b"), *bads(1, "connect")],
        '2 errors of kind unreachable or connect, the first: "no"',
        bads(2, "disconnect"),
    ),
    Case(
        "the server refuses the API token",
        of_kind("auth", "auth"),
        '1 error of kind auth, the first: "told by the server"',
        of_kind("bad_request"),
    ),
    Case(
        "the server does not know the route",
        of_kind("wrong_url"),
        '1 error of kind wrong_url, the first: "told by the server"',
        of_kind("no_model"),
    ),
    Case(
        "the model asked for is not there",
        of_kind("wrong_model"),
        '1 error of kind no_model or wrong_model, the first: "told by the server"',
        of_kind("wrong_url"),
    ),
    Case(
        "the server cannot load the model",
        of_kind("out_of_memory"),
        '1 error of kind out_of_memory, the first: "told by the server"',
        of_kind("no_model"),
    ),
    Case(
        "prompts do not fit into the model's context",
        [preflight(), *bad("a", "context_overflow", chars=36_000), *bad("b", "context_overflow", chars=9_000)],
        "2 errors of kind context_overflow; the longest such prompt has 36,000 characters, "
        "the model is loaded with 4,096 tokens of context",
        [preflight(), *goods(2, chars=36_000)],
    ),
    Case(
        "the model was lost while it answered",
        of_kind("model_lost", "network"),
        '1 error of kind model_lost, the first: "told by the server"',
        of_kind("server_error"),
    ),
    Case(
        "models take turns",
        turns(5000),
        "2 models took 5 turns; a request after one took 5 s, others 1 s (medians)",
        turns(1500),
    ),
    Case(
        "attempts are cut at one constant time that is not this run's timeout",
        foreign([59_900, 60_000, 60_400, 20_000]),
        "3 of 4 broken attempts ended after 60 s (59.9 s to 60.4 s), which is not the timeout of 120 s",
        foreign([40_000, 60_000, 60_400, 80_000]),
    ),
    Case(
        "attempts are cut at one constant time that is not this run's timeout",
        foreign([17_000, 17_100, 17_200], "server_error"),
        "3 of 3 broken attempts ended after 17.1 s (17 s to 17.2 s), which is not the timeout of 120 s",
        foreign([17_000, 17_100, 17_200], timeout_ms=17_000),
    ),
    Case(
        "attempts are cut at the run's own timeout, and whole answers come close to it",
        [*own_limit(2), *goods(4, latency_ms=30_000)],
        "2 of 6 attempts were cut at the limit of 45 s, 2 before the first token and 0 while the answer came; "
        "whole answers took 30 s (p95)",
        [*own_limit(2, cut=False), *goods(4, latency_ms=30_000)],
    ),
    Case(
        "attempts are cut at the run's own timeout, and whole answers come close to it",
        own_limit(1, phase="receiving"),
        "1 of 1 attempt were cut at the limit of 45 s, 0 before the first token and 1 while the answer came; "
        "no answer was whole in time",
        [*own_limit(1), *goods(4, latency_ms=2000)],
    ),
    Case(
        "attempts are cut at the run's own timeout, although other answers are quick",
        [*own_limit(1), *goods(4, latency_ms=2000)],
        "1 of 5 attempts were cut at the limit of 45 s, 1 before the first token and 0 while the answer came; "
        "whole answers took only 2 s (p95)",
        [*own_limit(1), *goods(4, latency_ms=23_000)],
    ),
    Case(
        "long answers are cut at the run's own timeout while they come",
        [*own_limit(2, phase="receiving"), *goods(4, latency_ms=2000)],
        "2 of 6 attempts were cut at the limit of 45 s, 0 before the first token and 2 while the answer came; "
        "whole answers took 2 s (p95)",
        [*own_limit(2), *goods(4, latency_ms=2000)],
    ),
    Case(
        "more requests are in flight than the server answers at once",
        [preflight(parallel=2), *bads(3, gap_ms=1)],
        "up to 3 requests were in flight, the server answers 2 at once; 3 attempts timed out",
        [preflight(parallel=3), *bads(3, gap_ms=1)],
    ),
    Case(
        "failures grow with the requests in flight",
        under_load(1),
        "10 of 20 attempts failed with more than 2 requests in flight, 0 of 40 with fewer",
        under_load(6),
    ),
    Case(
        "answers are cut in the middle",
        [*bads(2, "disconnect", phase="receiving", latency_ms=812), *goods(2)],
        "2 of 4 attempts broke off, after 812 ms (median); 2 of them were streams",
        [*bads(2, "model_lost", phase="receiving"), *bads(1, "disconnect")],
    ),
    Case(
        "connections to this machine are cut before an answer begins",
        [preflight(), *bads(1, "disconnect")],
        "1 of 1 attempt to 127.0.0.1 were cut before the answer began",
        [preflight("http://192.168.1.5:1234"), *bads(1, "disconnect")],
    ),
    Case(
        "only long prompts fail",
        [*bads(3, chars=20_000), *goods(6, chars=500)],
        "all 3 calls that failed had prompts of 20,000 characters or more; 6 calls with shorter ones went well",
        [*bads(3, chars=20_000), *goods(6, chars=500), *bads(1, name="short", chars=400)],
    ),
    simple("the server fails inside", "server_error", "bad_request", "network"),
    simple("the server asks to slow down", "rate_limited", "server_error", "network"),
    Case(
        "the circuit breaker gave up",
        [unsent("a", "circuit_open", message="")],
        "1 error of kind circuit_open",
        [unsent("a", "unreachable")],
    ),
    Case(
        "the answer was not in the offline cache",
        [unsent("a", "cache_miss", error_category="other", message="nothing like it")],
        '1 error of kind cache_miss, the first: "nothing like it"',
        goods(1),
    ),
    Case(
        "calls were cut by the interrupt",
        bads(2, "cancelled"),
        "2 calls had no answer yet when the run was interrupted",
        bads(2, "cancelled"),
        {"interrupted": True},
    ),
    Case(
        "calls ended with the process that made them",
        [request("a")],
        "1 call ended with the process that made it; 1 worker crashed",
        [request("a")],
        {"workers_crashed": 1},
        {"interrupted": True},
    ),
    Case(
        "the first request is slow, the others are quick",
        [*good("first", -60_000, 20_000), *goods(4, latency_ms=1000)],
        "the first answer took 20 s, the other 4 took 1 s (median)",
        [*good("first", -60_000, 4000), *goods(4, latency_ms=1000)],
    ),
    Case(
        "thinking took all tokens of an answer",
        [*goods(1, finish_reason="length", truncated_thinking=True), *goods(20, "more")],
        "1 of 21 answers had no text and finish_reason length",
        goods(20),
    ),
    Case(
        "answers are cut by their length",
        [*goods(1, finish_reason="length"), *goods(9, "more")],
        "1 of 10 answers ended with finish_reason length",
        [*goods(1, finish_reason="length"), *goods(10, "more")],
    ),
    Case(
        "the pipeline version is not set",
        goods(2),
        "0 answers came from the cache, 2 were stored, with an empty pipeline version",
        goods(2, stored=False),
        {"pipeline_version": ""},
        {"pipeline_version": ""},
    ),
    Case(
        "the cache is smaller than the suite",
        [*goods(1, stored=False), *goods(2, "more")],
        "1 answer could not be stored: the cache holds 500 of 500 entries",
        [*goods(1, stored=False), *goods(2, "more")],
        {"cache_entries": 500},
        {"cache_entries": 499},
    ),
]


def symptoms(events: list[Event], facts: dict[str, Any]) -> dict[str, str]:
    return {row["symptom"]: row["evidence"] for row in report_of(events, **facts)["diagnosis"]}


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.symptom)
def test_a_symptom_is_seen_with_its_evidence(case: Case) -> None:
    assert symptoms(case.shows, case.facts).get(case.symptom) == case.evidence


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.symptom)
def test_a_near_miss_is_not_taken_for_the_symptom(case: Case) -> None:
    assert case.symptom not in symptoms(case.near_miss, case.near_facts)


def test_every_row_has_a_case() -> None:
    assert [row.symptom for row in ROWS if row.symptom not in {case.symptom for case in CASES}] == []
    assert len({row.symptom for row in ROWS}) == len(ROWS)


def test_a_healthy_run_has_no_diagnosis() -> None:
    assert report_of([preflight(), *goods(40)])["diagnosis"] == []


def test_a_row_of_the_report_says_what_to_change_by_its_name() -> None:
    (row,) = report_of(bads(1, "rate_limited"))["diagnosis"]
    assert row == {
        "symptom": "the server asks to slow down",
        "cause": "more requests come than it takes",
        "check": "other programs that use the same server",
        "fix": "lower EVAL_CONCURRENCY (--lmstudio-concurrency)",
        "evidence": '1 error of kind rate_limited, the first: "no"',
    }


def test_evidence_shows_no_control_characters_and_no_passwords() -> None:
    events = bads(1, "rate_limited", message="\x1b[2Jat http://me:secret@h/" + "x" * 1000)
    (row,) = report_of(events)["diagnosis"]
    assert row["evidence"].startswith('1 error of kind rate_limited, the first: "\\x1b[2Jat http://h/xxx')
    assert len(row["evidence"]) == 400


def test_the_timeout_of_a_run_is_not_taken_for_a_foreign_one() -> None:
    events = foreign([45_000, 45_100, 45_200], "timeout", timeout_ms=45_000)
    assert list(symptoms(events, {"settings": Settings(timeout=45.0)})) == []


def test_remarks_on_runs_that_may_be_all_right_are_hints() -> None:
    assert {
        "the first request is slow, the others are quick",
        "thinking took all tokens of an answer",
        "answers are cut by their length",
        "the pipeline version is not set",
        "the cache is smaller than the suite",
    } == HINTS
