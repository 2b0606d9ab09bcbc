"""The pictures of the page: latencies in bars, attempts in rows of their worker."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pytest_lmstudio.record.history import calls_of
from pytest_lmstudio.report.html_charts import Bins, bins_of, histogram, round_step
from pytest_lmstudio.report.html_timeline import MOST_ROWS, Bar, bars_of, by_worker, thinned, timeline
from tests.unit.record.logs import START_S, cached, error, good, request


def test_latencies_are_counted_in_bars_of_a_round_width() -> None:
    assert bins_of([100, 149, 150, 400]) == Bins(0, 10, (0,) * 10 + (1, 0, 0, 0, 1, 1) + (0,) * 24 + (1,), 0)
    assert bins_of([150, 151, 160]) == Bins(150, 1 / 2, (1, 0, 1) + (0,) * 17 + (1,), 0)


@pytest.mark.parametrize(("span", "step"), [(40, 1), (41, 2), (81, 5), (201, 10), (4, 0.1), (1e300, 5e298)])
def test_a_step_is_round(span: float, step: float) -> None:
    assert round_step(span, 40) == step


def test_answers_far_slower_than_the_rest_share_the_last_bar() -> None:
    latencies = [100.0] * 40 + [30_000.0]
    assert bins_of(latencies).longer == 1
    picture = histogram(latencies, {"p50": 100.0, "p99": 20_000.0})
    assert "the last one is all above 205 ms" in str(picture)
    assert "p50 100 ms" in str(picture)
    assert "p99" not in str(picture)


@given(st.lists(st.floats(0, 1e308), min_size=1))
def test_every_latency_is_in_one_bar(latencies: list[float]) -> None:
    bins = bins_of(latencies)
    assert sum(bins.counts) + bins.longer == len(latencies)
    assert len(bins.counts) <= 42


def bar(start_s: float, end_s: float, worker: str = "main", outcome: str = "ok") -> Bar:
    return Bar(worker, start_s, end_s, 0, outcome, "")


def test_requests_at_once_stand_in_rows_of_their_own() -> None:
    lanes = by_worker([bar(0, 3, "gw10"), bar(0, 3, "gw2"), bar(1, 2, "gw2"), bar(2, 4, "gw2"), bar(3, 5, "gw2")])
    assert [(worker, [place.row for place in lane]) for worker, lane in lanes.items()] == [
        ("gw2", [0, 1, 1, 0]),
        ("gw10", [0]),
    ]
    assert lanes["gw2"][3].free_s == 3
    crowd = by_worker([bar(i, 100 + i) for i in range(40)])
    assert max(place.row for place in crowd["main"]) == MOST_ROWS - 1


def test_too_many_attempts_are_thinned_half_of_them_failed_ones() -> None:
    bars = [bar(i, i + 1, outcome="failed" if i % 4 else "ok") for i in range(400)]
    kept = thinned(bars, 100)
    assert [sum(each.outcome == outcome for each in kept) for outcome in ("ok", "failed")] == [50, 50]
    assert kept == sorted(kept, key=lambda each: each.start_s)
    assert (len(thinned(bars, 200)), thinned(bars, 400)) == (200, bars)


def test_a_bar_tells_its_test_its_outcome_and_its_wait() -> None:
    events = [
        *good("a"),
        request("b", 5000, waited_ms=1500, worker="gw1"),
        error("b", "timeout", 7000, latency_ms=2000),
    ]
    assert bars_of(calls_of(events)) == [
        Bar("main", START_S, START_S + 1, 0, "ok", "test_x.py::test_x: attempt 1 answered after 1 s"),
        Bar("gw1", START_S + 5, START_S + 7, 1.5, "failed",
            "test_x.py::test_x: attempt 1 timeout after 2 s (waiting), had waited 1.5 s"),
    ]  # fmt: skip
    assert timeline(calls_of([cached("c")])) is None
