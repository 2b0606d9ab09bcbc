"""What changed from one run to another, and what of it is a regression."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

import pytest

from pytest_lmstudio.record.compare import MEASURES, Comparison, Flip, Row, compare, measured
from pytest_lmstudio.settings import Settings
from tests.unit.cli.stored import ended
from tests.unit.record.logs import bads, cached, event, good, goods, preflight, report_of, unsent

if TYPE_CHECKING:
    from pytest_lmstudio.record.events import Event

EVEN = tuple(range(1000, 1100))


def run(
    ok: int = 0, lost: int = 0, tests: dict[str, str] | None = None, latencies: tuple[float, ...] = ()
) -> list[Event]:
    timed = [line for n, ms in enumerate(latencies) for line in good(f"l{n}", n * 90_000, ms, ttft_ms=ms / 2)]
    return [*goods(ok), *bads(lost), *timed, *(ended(nodeid, word) for nodeid, word in (tests or {}).items())]


def compared(before: list[Event], after: list[Event], **settings: Settings) -> Comparison:
    first, second = ((report_of(log, settings.get(name)), log) for name, log in (("one", before), ("two", after)))
    return compare(measured(*first), measured(*second))


def row(found: Comparison, name: str) -> Row:
    return next(row for row in found.rows if row.name == name)


def test_a_run_against_itself_has_changed_in_nothing() -> None:
    log = run(80, 20, {"a": "passed", "b": "failed", "c": "lm_error"}, EVEN)
    found = compared(log, log)
    assert (found.regressions, found.conditions) == ([], [])
    assert {row.verdict for row in found.rows} == {"same"}
    assert {row.change for row in found.rows} == {0.0}
    assert found.tests is not None
    assert (found.tests.in_both, found.tests.failures_before, found.tests.failures_after) == (3, 1, 1)
    assert [*found.tests.failed, *found.tests.lost, *found.tests.changed, *found.tests.new] == []


def test_rates_are_worse_when_the_whole_interval_of_the_change_is_above_zero() -> None:
    found = compared(run(80), run(48, 32))
    assert row(found, "error_rate") == Row("error_rate", 0.0, 0.4, 0.4, [0.289656, 0.509545], "worse")
    assert found.regressions == ["error_rate", "disconnect_rate", "first_attempt_failure_rate"]
    assert [one.verdict for one in compared(run(48, 32), run(80, 0)).rows[:3]] == ["better"] * 3
    assert compared(run(48, 32), run(80, 0)).regressions == []


def test_a_few_more_lost_by_chance_are_no_regression() -> None:
    found = compared(run(30), run(28, 2))
    assert row(found, "error_rate").verdict == "same"
    assert found.regressions == []


@pytest.mark.parametrize(
    ("factor", "verdict", "regressions"),
    [
        (1.0, "same", []),
        (1.09, "same", []),  # its interval is above zero, but it is no tenth longer
        (1.11, "worse", ["latency_p50_ms", "latency_p95_ms"]),
        (0.5, "better", []),
    ],
)
def test_latency_is_worse_by_a_tenth_and_beyond_its_interval(
    factor: float, verdict: str, regressions: list[str]
) -> None:
    found = compared(run(latencies=EVEN), run(latencies=tuple(ms * factor for ms in EVEN)))
    assert [row(found, name).verdict for name in ("latency_p50_ms", "latency_p95_ms")] == [verdict] * 2
    assert found.regressions == regressions


def test_a_longer_latency_within_its_interval_is_no_regression() -> None:
    wild = tuple(float(ms) for ms in range(100, 10_000, 400))
    found = compared(run(latencies=wild), run(latencies=tuple(ms * 1.2 for ms in wild)))
    assert row(found, "latency_p50_ms").verdict == "same"
    assert found.regressions == []


@pytest.mark.parametrize(
    ("answers", "p50", "p95"),
    [(5, "unknown", "unknown"), (6, "worse", "unknown"), (71, "worse", "unknown"), (72, "worse", "worse")],
)
def test_too_few_answers_are_judged_by_nobody(answers: int, p50: str, p95: str) -> None:
    found = compared(run(latencies=(100.0,) * answers), run(latencies=(900.0,) * answers))
    assert (row(found, "latency_p50_ms").verdict, row(found, "latency_p95_ms").verdict) == (p50, p95)
    assert row(found, "latency_p95_ms").change == 800.0


def test_first_tokens_and_speed_are_shown_and_not_judged() -> None:
    slow = [line for n in range(80) for line in good(f"l{n}", n * 90_000, 1000, ttft_ms=900, tokens_per_second=5.0)]
    fast = [line for n in range(80) for line in good(f"l{n}", n * 90_000, 1000, ttft_ms=100, tokens_per_second=50.0)]
    found = compared(fast, slow)
    assert [row(found, n).verdict for n in ("ttft_p50_ms", "ttft_p95_ms", "tokens_per_second_p50")] == ["worse"] * 3
    assert found.regressions == []
    assert row(compared(slow, fast), "tokens_per_second_p50") == Row(
        "tokens_per_second_p50", 5.0, 50.0, 45.0, [45.0, 45.0], "better"
    )


FLIPS = [
    ("passed", "failed", "failed"), ("skipped", "error", "failed"), ("xfailed", "failed", "failed"),
    ("failed", "passed", "passed"), ("error", "skipped", "passed"),
    ("passed", "lm_error", "lost"), ("failed", "lm_error", "lost"),
    ("lm_error", "passed", "regained"), ("lm_error", "failed", "regained"),
    ("passed", "skipped", "changed"), ("failed", "error", "changed"), ("xfailed", "xpassed", "changed"),
]  # fmt: skip


@pytest.mark.parametrize(("before", "after", "where"), FLIPS)
def test_a_flip_stands_in_one_list(before: str, after: str, where: str) -> None:
    tests = compared(run(1, tests={"t": before}), run(1, tests={"t": after})).tests
    assert tests is not None
    lists = {name: getattr(tests, name) for name in ("failed", "passed", "lost", "regained", "changed")}
    assert {name: flips for name, flips in lists.items() if flips} == {where: [Flip("t", before, after)]}


def test_tests_of_one_run_alone_are_new_or_gone() -> None:
    tests = compared(run(1, tests={"a": "passed", "b": "failed"}), run(1, tests={"b": "failed", "c": "failed"})).tests
    assert tests is not None
    assert (tests.new, tests.gone, tests.in_both) == (["c"], ["a"], 1)


@pytest.mark.parametrize(
    ("before", "after", "regressions"),
    [
        ({"a": "passed"}, {"a": "failed"}, ["failed_tests"]),
        ({"a": "passed"}, {"a": "error"}, ["failed_tests"]),
        ({"a": "passed", "b": "failed"}, {"a": "failed", "b": "passed"}, []),  # as many as before
        ({"a": "passed"}, {"a": "passed", "b": "failed"}, []),  # not in both
        ({"a": "lm_error"}, {"a": "failed"}, []),  # nobody knows whether it would have failed before
        ({"a": "failed", "b": "passed"}, {"a": "lm_error", "b": "failed"}, ["failed_tests"]),
        ({"a": "passed"}, {"a": "lm_error"}, []),  # that is what the rates are for
        ({"a": "failed"}, {}, []),
    ],
)
def test_more_failures_among_the_tests_of_both_are_a_regression(
    before: dict[str, str], after: dict[str, str], regressions: list[str]
) -> None:
    assert compared(run(1, tests=before), run(1, tests=after)).regressions == regressions


def test_what_was_set_otherwise_is_named() -> None:
    first = Settings(model="a", timeout=45.0, pipeline_version="v1", dir="/a", html="x", url="http://127.0.0.1:1")
    second = Settings(model="b", timeout="auto", pipeline_version="v1", dir="/b", url="http://127.0.0.1:2")
    found = compared([preflight(parallel=4), *goods(1)], [preflight(parallel=2), *goods(1)], one=first, two=second)
    assert found.conditions == [
        ("url", "http://127.0.0.1:1", "http://127.0.0.1:2"),
        ("model", "a", "b"),
        ("timeout", 45.0, "auto"),
        ("qwen: parallel", 4, 2),
    ]


def test_models_that_were_asked_are_compared_though_none_was_named() -> None:
    found = compared(goods(1, model="a"), goods(1, model="b"))
    assert found.conditions == [("models_asked", ["a"], ["b"])]


def test_what_a_model_is_that_nobody_asked_is_of_no_interest() -> None:
    before, after = (report_of([preflight(id="gemma", parallel=many), *goods(1)]) for many in (1, 2))
    assert compare(measured(before, ()), measured(after, ())).conditions == []


def seen(kind: str | None = "llama.cpp", version: str | None = None) -> Event:
    server = {"url": "u", "reachable": kind is not None, "version": version, "kind": kind, "models": []}
    return event("preflight", server=server)


LMSTUDIO, OWN, ANY_PORT = "http://127.0.0.1:1234", "http://127.0.0.1:40001", "http://127.0.0.1, any port"


@pytest.mark.parametrize(
    ("first", "second", "told"),
    [
        ((OWN, "llama.cpp"), ("http://127.0.0.1:50002", "llama.cpp"), []),
        (
            (LMSTUDIO, "lmstudio"),
            (OWN, "llama.cpp"),
            [("url", LMSTUDIO, ANY_PORT), ("server", "lmstudio", "llama.cpp")],
        ),
        (("http://127.0.0.1:8080", "llama.cpp"), (OWN, "llama.cpp"), [("url", "http://127.0.0.1:8080", ANY_PORT)]),
        ((OWN, "llama.cpp"), ("http://10.0.0.7:40002", "llama.cpp"), [("url", ANY_PORT, "http://10.0.0.7:40002")]),
        ((OWN, "openai"), ("http://127.0.0.1:40002", "openai"), [("url", OWN, "http://127.0.0.1:40002")]),
        ((OWN, "llama.cpp"), (OWN, None), [("url", ANY_PORT, OWN)]),
    ],
)
def test_the_port_that_the_system_chose_for_a_server_of_the_runs_own_is_of_no_interest(
    first: tuple[str, str], second: tuple[str, str], told: list[tuple[str, str, str]]
) -> None:
    found = compared(
        [seen(first[1]), *goods(1)],
        [seen(second[1]), *goods(1)],
        one=Settings(url=first[0]),
        two=Settings(url=second[0]),
    )
    assert found.conditions == told


def test_what_is_not_known_of_a_server_is_no_difference() -> None:
    dead = [event("preflight", server={"url": "u", "reachable": False, "kind": None, "models": []})]
    lost = [unsent("a", "unreachable", model="")]
    found = compared([preflight(), *goods(1)], [*dead, *lost])
    assert found.conditions == []
    assert compared([seen(version="b1"), *goods(1)], [seen(), *goods(1)]).conditions == []
    assert compared([seen(version="b1"), *goods(1)], [seen(version="b2"), *goods(1)]).conditions == [
        ("server_version", "b1", "b2")
    ]


def test_a_setting_that_a_former_version_did_not_have_is_no_difference() -> None:
    old = report_of(goods(1))
    del old["settings"]["order"]
    assert compare(measured(old, ()), measured(report_of(goods(1)), ())).conditions == []


def test_an_address_that_is_none_makes_no_side() -> None:
    report = report_of([seen(), *goods(1)])
    report["settings"]["url"] = "http://127.0.0.1:port"
    with pytest.raises(ValueError, match="Port"):
        measured(report, ())


@pytest.mark.parametrize(
    ("before", "after", "left_out"),
    [
        ({"a": "passed", "b": "failed"}, {"a": "failed", "b": "failed"}, 0),
        ({"a": "lm_error", "b": "failed"}, {"a": "failed", "b": "lm_error"}, 2),
        ({"a": "lm_error", "b": "lm_error"}, {"a": "lm_error", "c": "lm_error"}, 1),
    ],
)
def test_tests_lost_in_either_run_are_counted(before: dict[str, str], after: dict[str, str], left_out: int) -> None:
    tests = compared(run(1, tests=before), run(1, tests=after)).tests
    assert tests is not None
    assert tests.left_out == left_out


def test_without_a_log_rates_are_compared_and_tests_are_not() -> None:
    log = run(48, 32, {"a": "passed"}, EVEN)
    alone, whole = measured(report_of(log), ()), measured(report_of(log), log)
    found = compare(alone, whole)
    assert found.tests is None
    assert found.as_dict()["tests"] is None
    assert row(found, "error_rate").verdict == "same"
    assert row(found, "error_rate").ci95 is not None
    assert row(found, "latency_p50_ms") == Row(
        "latency_p50_ms", row(found, "latency_p50_ms").after, row(found, "latency_p50_ms").after, 0.0, None, "unknown"
    )
    assert row(found, "first_attempt_failure_rate").ci95 is None


def test_runs_that_sent_nothing_have_no_numbers() -> None:
    found = compared([cached("a")], [cached("a")])
    assert {(row.before, row.after, row.change, row.ci95, row.verdict) for row in found.rows} == {
        (None, None, None, None, "unknown")
    }
    assert found.regressions == []


def test_plain_data_is_json_and_names_every_measure() -> None:
    found = compared(run(5, 1, {"a": "passed"}), run(5, 1, {"a": "failed", "b": "passed"})).as_dict()
    assert json.loads(json.dumps(found, allow_nan=False)) == found
    assert list(found["numbers"]) == list(MEASURES)
    assert found["tests"]["failed"] == [{"nodeid": "a", "before": "passed", "after": "failed"}]
    assert found["regressions"] == ["failed_tests"]


@pytest.mark.parametrize("broken", [{"failed": 9}, {"sent": -1}, {"failed": "x"}])
def test_a_report_whose_counts_are_none_is_no_side(broken: dict[str, Any]) -> None:
    report = report_of(goods(2))
    with pytest.raises((ValueError, TypeError)):
        measured({**report, "calls": {**report["calls"], **broken}}, ())
