"""Shards of one run as one: what one run over all of it would have said."""

from __future__ import annotations

import json
import random
from contextlib import suppress
from typing import TYPE_CHECKING, Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pytest_lmstudio.record.events import Events, iso_of
from pytest_lmstudio.record.merge import CannotMergeError, Merged, Shard, merge
from pytest_lmstudio.record.rebuild import lost_tests, rebuild
from pytest_lmstudio.record.stats import tally
from pytest_lmstudio.settings import Settings
from tests.unit.cli.stored import end, ended, start
from tests.unit.record.cases import turns
from tests.unit.record.logs import START_S, bad, bads, cached, event, good, goods, preflight, request, unsent
from tests.valid import checked

if TYPE_CHECKING:
    from collections.abc import Sequence

    from pytest_lmstudio.record.events import Event


def shard(number: int, events: Sequence[Event], settings: Settings | None = None, **fields: Any) -> Shard:
    """Return a shard that began so many minutes after the first one."""
    known = {"started_at": iso_of(START_S + number * 60 + 0.0002)}
    ends = {name: fields.pop(name) for name in ("exit_status", "tests", "interrupted", "duration_s") if name in fields}
    log = [start(settings, **{**known, **fields}), *events, end(number * 60_000 + 60_000, **ends)]
    return Shard(f"shard{number}", Events([{**one, "run_id": f"run-{number}"} for one in log], 0), f"run-{number}")


def whole(*shards: Shard, **options: Any) -> Merged:
    merged = merge(shards, **options)
    checked(merged.report)
    return merged


def refused(*shards: Shard, **options: Any) -> str:
    with pytest.raises(CannotMergeError) as found:
        merge(shards, **options)
    return str(found.value)


def random_calls(seed: int, n: int, at_ms: float) -> list[Event]:
    seeded = random.Random(seed)
    calls = (
        (bad if seeded.random() < 0.1 else good)(
            f"{seed}-{i}", at_ms=at_ms + i * 90_000, latency_ms=seeded.uniform(1, 9_999)
        )
        for i in range(n)
    )
    return [line for call in calls for line in call]


@given(st.lists(st.integers(0, 12), min_size=1, max_size=5))
def test_numbers_are_those_of_one_run_with_all_the_calls(sizes: list[int]) -> None:
    parts = [random_calls(n, size, n * 3_600_000) for n, size in enumerate(sizes)]
    merged = whole(*(shard(n, part) for n, part in enumerate(parts))).report
    one = rebuild(Events([start(), *(line for part in parts for line in part), end()], 0), run_id="one")
    for name in ("calls", "attempts", "rates", "latency_ms", "ttft_ms", "tokens_per_second", "prompt_chars", "tokens",
                 "errors_by_kind", "errors_by_category", "by_model", "gate", "concurrency", "breaker"):  # fmt: skip
        assert merged[name] == one[name], name


def test_the_order_in_which_shards_are_named_changes_nothing() -> None:
    shards = [shard(n, [*random_calls(n, 7, n * 1000), ended(f"t{n}")]) for n in range(4)]
    first = json.dumps(whole(*shards).report)
    for seed in range(5):
        random.Random(seed).shuffle(shards)
        assert json.dumps(whole(*shards).report) == first


def test_percentiles_come_from_the_calls_not_from_percentiles() -> None:
    quick, slow = shard(0, goods(95, "q", latency_ms=100)), shard(1, goods(5, "s", latency_ms=9000))
    assert whole(quick, slow).report["latency_ms"] == {
        "p50": 100.0, "p95": 545.0, "p99": 9000.0, "mean": 545.0, "max": 9000.0, "count": 100,
    }  # fmt: skip


def test_the_whole_lasts_from_the_first_beginning_to_the_last_end() -> None:
    report = whole(shard(3, [], duration_s=10.0), shard(0, [], duration_s=30.5)).report
    assert (report["started_at"], report["duration_s"]) == (iso_of(START_S + 0.0002), 190.0)
    assert [one["run_id"] for one in report["shards"]] == ["run-0", "run-3"]


def test_the_id_tells_the_shards() -> None:
    ids = {whole(*(shard(n, []) for n in numbers)).report["run_id"] for numbers in ([0, 1], [1, 0], [0, 2], [0])}
    assert len(ids) == 3
    assert all(run_id.startswith("merged-") for run_id in ids)


# Tests.


@pytest.mark.parametrize(
    ("words", "counted"),
    [
        (["passed", "failed"], "failed"),
        (["failed", "passed"], "failed"),
        (["passed", "lm_error"], "lm_error"),
        (["error", "lm_error"], "error"),
        (["skipped", "passed"], "passed"),
        (["passed", "skipped", "skipped"], "passed"),
        (["skipped", "skipped"], "skipped"),
        (["xfailed", "skipped"], "xfailed"),
    ],
)
def test_a_test_of_several_shards_counts_once_by_its_worst_outcome(words: list[str], counted: str) -> None:
    shards = [shard(n, [*goods(1, f"c{n}"), ended("same", word)], tests={word: 1}) for n, word in enumerate(words)]
    assert whole(*shards).report["tests"] == tally({"same": {counted}})


def test_tests_that_ask_no_model_are_added() -> None:
    shards = [shard(n, [*goods(1, f"c{n}"), ended(f"t{n}")], tests={"passed": 10, "skipped": n}) for n in range(3)]
    tests = whole(*shards).report["tests"]
    assert (tests["passed"], tests["skipped"]) == (30, 3)


def test_a_share_of_tests_lost_is_of_the_tests_of_all() -> None:
    lost = [shard(0, [*goods(1, "a"), ended("lost", "lm_error"), ended("x")], tests={"passed": 1, "lm_error": 1})]
    others = [shard(1, [*goods(99, "b"), *(ended(f"t{n}") for n in range(98))], tests={"passed": 98})]
    assert whole(*lost).report["gate"]["failed"] is True
    assert whole(*lost, *others).report["gate"]["failed"] is False


def test_lost_tests_of_all_shards_are_named() -> None:
    shards = [shard(n, [*goods(1, f"c{n}"), ended(f"t{n}", "lm_error", error_kind="timeout")]) for n in range(2)]
    assert [(one.nodeid, one.kind) for one in lost_tests(whole(*shards).events)] == [
        ("t0", "timeout"),
        ("t1", "timeout"),
    ]


# The verdict.


def test_the_gate_is_judged_on_the_whole() -> None:
    over, under = shard(0, [*goods(9, "a"), *bads(1, name="x")], exit_status=1), shard(1, goods(90, "b"), exit_status=0)
    report = whole(over, under).report
    assert report["gate"] == {
        "max_error_rate": 0.05,
        "failed": False,
        "reason": "error rate 1.0% (1 of 100 calls lost) is within the limit of 5%",
    }
    assert report["exit_status"] == 0


def test_a_gate_that_only_the_whole_fails_changes_the_status() -> None:
    tests = {"passed": 1}
    some = Settings(max_error_rate=0.1)
    calls = [[*goods(18, f"a{n}"), *bads(2, name=f"x{n}")] for n in range(2)]
    shards = [shard(n, part, some, exit_status=0, tests=tests) for n, part in enumerate(calls)]
    assert whole(*shards).report["exit_status"] == 0
    report = whole(*shards, max_error_rate=0.05).report
    assert (report["gate"]["failed"], report["exit_status"], report["settings"]["max_error_rate"]) == (True, 1, 0.05)


@pytest.mark.parametrize(
    ("statuses", "status"),
    [
        ([0, 0], 0), ([0, 5], 0), ([5, 5], 0), ([0, 1], 1), ([2, 1], 2), ([3, 2], 3), ([4, 1], 4), ([0, None], None),
        ([7, 0], 0), ([7, 7], 7),
    ],
)  # fmt: skip
def test_the_status_is_that_of_the_worst_shard(statuses: list[int | None], status: int | None) -> None:
    failed = {1: {"failed": 1}}
    shards = [shard(n, goods(1, f"c{n}"), exit_status=one, tests=failed.get(one or 0, {"passed": 1}))
              for n, one in enumerate(statuses)]  # fmt: skip
    assert whole(*shards).report["exit_status"] == status


def test_an_interrupted_shard_leaves_the_whole_unjudged() -> None:
    assert whole(shard(0, goods(1)), shard(1, goods(1, "b"), interrupted=True)).report["gate"]["failed"] is None


def test_events_that_a_shard_lost_fail_the_whole() -> None:
    one = shard(0, goods(3))
    one.log.events[-1]["problems"] = ["events are missing from the log: the disk is full"]
    report = whole(one, shard(1, goods(3, "b"))).report
    assert report["gate"]["failed"] is True
    assert report["notes"] == ["events are missing from the log: the disk is full (shard run-0)"]


def test_a_shard_that_was_cut_off_is_told_by_its_name() -> None:
    cut = shard(1, goods(2, "b"))
    del cut.log.events[-1]
    report = whole(shard(0, goods(2)), cut).report
    [note] = report["notes"]
    assert note.startswith("rebuilt from the log: the run was cut off after ")
    assert note.endswith(" (shard run-1)")
    assert report["exit_status"] is None


# Side by side.


def test_requests_in_flight_are_those_of_each_shard() -> None:
    crowd = [line for n in range(3) for line in (request(f"a{n}", n), *good(f"a{n}", n)[1:])]
    other = [line for n in range(2) for line in good(f"b{n}", n)]
    report = whole(shard(0, crowd), shard(1, other)).report
    assert report["concurrency"]["peak_in_flight"] == 3
    assert [one["peak_in_flight"] for one in report["shards"]] == [3, 2]


def test_slots_and_workers_of_one_name_are_not_one() -> None:
    lost = request("a", 0, slot=0, worker="gw0", timeout_ms=60_000)  # its worker died, and its slot was never another's
    others = [request("b", 10, slot=0, worker="gw0"), *good("b", 10)[1:]]
    report = whole(shard(0, [lost, *good("c", 5_000, worker="gw1")]), shard(1, others)).report
    assert [one["peak_in_flight"] for one in report["shards"]] == [2, 1]
    merged = whole(shard(0, [lost]), shard(1, others))
    assert {one["worker"] for one in merged.events if one["event"] == "gen_request"} == {"1/gw0", "2/gw0"}


def test_models_of_two_servers_do_not_take_turns() -> None:
    calls = turns(6000)
    shards = [shard(k, [one for one in calls if int(one["call_id"][1:]) // 2 % 2 == k]) for k in range(2)]
    assert "models take turns" in {row["symptom"] for row in rebuild(_one_log(shards), run_id="one")["diagnosis"]}
    assert "models take turns" not in {row["symptom"] for row in whole(*shards).report["diagnosis"]}


def _one_log(shards: list[Shard]) -> Events:
    return Events([line for one in shards for line in one.log.events], 0)


def test_pauses_of_the_breaker_are_summed_shard_by_shard() -> None:
    open_end = shard(0, [*goods(1), event("breaker_open", 100, pause_s=30.0)])
    closed = shard(1, [*goods(1, "b"), event("breaker_open", pause_s=30.0), event("breaker_closed", paused_s=12.0)])
    assert whole(open_end, closed).report["breaker"] == {"trips": 2, "paused_s": 42.0}


def test_what_the_logs_of_two_servers_tell_is_added() -> None:
    def log(**fields: Any) -> Event:
        return event("server_log", source="lmstudio", **{"complete": True, "exited": False, "counts": {}, **fields})

    one, two = log(counts={"crashed": 1, "loads": 2}), log(counts={"crashed": 2}, complete=False)
    report = whole(shard(0, [*goods(1), one]), shard(1, [*goods(1, "b"), two])).report
    assert report["server"]["log"] == {
        "source": "lmstudio", "complete": False, "exited": False, "counts": {"crashed": 3, "loads": 2},
    }  # fmt: skip


def test_a_model_that_two_servers_list_alike_stands_there_once() -> None:
    shards = [shard(n, [preflight(parallel=parallel), *goods(1, f"c{n}")]) for n, parallel in enumerate((4, 4, 8))]
    assert [model["parallel"] for model in whole(*shards).report["server"]["models"]] == [4, 8]


def test_a_cache_a_shard_has_no_size_together() -> None:
    assert whole(shard(0, goods(1)), shard(1, goods(1, "b"))).report["cache"]["entries"] is None


# What is no shard of the same run.


def test_the_same_run_twice_is_refused() -> None:
    one = shard(0, goods(1))
    again = Shard("copy", one.log, "run-0")
    assert refused(one, again) == "shard0 and copy are the same run, run-0: name it once"


def test_a_copy_under_another_id_is_refused() -> None:
    one = shard(0, goods(1))
    copy = [{**line, "run_id": "run-9"} for line in one.log.events]
    assert refused(one, Shard("copy", Events(copy, 0), "run-9")) == "copy holds calls of another shard: is it a copy?"


@pytest.mark.parametrize(
    ("first", "second", "told"),
    [
        ({"pipeline_version": "v1"}, {"pipeline_version": "v2"}, "pipeline version 'v1', shard1 'v2'"),
        ({"pipeline_version": "v1"}, {}, "pipeline version 'v1', shard1 none"),
        ({"model": "qwen"}, {"model": "llama"}, "model 'qwen', shard1 'llama'"),
        ({"model": "qwen"}, {}, "model 'qwen', shard1 none"),
    ],
)
def test_settings_that_make_another_suite_are_refused(first: dict[str, Any], second: dict[str, Any], told: str) -> None:
    message = refused(shard(0, goods(1), Settings(**first)), shard(1, goods(1, "b"), Settings(**second)))
    assert message == f"shard0 has the {told}: --merge takes the shards of one run, --compare any two runs"


def test_servers_of_two_kinds_are_refused_and_one_that_did_not_answer_is_not() -> None:
    def seen(kind: str | None) -> Event:
        server = {
            "url": "u",
            "reachable": kind is not None,
            "version": None,
            "kind": kind,
            "problem": None,
            "models": [],
        }
        return event("preflight", server=server)

    message = refused(shard(0, [seen("lmstudio"), *goods(1)]), shard(1, [seen("llama.cpp"), *goods(1, "b")]))
    assert message.startswith("shard0 has the kind of server 'lmstudio', shard1 'llama.cpp'")
    whole(shard(0, [seen("lmstudio"), *goods(1)]), shard(1, [seen(None), *goods(1, "b")]))


def test_two_limits_are_refused_unless_one_is_named() -> None:
    shards = shard(0, goods(1)), shard(1, goods(1, "b"), Settings(max_error_rate=0.1))
    assert refused(*shards) == "shard0 has the limit 5%, shard1 10%: say which one is meant with --max-error-rate"
    assert whole(*shards, max_error_rate=0.2).report["gate"]["max_error_rate"] == 0.2


def test_other_differences_are_noted() -> None:
    one = shard(
        0, goods(1, "a"), Settings(concurrency=8, url="http://a:1", dir="/a", html="a.html"), plugin_version="1.0"
    )
    two = shard(
        1, goods(1, "b", model="llama"), Settings(concurrency=2, url="http://b:1", dir="/b"), plugin_version="1.1"
    )
    report = whole(one, two).report
    assert report["notes"] == [
        "the shards' settings differ: concurrency (8, 2)",
        "the shards asked different models, qwen and llama: name one with --lmstudio-model",
        "the shards ran with different versions of pytest-lmstudio: 1.0, 1.1",
    ]
    assert (report["concurrency"]["limit"], report["plugin_version"]) == (8, "1.0, 1.1")
    assert [shown["url"] for shown in report["shards"]] == ["http://a:1", "http://b:1"]


@pytest.mark.parametrize("first", [True, False])
def test_a_shard_that_met_no_server_or_never_asked_for_one_merges_without_a_word(first: bool) -> None:
    dead = event("preflight", server={"url": "u", "reachable": False, "kind": None, "models": [], "problem": "no"})
    alone = [
        shard(int(not first), [dead, unsent("a", "unreachable", model="")]),
        shard(int(not first), [cached("b")]),
        shard(int(not first), []),
    ]
    for odd in alone:
        report = whole(odd, shard(int(first), [preflight(), *goods(20, "c")])).report
        assert report["notes"] == []
        assert (report["server"]["kind"], report["server"]["reachable"]) == ("lmstudio", True)


def test_shards_without_a_call_take_part() -> None:
    report = whole(shard(0, goods(2)), shard(1, [ended("t")], tests={"passed": 1})).report
    assert (report["calls"]["total"], report["tests"]["passed"], len(report["shards"])) == (2, 2, 2)


_JUNK = st.one_of(st.none(), st.booleans(), st.integers(), st.text(max_size=5), st.lists(st.none(), max_size=2))
_FIELDS = [
    *("call_id", "attempt", "latency_ms", "outcome", "nodeid", "worker"),
    *("slot", "run_id", "server", "settings", "pause_s"),
]
_NAMES = [
    *("gen_request", "gen_error", "gen_success", "test_end", "preflight"),
    *("run_start", "run_end", "breaker_open", "server_log"),
]


@given(
    st.lists(st.dictionaries(st.sampled_from(_FIELDS), _JUNK, max_size=6), max_size=6),
    st.sampled_from(_NAMES),
)
def test_a_log_of_anything_merges_or_is_refused(fields: list[dict[str, Any]], name: str) -> None:
    odd = [{"ts": iso_of(START_S), **one, "event": name} for one in fields]
    report: dict[str, Any] | None = None
    with suppress(CannotMergeError):
        report = merge([shard(0, goods(2)), Shard("odd", Events(odd, 0), "odd")]).report
    assert report is None or report["calls"]["ok"] >= 2
