"""The timeout ``auto``."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pytest_lmstudio.engine.timeouts import Timeouts


def after(latencies: list[float], model: str = "m") -> Timeouts:
    timeouts = Timeouts(45.0)
    for latency_s in latencies:
        timeouts.saw(model, latency_s)
    return timeouts


@pytest.mark.parametrize(
    ("latencies", "limit_s"),
    [
        ([], 45.0),
        ([200.0] * 19, 45.0),
        ([20.0] * 20, 60.0),
        ([0.5] * 20, 10.0),
        ([200.0] * 20, 300.0),
        ([1.0] * 19 + [30.0], 90.0),
        ([1.0] * 990 + [30.0] * 10, 90.0),
        ([1.0] * 995 + [30.0] * 5, 10.0),
        # Only the last 1000 count.
        ([90.0] * 500 + [20.0] * 1000, 60.0),
    ],
)
def test_auto_follows_the_slowest_of_a_hundred(latencies: list[float], limit_s: float) -> None:
    assert after(latencies).of("m", None) == limit_s


def test_a_limit_that_was_given_holds() -> None:
    assert after([20.0] * 20).of("m", 5.0) == 5.0


def test_models_are_counted_apart() -> None:
    timeouts = after([20.0] * 20, "slow")
    for _ in range(20):
        timeouts.saw("fast", 4.0)
    assert (timeouts.of("slow", None), timeouts.of("fast", None), timeouts.of("new", None)) == (60.0, 12.0, 45.0)


@given(st.lists(st.floats(0, 1000), min_size=20, max_size=60))
def test_auto_stays_within_its_bounds_whatever_the_order(latencies: list[float]) -> None:
    limit_s = after(latencies).of("m", None)
    assert 10.0 <= limit_s <= 300.0
    assert limit_s >= min(300.0, 3 * sorted(latencies)[-2])
    assert after(latencies[::-1]).of("m", None) == limit_s
