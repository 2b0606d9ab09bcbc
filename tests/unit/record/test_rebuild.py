"""A log alone tells what the report of its run would."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pytest_lmstudio.record.events import Events, iso_of
from pytest_lmstudio.record.rebuild import LostTest, has_ended, is_ours, lost_tests, rebuild, settings_from
from pytest_lmstudio.settings import BreakerLimits, Settings
from tests.unit.cli.stored import RUN_ID, end, ended, start
from tests.unit.record.logs import START_S, bads, cached, error, event, good, goods, report_of, request
from tests.valid import checked

if TYPE_CHECKING:
    from collections.abc import Sequence

    from pytest_lmstudio.record.events import Event

CUT_OFF = "rebuilt from the log: the run was cut off after {}; its exit status and what came later are unknown"


def rebuilt(events: Sequence[Event], *, damaged_lines: int = 0, going_on: bool = False) -> dict[str, Any]:
    return checked(rebuild(Events(list(events), damaged_lines), run_id="folder", going_on=going_on))


def test_the_report_of_a_run_that_ended_is_the_one_that_it_wrote() -> None:
    settings = Settings(max_error_rate=0.5, breaker=None, params=(("max_tokens", 256),), timeout=90.0, dir="/x")
    log = [start(settings), *goods(3), *bads(1, at="later"), ended("a", "lm_error", error_kind="timeout"), ended("b")]
    problems = ["gw0: something broke"]
    log.append(end(exit_status=1, interrupted=True, problems=problems, tests={"passed": 7, "lm_error": 1}))
    written = report_of(
        log,
        settings,
        run_id=RUN_ID,
        started_at="2026-11-22T11:59:58.000Z",
        duration_s=61.5,
        exit_status=1,
        interrupted=True,
        pipeline_version="",
        cache_entries=3,
        llm_tests=2,
        llm_tests_lost=1,
        outcomes={"passed": 7, "failed": 0, "error": 0, "lm_error": 1, "skipped": 0, "xfailed": 0, "xpassed": 0},
        problems=tuple(problems),
        damaged_lines=2,
    )
    assert rebuilt(log, damaged_lines=2) == written
    assert list(rebuilt(log)) == list(written)


def test_of_a_run_that_was_cut_off_what_is_unknown_is_none_and_told() -> None:
    report = rebuilt([start(), *good("a"), ended("t", at_ms=2000)])
    assert report["exit_status"] is None
    assert report["cache"]["entries"] is None
    assert report["notes"] == [CUT_OFF.format(iso_of(START_S + 2.0002))]
    assert report["run_id"] == RUN_ID
    assert report["tests"]["passed"] == 1


def test_a_run_that_was_cut_off_lasted_until_its_last_word() -> None:
    at = iso_of(START_S - 3)
    assert rebuilt([start(started_at=at), *good("a", latency_ms=5000)])["duration_s"] == pytest.approx(8, abs=0.002)
    assert rebuilt([start(started_at=iso_of(START_S + 99)), *good("a")])["duration_s"] == 0


def test_calls_in_flight_when_the_run_was_cut_off_are_lost_and_judged() -> None:
    report = rebuilt([start(), *goods(1), request("b", 20_000)])
    assert report["lost"]["requests_without_outcome"] == 1
    assert report["calls"] | {"sent": 2, "ok": 1, "failed": 1} == report["calls"]
    assert report["gate"]["failed"] is True


def test_calls_in_flight_of_a_run_that_goes_on_are_left_out() -> None:
    waiting = [request("r"), error("r", retry_in_ms=800)]
    over = [request("e"), error("e", at_ms=900)]
    report = rebuilt([start(), *goods(1), cached("c"), *waiting, *over, request("b", 20_000)], going_on=True)
    assert report["calls"] | {"total": 3, "ok": 1, "cached": 1, "failed": 1} == report["calls"]
    assert report["lost"]["requests_without_outcome"] == 0
    [note] = report["notes"]
    assert note == (
        f"as of {iso_of(START_S + 20.0002)}: the run is still in progress; "
        "calls and tests that have not ended are left out"
    )


def test_workers_that_crashed_are_counted() -> None:
    log = [start(), event("worker_crashed", worker="gw0"), event("worker_crashed", worker="gw3")]
    assert rebuilt(log)["lost"]["workers_crashed"] == 2


def test_a_test_counts_once_with_the_worst_of_its_outcomes_and_others_as_last_told() -> None:
    log = [
        start(),
        ended("a", "passed", others={"passed": 2}),
        ended("a", "failed"),
        ended("b", "passed", others={"passed": 5, "skipped": 1}),
        ended("c", "skipped", ran=False),
    ]
    tests = rebuilt(log)["tests"]
    assert {word: count for word, count in tests.items() if count} == {"passed": 6, "failed": 1, "skipped": 2}
    tests = rebuilt([*log, ended("d", others={})])["tests"]
    assert {word: count for word, count in tests.items() if count} == {"passed": 2, "failed": 1, "skipped": 1}


def test_the_share_of_lost_tests_is_judged_by_those_that_ran() -> None:
    """Four LM tests ran, one of them was lost; a skipped one and one that asks no model do not count."""
    ran = [ended(name) for name in "abc"] + [ended("lost", "lm_error", error_kind="timeout")]
    others = [ended("skipped", "skipped", ran=False), ended("alien", "lm_error", llm=False, error_kind="timeout")]
    gate = rebuilt([start(), *goods(100), *ran, *others, end()])["gate"]
    assert gate["failed"] is True
    assert gate["reason"] == "25.0% of the LM tests lost (1 of 4) is above the limit of 5%"


def test_lost_tests_are_named_with_what_they_were_lost_to() -> None:
    log = [ended("b", "lm_error", error_kind="timeout"), ended("a", "lm_error"), ended("c"), ended("b", "lm_error")]
    assert lost_tests([*log, ended("d", "lm_error"), ended("d", "failed")]) == [
        LostTest("b", "timeout"), LostTest("a", ""),
    ]  # fmt: skip


def test_a_test_was_lost_to_its_first_error() -> None:
    log = [ended("a", "lm_error", error_kind=kind) for kind in ("timeout", "connect")]
    assert lost_tests(log) == [LostTest("a", "timeout")]


@pytest.mark.parametrize("odd", [True, -1, 1.5, "0", [0]])
def test_what_is_no_count_is_not_known(odd: object) -> None:
    report = rebuilt([start(), *goods(1), end(exit_status=odd, cache_entries=odd, tests={"passed": odd})])
    assert report["exit_status"] is report["cache"]["entries"] is None
    assert report["tests"]["passed"] == 0


def test_a_log_without_its_beginning_is_told_with_default_settings() -> None:
    report = rebuilt([*goods(1), end()])
    assert report["run_id"] == "folder"
    assert report["plugin_version"] == ""
    assert report["settings"] == Settings().as_dict()
    assert report["started_at"] == iso_of(START_S + 0.0002)
    assert report["notes"] == [
        "rebuilt from a log without its beginning: the run's settings are not known, defaults stand in for them"
    ]


def test_a_log_of_nothing_is_no_run() -> None:
    assert not is_ours([])
    assert not is_ours([event("other")])
    assert is_ours([event("run_start")])
    assert is_ours([event("gen_cached")])
    assert not has_ended([start(), *goods(1)])
    assert has_ended([end()])
    assert rebuilt([])["calls"]["total"] == 0


def test_settings_are_read_as_they_were_written() -> None:
    settings = Settings(
        url="http://h:1", model="m", timeout="auto", latency_threshold=2.5, breaker=BreakerLimits(3, 0.5), stream=False,
        cache="offline", recipe="stress", report="/r", params=(("max_tokens", 1),), max_error_rate=0, retries=0,
    )  # fmt: skip
    assert settings_from(json.loads(json.dumps(settings.as_dict()))) == settings


def test_settings_of_another_version_have_defaults_where_they_do_not_fit() -> None:
    odd: dict[str, Any] = {
        "url": 7, "model": ["m"], "timeout": "soon", "retries": "3", "concurrency": True, "breaker": "often",
        "cache": "write-only", "max_error_rate": None, "stream": "on", "params": [1], "backoff": float("inf"),
        "cache_size": 2.5, "of_the_future": 1,
    }  # fmt: skip
    assert settings_from(odd) == Settings()
    assert settings_from({"concurrency": 9, "breaker": 5}) == Settings(concurrency=9)
    assert settings_from(None) == Settings()


def test_every_setting_can_be_read() -> None:
    """A setting of a new type would silently lose its value."""
    plain = Settings().as_dict()
    for name in Settings._fields:
        assert settings_from({name: plain[name]}) == Settings(), name


JUNK = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=9) | st.sampled_from(["a", "b", "t"]),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    max_leaves=5,
)
NAMES = (
    *("run_start", "run_end", "test_end", "worker_crashed", "preflight", "note", "breaker_open", "breaker_closed"),
    *("gen_request", "gen_success", "gen_error", "gen_cached", "gen_abandoned", "concurrency_changed"),
)
FIELDS = (
    *("call_id", "worker", "nodeid", "model", "attempt", "latency_ms", "ttft_ms", "waited_ms", "timeout_ms", "message"),
    *(
        "error_kind",
        "error_category",
        "phase",
        "retry_in_ms",
        "prompt_chars",
        "tokens_in",
        "tokens_out",
        "finish_reason",
    ),
    *("tokens_per_second", "limit", "previous", "paused_s", "pause_s", "server", "settings", "tests", "outcome", "llm"),
    *(
        "ran",
        "others",
        "exit_status",
        "duration_s",
        "cache_entries",
        "problems",
        "started_at",
        "source",
        "cache",
        "status",
    ),
    *("stored", "evicted", "stale_reconnects", "gave_up", "stream", "cut_at_limit", "truncated_thinking", "run_id"),
)
TIMES = st.sampled_from(["", "2026-11-22T12:00:00.000Z", "9999-12-31T23:59:59.999Z", "0001-01-01", "yesterday"])
HOSTILE = st.builds(
    lambda ts, name, fields: {"ts": ts, "event": name, **fields},
    TIMES,
    st.sampled_from(NAMES),
    st.dictionaries(st.sampled_from(FIELDS), JUNK, max_size=8),
)


def test_numbers_below_nothing_are_not_known() -> None:
    """Time goes on, and nothing is counted backwards: a log that says so was written by somebody else."""
    request, success = goods(1)
    odd = dict.fromkeys(("latency_ms", "ttft_ms", "tokens_in", "tokens_out", "evicted", "tokens_per_second"), -1)
    breaker = {"ts": request["ts"], "pause_s": -30, "paused_s": -2.0}
    events = [{**request, "prompt_chars": -5}, {**success, **odd}]
    events += [{"event": "breaker_open", **breaker}, {"event": "breaker_closed", **breaker}]
    report = rebuilt([*events, {"event": "breaker_open", **breaker}])
    assert report["breaker"] == {"trips": 2, "paused_s": 0.0}
    assert (report["cache"]["evictions"], report["tokens"]) == (0, {"in": None, "out": None})
    assert (report["latency_ms"]["p95"], report["prompt_chars"]["max"]) == (None, None)


@given(st.lists(HOSTILE, max_size=12), st.booleans())
def test_no_log_can_break_the_report(events: list[Event], going_on: bool) -> None:
    read = json.loads(json.dumps(events))
    assert rebuilt(read, going_on=going_on)["schema_version"] == 1
