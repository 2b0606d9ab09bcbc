"""Rows about clocks, load and broken answers, and remarks: each on its signature, and on no look-alike."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest

from pytest_lmstudio.record.diagnosis import ROWS
from pytest_lmstudio.record.stats import tally
from pytest_lmstudio.settings import Settings
from tests.unit.record.cases import (
    Case,
    bad,
    bads,
    crowd,
    foreign,
    goods,
    of_kind,
    own_limit,
    quoted,
    rows_of,
    server_log,
    slowing,
)
from tests.unit.record.logs import START_S, cached, event, good, preflight, request, unsent

if TYPE_CHECKING:
    from pytest_lmstudio.record.events import Event

ROW = {row.symptom: row for row in ROWS}
OWN_SLOW = "attempts are cut at the run's own timeout, and whole answers come close to it"
OWN_QUICK = "attempts are cut at the run's own timeout, although other answers are quick"
OWN_LONG = "long answers are cut at the run's own timeout while they come"
FOREIGN = "attempts are cut at one constant time that is not this run's timeout"
FIRST_SLOW = "prompts take longer to the first token than they may"
FIRST_DEAD = "streams stay silent from the start, although others begin quickly"
SILENT = "streams fall silent in the middle of an answer"
TOO_LARGE = "the answer is larger than 32 MiB"
EMPTY = "the answer is empty: neither text nor reasoning nor tool calls"
ENDED = "the stream ended before the answer was whole"


def late(count: int, **fields: Any) -> list[Event]:
    """Return streams given up after 20 s without a first token."""
    return own_limit(count, "first_token", latency_ms=20_000, **fields)


CLOCKS = [
    Case(
        OWN_SLOW,
        [*own_limit(2), *goods(4, latency_ms=41_000, gap_ms=60_000)],
        "2 of 6 attempts were cut at the limit of 45 s, 2 before the first token and 0 while the answer came; "
        "whole answers took 41 s (p95)",
        [*own_limit(2, None), *goods(4, latency_ms=30_000)],
        "set LLM_REQUEST_TIMEOUT_MS=120000 (--lmstudio-timeout=120), lower max_tokens, or lower EVAL_CONCURRENCY",
    ),
    Case(
        OWN_SLOW,
        own_limit(1, phase="receiving"),
        "1 of 1 attempt was cut at the limit of 45 s, 0 before the first token and 1 while the answer came; "
        "no answer was whole in time",
        [*own_limit(1), *goods(4, latency_ms=2000)],
        "set LLM_REQUEST_TIMEOUT_MS=90000 (--lmstudio-timeout=90), lower max_tokens, or lower EVAL_CONCURRENCY",
    ),
    Case(
        OWN_SLOW,
        own_limit(3, timeout_ms=6000, latency_ms=6000),
        "3 of 3 attempts were cut at the limit of 6 s, 3 before the first token and 0 while the answer came; "
        "no answer was whole in time",
        own_limit(3, "first_token"),
        "give these tests more time with @pytest.mark.llm(timeout=15), lower max_tokens, or lower EVAL_CONCURRENCY",
        "the server takes requests and sends nothing: it loads the model, works through long prompts, or hangs",
    ),
    Case(
        OWN_QUICK,
        [*own_limit(1), *goods(4, latency_ms=2000)],
        "1 of 5 attempts was cut at the limit of 45 s, 1 before the first token and 0 while the answer came; "
        "whole answers took only 2 s (p95)",
        [*own_limit(1), *goods(4, latency_ms=23_000)],
    ),
    Case(
        OWN_LONG,
        [*own_limit(2, phase="receiving"), *goods(4, latency_ms=2000)],
        "2 of 6 attempts were cut at the limit of 45 s, 0 before the first token and 2 while the answer came; "
        "whole answers took 2 s (p95)",
        [*own_limit(2), *goods(4, latency_ms=2000)],
        "set max_tokens=900 for these calls, which fits, or set LLM_REQUEST_TIMEOUT_MS=90000 (--lmstudio-timeout=90)",
    ),
    Case(
        OWN_LONG,
        [*own_limit(2, phase="receiving"), *goods(4, latency_ms=2000, tokens_per_second=None)],
        "2 of 6 attempts were cut at the limit of 45 s, 0 before the first token and 2 while the answer came; "
        "whole answers took 2 s (p95)",
        [*own_limit(2, "inter_token", "receiving"), *goods(4, latency_ms=2000)],
        "lower max_tokens for these calls, or set LLM_REQUEST_TIMEOUT_MS=90000 (--lmstudio-timeout=90)",
    ),
    Case(
        FIRST_SLOW,
        [*late(2, chars=60_000), *goods(5, chars=900)],
        "2 of 7 attempts were given up after 20 s without a token (prompts of 60,000 characters, 900 where answered, "
        "medians); others began after 200 ms (p95)",
        [*late(2, chars=1000), *goods(5, chars=900)],
        "set LLM_FIRST_TOKEN_TIMEOUT_MS=45000 (--lmstudio-first-token-timeout=45), shorten the prompts, or lower "
        "EVAL_CONCURRENCY",
    ),
    Case(
        FIRST_SLOW,
        [*late(1), *goods(5, ttft_ms=19_000)],
        "1 of 6 attempts was given up after 20 s without a token (prompts of 100 characters, 100 where answered, "
        "medians); others began after 19 s (p95)",
        own_limit(1),
        "set LLM_FIRST_TOKEN_TIMEOUT_MS=60000 (--lmstudio-first-token-timeout=60), shorten the prompts, or lower "
        "EVAL_CONCURRENCY",
    ),
    Case(
        FIRST_DEAD,
        [*late(2), *goods(5), server_log(counts={"queued": 7})],
        "2 of 7 attempts were given up after 20 s without a token; others began after only 200 ms (p95); the server's "
        "log has in this run's time: 7 x a request being queued",
        late(2),
    ),
    Case(
        SILENT,
        [*own_limit(4, "inter_token", "receiving", gap_ms=1), *goods(4)],
        "4 of 8 attempts brought no further token for 60 s, with 3.5 in flight (median)",
        [*own_limit(4, "attempt", "receiving"), *goods(4)],
        "set EVAL_CONCURRENCY=1 (--lmstudio-concurrency=1), since a long prompt stalls the streams beside it; or set "
        "LLM_INTER_TOKEN_TIMEOUT_MS=120000 (--lmstudio-inter-token-timeout=120)",
    ),
    Case(
        SILENT,
        [*own_limit(1, "inter_token", "receiving", gap_ms=1), *goods(4, gap_ms=90_000)],
        "1 of 5 attempts brought no further token for 5 s, with 1 in flight (median)",
        goods(4),
        "load the model anew before the run; where it only pauses, set LLM_INTER_TOKEN_TIMEOUT_MS=10000 "
        "(--lmstudio-inter-token-timeout=10)",
        facts={"settings": Settings(inter_token_timeout=5.0)},
    ),
    Case(
        FOREIGN,
        foreign([59_900, 60_000, 60_400, 20_000]),
        "3 of 4 broken attempts ended after 60 s (59.9 s to 60.4 s), which is not the timeout of 120 s",
        foreign([40_000, 60_000, 60_400, 80_000]),
        "in nginx: proxy_read_timeout 600s; proxy_buffering off;; or point --lmstudio-url straight at the server",
        "a program between has a limit of its own: 60 s is the default of nginx (proxy_read_timeout), Apache "
        "(ProxyTimeout) and AWS load balancers (idle timeout)",
    ),
    Case(
        FOREIGN,
        foreign([17_000, 17_100, 17_200], "server_error", status=502),
        "3 of 3 broken attempts ended after 17.1 s (17 s to 17.2 s), which is not the timeout of 120 s",
        foreign([17_000, 17_100, 17_200], "server_error", status=500),
    ),
    Case(
        FOREIGN,
        foreign([300_000] * 3, "timeout", 400_000),
        "3 of 3 broken attempts ended after 300 s, which is not the timeout of 400 s",
        foreign([300_000] * 3, "timeout", 400_000, limit="inter_token"),
        "raise it in the program between (undici: headersTimeout and bodyTimeout 0; aiohttp: ClientTimeout); or point "
        "--lmstudio-url straight at the server",
        "a program between has a limit of its own: 300 s is the default of Node's fetch (undici headersTimeout, "
        "bodyTimeout), aiohttp and Cloud Run",
    ),
]

LOAD = [
    Case(
        "more requests are in flight than the server answers at once",
        [preflight(parallel=2), *bads(3, gap_ms=1), server_log(counts={"queued": 1})],
        "up to 3 requests were in flight, the server answers 2 at once; 3 attempts timed out; the server's log has in "
        "this run's time: 1 x a request being queued",
        [preflight(parallel=3), *bads(3, gap_ms=1)],
        "set EVAL_CONCURRENCY=2 (--lmstudio-concurrency=2), or load the model with more parallel slots "
        "(`lms load --parallel 3`)",
    ),
    Case(
        "failures grow with the requests in flight",
        [*goods(20), *crowd(8, 4, [3, 4, 5, 6, 7])],
        "20 of 20 attempts failed with more than 3 requests in flight, 0 of 32 with 3 or fewer",
        [*goods(20), *crowd(8, 4, [0])],
        "set EVAL_CONCURRENCY=3 (--lmstudio-concurrency=3), or let --lmstudio-latency-threshold lower it under load",
    ),
    Case(
        "failures grow with the requests in flight",
        [*goods(20), *crowd(4, 10, [3])],
        "10 of 10 attempts failed with more than 3 requests in flight, 0 of 50 with 3 or fewer",
        [*bads(40, "server_error"), *crowd(4, 10, [3])],
        "set EVAL_CONCURRENCY=3 (--lmstudio-concurrency=3), or let --lmstudio-latency-threshold lower it under load",
    ),
    Case(
        "failures grow with the requests in flight",
        [*crowd(8, 4, [3, 4, 5, 6, 7]), *good("a", 900_000), *good("b", 900_001), *bad("c", "server_error", 900_002)],
        "21 of 25 attempts failed with more than 2 requests in flight, 0 of 10 with 2 or fewer",
        goods(8),
        "set EVAL_CONCURRENCY=2 (--lmstudio-concurrency=2), or let --lmstudio-latency-threshold lower it under load",
    ),
    Case(
        "failures grow with the requests in flight",
        [*bads(2, "server_error"), *goods(8), *crowd(8, 4, [3, 4, 5, 6, 7])],
        "20 of 20 attempts failed with more than 3 requests in flight, 2 of 22 with 3 or fewer",
        goods(8),
        "set EVAL_CONCURRENCY=3 (--lmstudio-concurrency=3), or let --lmstudio-latency-threshold lower it under load",
    ),
    Case(
        "the server asks to slow down",
        bads(4, "rate_limited", gap_ms=1),
        '4 errors of kind rate_limited, the first: "no"',
        bads(4, "server_error"),
        "set EVAL_CONCURRENCY=2 (--lmstudio-concurrency=2)",
    ),
    Case(
        "the server asks to slow down",
        bads(1, "rate_limited"),
        '1 error of kind rate_limited, the first: "no"',
        bads(1, "server_error"),
        "see who else uses the server; --lmstudio-backoff=5 waits longer between attempts",
    ),
    Case(
        "answers get slower as the run goes on",
        slowing(40, 19.0),
        "the first 10 answers came at 40.0 tokens/s, the last 10 at 19.0 (medians)",
        slowing(40, 21.0),
        "load the model anew between suites (`lms unload --all`, then `lms load qwen`), and split long runs",
    ),
]

BROKEN = [
    Case(
        "answers are larger than the plugin reads",
        bads(1, "invalid_response", phase="receiving", message=TOO_LARGE),
        quoted("invalid_response", message=TOO_LARGE),
        bads(1, "invalid_response", phase="receiving", message=EMPTY),
    ),
    Case(
        "answers come back empty",
        [*bads(2, "invalid_response", phase="receiving", message=EMPTY), server_log(counts={"context": 2})],
        quoted("invalid_response", 2, EMPTY) + "; the server's log has in this run's time: 2 x context exceeded",
        bads(1, "invalid_response", phase="receiving", message=ENDED),
    ),
    Case(
        "what comes back is no answer of a model",
        bads(1, "invalid_response", phase="receiving", message="the answer is no JSON"),
        quoted("invalid_response", message="the answer is no JSON"),
        bads(1, "invalid_response", phase="receiving", message=TOO_LARGE),
    ),
    Case(
        "answers are cut in the middle",
        [
            *bads(2, "disconnect", phase="receiving", latency_ms=812),
            *bads(1, "invalid_response", "i", phase="receiving", message=ENDED, stream=False),
            *goods(3),
        ],
        "3 of 6 attempts broke off, after 812 ms (median); 2 of them were streamed",
        [*bads(2, "model_lost", phase="receiving"), *bads(1, "disconnect"), *foreign([60_000] * 3, phase="receiving")],
    ),
    Case(
        "answers are cut in the middle",
        [*bads(1, "disconnect", phase="receiving", latency_ms=812), server_log(hung_up_s=[START_S + 1, START_S + 9])],
        "1 of 1 attempt broke off, after 812 ms (median); 1 of them was streamed; the server's log has 2 clients that "
        "hung up when this run did not",
        [*bads(1, "disconnect"), server_log(hung_up_s=[START_S + 1])],
        cause="a program between closed the connections: the server's log shows clients leaving that are not this run",
    ),
    Case(
        "connections to this machine are cut before an answer begins",
        [preflight(), *bads(1, "disconnect")],
        "1 of 1 attempt to 127.0.0.1 was cut before the answer began",
        [preflight("http://192.168.1.5:1234"), *bads(1, "disconnect")],
        "except port 1234 from inspection by security software; or move the server with `lms server start --port 1235` "
        "and use --lmstudio-url=http://127.0.0.1:1235",
    ),
    Case(
        "only long prompts fail",
        [*own_limit(3, chars=20_000), *goods(6, chars=500, latency_ms=30_000)],
        "all 3 calls that failed had prompts of 20,000 characters or more; 6 calls with shorter ones went well",
        [*bads(3, chars=20_000), *goods(6, chars=500), *bads(1, name="short", chars=400)],
        "set LLM_REQUEST_TIMEOUT_MS=90000 (--lmstudio-timeout=90), shorten the prompts, or lower EVAL_CONCURRENCY",
    ),
    Case(
        "only long prompts fail",
        [*bads(3, "server_error", chars=20_000), *goods(6, chars=500)],
        "all 3 calls that failed had prompts of 20,000 characters or more; 6 calls with shorter ones went well",
        [*bads(3, "bad_request", error_category="other", chars=20_000), *goods(6, chars=500)],
    ),
    Case(
        "the server fails inside",
        of_kind("server_error", "network"),
        quoted("server_error"),
        of_kind("bad_request"),
        "update LM Studio and its runtime, and load the model anew: `lms unload --all`, then `lms load qwen`",
    ),
    Case(
        "the circuit breaker gave up",
        [unsent("a", "circuit_open", message="")],
        "1 error of kind circuit_open",
        [unsent("a", "circuit_open"), *bads(5, "server_error")],
    ),
    Case(
        "calls were cut by the interrupt",
        bads(2, "cancelled"),
        "2 calls had no answer yet when the run was interrupted",
        bads(2, "cancelled"),
        facts={"interrupted": True},
    ),
    Case(
        "calls ended with the process that made them",
        [request("a")],
        "1 call ended with the process that made it; 1 worker crashed",
        [request("a")],
        facts={"workers_crashed": 1},
        near_facts={"interrupted": True},
    ),
]


def declared_ends(count: int, **fields: Any) -> list[Event]:
    """Return the ends of tests whose only call is that of their declared case."""
    known = {"outcome": "passed", "llm": True, "ran": True, "declared": True, **fields}
    return [event("test_end", nodeid=f"t{n}", **known) for n in range(count)]


REMARKS = [
    Case(
        "all tokens of an answer were gone before its text began",
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
        [*goods(2), cached("c")],
        "1 answer came from the cache, 2 were stored, with an empty pipeline version",
        goods(2, stored=False),
        facts={"pipeline_version": ""},
        near_facts={"pipeline_version": ""},
    ),
    Case(
        "the cache is smaller than the suite",
        [*goods(1, stored=False), *goods(2, "more")],
        "1 answer could not be stored: the cache holds 500 of 500 entries",
        [*goods(1, stored=False), *goods(2, "more")],
        "set EVAL_CACHE_SIZE=600 (--lmstudio-cache-size=600)",
        facts={"cache_entries": 500},
        near_facts={"cache_entries": 499},
    ),
    Case(
        "declared cases need no xdist workers",
        [*goods(4, worker="gw0"), *goods(4, "more", worker="gw1"), *declared_ends(8)],
        "8 cases in 2 workers took 12.5 s; the answers alone, 4 at a time, 2 s",
        [*goods(4, worker="gw0"), *goods(4, "more", worker="gw1"), *declared_ends(8)],
        facts={"outcomes": tally({}) | {"passed": 6, "lm_error": 1, "failed": 1, "skipped": 3}},
        near_facts={"outcomes": tally({}) | {"passed": 9}},
    ),
]
CASES = [*CLOCKS, *LOAD, *BROKEN, *REMARKS]


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.symptom)
def test_a_symptom_is_seen_with_its_evidence_and_what_to_change(case: Case) -> None:
    row = rows_of(case.shows, **case.facts)[case.symptom]
    assert row["evidence"] == case.evidence
    assert row["fix"] == (case.fix or ROW[case.symptom].fix)
    assert row["cause"] == (case.cause or ROW[case.symptom].cause)


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.symptom)
def test_a_near_miss_is_not_taken_for_the_symptom(case: Case) -> None:
    assert case.symptom not in rows_of(case.near_miss, **case.near_facts)


def test_the_timeout_of_a_run_is_not_taken_for_a_foreign_one() -> None:
    events = foreign([45_000, 45_100, 45_200], "timeout", timeout_ms=45_000)
    assert list(rows_of(events, settings=Settings(timeout=45.0))) == []


def test_requests_that_one_blow_ended_together_show_no_foreign_clock() -> None:
    together = [line for n in range(6) for line in bad(f"b{n}", "disconnect", n, 17_000, phase="receiving")]
    assert list(rows_of(together)) == ["answers are cut in the middle"]


def test_the_same_blow_at_a_clock_that_is_known_shows_it() -> None:
    together = [line for n in range(6) for line in bad(f"b{n}", "disconnect", n, 60_000, phase="receiving")]
    assert list(rows_of(together)) == [FOREIGN]


def test_hang_ups_that_are_this_run_s_own_are_told_from_those_of_others() -> None:
    ours = own_limit(3, gap_ms=60_000, phase="receiving")
    left = [request("s", 200_000), event("gen_abandoned", 205_000, call_id="s", attempt=1, latency_ms=5000)]
    times_s = [START_S + at for at in (45, 106, 164, 205, 300)]
    (row,) = rows_of([*ours, *left, server_log(hung_up_s=times_s)]).values()
    assert row["evidence"].endswith("; the server's log has 5 Client disconnected lines here, 4 of them ours")


def test_hang_ups_that_the_log_does_not_have_take_none_from_others() -> None:
    ours = own_limit(2, gap_ms=60_000, phase="receiving")
    (row,) = rows_of([*ours, server_log(hung_up_s=[START_S + 45, START_S + 300])]).values()
    assert row["evidence"].endswith("; the server's log has 2 Client disconnected lines here, 1 of them ours")


def test_prompts_of_unknown_length_are_not_told() -> None:
    (row,) = rows_of(late(1, chars=None)).values()
    assert row["evidence"] == "1 of 1 attempt was given up after 20 s without a token; none began in time"


def test_an_hour_of_auto_timeouts_is_answered_with_a_fixed_one() -> None:
    (row,) = rows_of(own_limit(2, timeout_ms=13_000), settings=Settings(timeout="auto")).values()
    assert row["fix"].startswith("set LLM_REQUEST_TIMEOUT_MS=30000 (--lmstudio-timeout=30), ")


def test_the_end_of_the_ladder_of_timeouts_is_an_hour() -> None:
    (row,) = rows_of(
        own_limit(2, timeout_ms=3_000_000, latency_ms=3_000_000), settings=Settings(timeout=3000.0)
    ).values()
    assert row["fix"].startswith("set LLM_REQUEST_TIMEOUT_MS=3600000 (--lmstudio-timeout=3600), ")


@pytest.mark.parametrize(("port", "other"), [(65535, 65534), (80, 81)])
def test_the_other_port_to_move_to_is_one_that_exists(port: int, other: int) -> None:
    (row,) = rows_of([preflight(f"http://localhost:{port}"), *bads(1, "disconnect")]).values()
    assert row["fix"].endswith(f"and use --lmstudio-url=http://localhost:{other}")


def test_models_that_are_asked_in_turn_do_not_look_like_a_server_that_tires() -> None:
    mixed = [
        line for n in range(60) for line in good(f"m{n}", n * 9000, model="ab"[n // 30], tokens_per_second=40 - n // 2)
    ]
    assert "answers get slower as the run goes on" not in rows_of(mixed)


def test_a_few_failures_beside_many_requests_prove_nothing() -> None:
    few = [*goods(40), *crowd(4, 2, [3])]
    assert "failures grow with the requests in flight" not in rows_of(few)
    assert "failures grow with the requests in flight" in rows_of([*goods(40), *crowd(4, 5, [3])])


@pytest.mark.parametrize(("first_ms", "others", "slow"), [(3000, 4, True), (2999, 4, False), (9000, 3, False)])
def test_a_first_request_is_slow_from_three_seconds_on_where_four_others_are_quick(
    first_ms: int, others: int, slow: bool
) -> None:
    events = [*good("first", -60_000, first_ms), *goods(others, latency_ms=500)]
    assert ("the first request is slow, the others are quick" in rows_of(events)) is slow


@pytest.mark.parametrize(
    ("limit_ms", "slowest_ms", "seconds"),
    [
        (100, 60, 1),
        (6000, 4000, 15),
        (45_000, 30_000, 90),
        (45_000, 41_000, 120),
        (45_000, 44_000, 180),
        (90_000, 50_000, 180),
    ],
)
def test_the_timeout_to_set_leaves_room_and_is_a_round_number(limit_ms: int, slowest_ms: int, seconds: int) -> None:
    cut = own_limit(1, timeout_ms=limit_ms, latency_ms=limit_ms)
    whole = [line for n in range(4) for line in good(f"g{n}", 100_000 * (n + 1), slowest_ms, timeout_ms=limit_ms)]
    row = rows_of([*cut, *whole], settings=Settings(timeout=limit_ms / 1000))[OWN_SLOW]
    assert row["fix"].startswith(f"set LLM_REQUEST_TIMEOUT_MS={seconds * 1000} (--lmstudio-timeout={seconds}), ")


@pytest.mark.parametrize(("whole_ms", "expected"), [(22_500, OWN_SLOW), (22_400, OWN_QUICK)])
def test_answers_that_need_half_of_the_timeout_come_close_to_it(whole_ms: int, expected: str) -> None:
    events = [*own_limit(1), *goods(4, latency_ms=whole_ms, gap_ms=60_000)]
    assert next(iter(rows_of(events))) == expected


@pytest.mark.parametrize(("begun", "expected"), [(1, OWN_QUICK), (2, OWN_LONG)])
def test_most_of_those_cut_must_have_begun_to_be_long_answers(begun: int, expected: str) -> None:
    waiting = own_limit(1, gap_ms=60_000)
    receiving = own_limit(begun, phase="receiving", name="begun", gap_ms=60_000)
    assert next(iter(rows_of([*waiting, *receiving, *goods(9)]))) == expected


@pytest.mark.parametrize(("chars", "only"), [(2000, True), (1999, False)])
def test_long_prompts_are_at_least_twice_as_long_as_those_that_went_well(chars: int, only: bool) -> None:
    events = [*bads(3, "server_error", chars=chars), *goods(6, chars=1000)]
    assert ("only long prompts fail" in rows_of(events)) is only


@pytest.mark.parametrize(("as_long", "only"), [(3, True), (4, False)])
def test_as_many_long_prompts_may_go_well_as_fail(as_long: int, only: bool) -> None:
    events = [*bads(3, "server_error", chars=9000), *goods(6, chars=100), *goods(as_long, "long", chars=9000)]
    assert ("only long prompts fail" in rows_of(events)) is only


@pytest.mark.parametrize(
    ("events", "told"),
    [
        ([cached("c") | {"worker": "gw3"}], "2 cases in 1 worker took 12.5 s"),
        ([cached("c")], None),
        (goods(2), None),
        ([], None),
    ],
    ids=["all cached", "cached in one process", "one process", "no calls"],
)
def test_that_cases_need_no_workers_is_said_of_workers_only(events: list[Event], told: str | None) -> None:
    rows = rows_of([*events, *declared_ends(2), *declared_ends(2)], outcomes=tally({}) | {"passed": 2})
    assert rows.get("declared cases need no xdist workers", {}).get("evidence") == told


def test_a_case_that_was_skipped_is_none_that_ran() -> None:
    events = [*goods(2, worker="gw0"), *declared_ends(1), *declared_ends(2, ran=False)[1:]]
    rows = rows_of(events, outcomes=tally({}) | {"passed": 1, "skipped": 1})
    assert rows["declared cases need no xdist workers"]["evidence"].startswith("1 case in 1 worker took ")
