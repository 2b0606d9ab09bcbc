"""The line that shows that a silent run is alive: counted from the log alone, and never nonsense."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest

from pytest_lmstudio.report.heartbeat import Heartbeat, Known
from tests.unit.record.logs import cached, error, event, good, request, success, unsent

if TYPE_CHECKING:
    from pytest_lmstudio.record.events import Event

ALL = Known(10, all_ask=True)


def heard(*events: Event, now_s: float = 0.0) -> Heartbeat:
    it = Heartbeat()
    for one in events:
        it.take(one, now_s)
    return it


def asked(n: int, at_ms: float, lasts_ms: float = 20_000) -> list[Event]:
    """Return the events of a test that asks once."""
    nodeid = f"t.py::test_{n}"
    calls = [{**line, "nodeid": nodeid} for line in good(f"c{n}", at_ms, lasts_ms)]
    return [*calls, ended(nodeid, at_ms + lasts_ms)]


def ended(nodeid: str, at_ms: float = 0, **fields: Any) -> Event:
    return event("test_end", at_ms, **{"outcome": "passed", "llm": True, "ran": True, "nodeid": nodeid, **fields})


def test_it_tells_how_the_calls_stand() -> None:
    lost = [request("b"), error("b")]
    again = [request("d"), error("d", retry_in_ms=800)]
    it = heard(*good("a", 0, 1500), *lost, *again, cached("c"), cached("e", "coalesced"), request("f"), request("g"))
    assert it.line(0.0) == "LM Studio: 2 in flight, 3 done, 1 lost, p95 1.5 s, 1 to be tried again"


@pytest.mark.parametrize(
    "events",
    [
        [],
        good("a"),
        [request("a"), error("a")],
        [request("a"), event("gen_abandoned", call_id="a", attempt=1)],
        [request("a"), error("a", retry_in_ms=800), unsent("a", "circuit_open")],
        [event("model_load_start"), event("model_load_end")],
        [event("breaker_open", gave_up=False), event("breaker_closed")],
        [event("breaker_open", gave_up=True)],
    ],
)
def test_a_run_that_waits_for_nothing_has_no_line(events: list[Event]) -> None:
    assert heard(*events).line(0.0) is None


def test_a_call_that_is_tried_again_is_in_flight_once() -> None:
    it = heard(request("a"), error("a", retry_in_ms=800), request("a", 2000, 2))
    assert it.line(0.0) == "LM Studio: 1 in flight, 0 done, 0 lost"
    it.take(success("a", 3000, 2), 1.0)
    it.take(request("b", 3000), 1.0)
    assert it.line(1.0) == "LM Studio: 1 in flight, 1 done, 0 lost, p95 1 s"


def test_what_a_worker_had_in_flight_dies_with_it() -> None:
    it = heard(request("a", worker="gw0"), request("b", worker="gw1"), event("worker_crashed", worker="gw0"))
    assert it.line(0.0) == "LM Studio: 1 in flight, 0 done, 1 lost"


def test_the_load_of_a_model_and_a_pause_are_told() -> None:
    it = heard(event("model_load_start", model="qwen"), event("breaker_open", 30_000, gave_up=False), now_s=50.0)
    assert it.line(62.0) == "LM Studio: 0 in flight, 0 done, 0 lost, loading qwen since 42 s, paused"


def test_the_estimate_is_of_the_tests_that_are_left_at_the_pace_of_those_that_asked() -> None:
    three = [line for n in range(3) for line in asked(n, n * 20_000)]
    it = heard(*three, request("now", 60_000), now_s=100.0)
    # 60 s for three, and seven are left.
    assert it.line(100.0, ALL) == "LM Studio: 1 in flight, 3 done, 0 lost, p95 20 s, about 3 min left"
    # 30 s of silence later: 90 s for three.
    assert it.line(130.0, ALL) == "LM Studio: 1 in flight, 3 done, 0 lost, p95 20 s, about 4 min left"
    assert it.line(100.0, Known(4, all_ask=True)) == (
        "LM Studio: 1 in flight, 3 done, 0 lost, p95 20 s, about 20 s left"
    )


def estimate(events: list[Event], known: Known) -> bool:
    return " left" in str(heard(*events, request("now", 60_000)).line(1.0, known))


def test_an_estimate_that_would_be_nonsense_is_left_out() -> None:
    three = [line for n in range(3) for line in asked(n, n * 20_000)]
    from_cache = [ended(f"t.py::test_c{n}") for n in range(30)]
    others = [ended("t.py::test_o", others={"passed": 500})]
    assert estimate(three, ALL)
    assert estimate([*three, *others], ALL)  # their marks tell how many ask
    assert not estimate(three, Known())  # nobody knows how many there are
    assert not estimate(three, Known(3, all_ask=True))  # the last one is being torn down
    assert not estimate(three[:6], ALL)  # two tests are no pace
    assert not estimate(from_cache, Known(100, all_ask=True))  # answers that cost nothing are no pace
    assert not estimate([*three, *others], Known(600))  # 500 unit tests of a worker's said nothing of the rest
    assert not estimate([dict(line, ts="then") for line in three], ALL)


def test_a_test_that_ends_twice_is_one() -> None:
    first = asked(0, 0)
    it = heard(*first, *first, ended("t.py::test_0"), *asked(1, 20_000), request("now", 60_000))
    assert "left" not in str(it.line(1.0, ALL))


@pytest.mark.parametrize(
    ("width", "line"),
    [
        (200, "LM Studio: 1 in flight, 3 done, 0 lost, p95 20 s, about 3 min left"),
        (60, "LM Studio: 1 in flight, 3 done, 0 lost, p95 20 s"),
        (40, "LM Studio: 1 in flight, 3 done, 0 lost"),
        (12, "LM Studio: "),
    ],
)
def test_a_narrow_terminal_gets_what_says_most(width: int, line: str) -> None:
    three = [line for n in range(3) for line in asked(n, n * 20_000)]
    assert heard(*three, request("now", 60_000)).line(0.0, ALL, width) == line


WRONG = ["text", "none", "list", "dict", "nan", "huge", "true", "below 0"]
HOSTILE = "\x1b[2J\r\n::error::x\u202e\ud800" + "x" * 5000


@pytest.mark.parametrize("value", [HOSTILE, None, [], {}, float("nan"), 10**400, True, -1], ids=WRONG)
@pytest.mark.parametrize("name", sorted(Heartbeat.EVENTS))
def test_whatever_a_foreign_log_holds_the_line_is_short_and_plain(name: str, value: object) -> None:
    fields = ("ts", "call_id", "nodeid", "worker", "model", "latency_ms", "retry_in_ms", "others", "gave_up")
    for changed in fields:
        known: Event = {**event(name), "call_id": "a", "latency_ms": 5.0, changed: value}
        line = heard(request("a"), known, known, request("b"), event("model_load_start", model="m")).line(9.0, ALL)
        assert line is not None
        assert line.startswith("LM Studio: ")
        assert line.isprintable()
        assert len(line) < 250
