"""Intervals of percentiles and of differences, against published figures and by simulation."""

from __future__ import annotations

import random

import pytest

from pytest_lmstudio.record.intervals import Estimate, difference, quantile
from pytest_lmstudio.record.stats import Interval, ratio, wilson


def share(hits: int, trials: int) -> Estimate:
    return Estimate(ratio(hits, trials), wilson(hits, trials))


@pytest.mark.parametrize(
    ("after", "before", "change", "lo", "hi"),
    [
        ((56, 70), (48, 80), 0.2, 0.0524, 0.3339),
        ((9, 10), (3, 10), 0.6, 0.1705, 0.8090),
        ((6, 7), (2, 7), 0.5714, 0.0582, 0.8062),
        ((5, 56), (0, 29), 0.0893, -0.0381, 0.1926),
        ((0, 10), (0, 20), 0.0, -0.1611, 0.2775),
        ((0, 10), (0, 10), 0.0, -0.2775, 0.2775),
        ((10, 10), (0, 20), 1.0, 0.6791, 1.0),
        ((10, 10), (0, 10), 1.0, 0.6075, 1.0),
    ],
)
def test_differences_of_rates_are_those_of_newcombes_table(
    after: tuple[int, int], before: tuple[int, int], change: float, lo: float, hi: float
) -> None:
    found = difference(share(*before), share(*after))
    assert found.value is not None
    assert found.interval is not None
    assert [round(value, 4) for value in (found.value, *found.interval)] == [change, lo, hi]


def test_a_difference_turned_round_has_its_interval_turned_round() -> None:
    there, back = difference(share(3, 50), share(9, 40)), difference(share(9, 40), share(3, 50))
    assert there.interval is not None
    assert back == Estimate(-there.value, Interval(-there.interval.hi, -there.interval.lo))  # type: ignore[operator]  # known


@pytest.mark.parametrize(("before", "after"), [((0, 0), (1, 2)), ((1, 2), (0, 0)), ((0, 0), (0, 0))])
def test_nothing_counted_has_no_difference(before: tuple[int, int], after: tuple[int, int]) -> None:
    assert difference(share(*before), share(*after)) == Estimate(None, None)


def test_a_number_without_an_interval_leaves_the_difference_without_one() -> None:
    assert difference(Estimate(2.0), Estimate(5.0, Interval(4.0, 6.0))) == Estimate(3.0, None)


@pytest.mark.parametrize(
    ("n", "percent", "ranks"),
    [
        (5, 50, None), (6, 50, (1, 6)), (10, 50, (2, 9)), (20, 50, (6, 15)), (100, 50, (40, 61)),
        (71, 95, None), (72, 95, (64, 72)), (100, 95, (90, 100)), (0, 95, None), (1, 50, None),
    ],
)  # fmt: skip
def test_the_ends_are_the_ranks_of_the_binomial_distribution(
    n: int, percent: int, ranks: tuple[int, int] | None
) -> None:
    values = [float(rank) for rank in range(1, n + 1)]
    random.Random(n).shuffle(values)
    assert quantile(values, percent).interval == (None if ranks is None else Interval(*map(float, ranks)))


def test_equal_values_have_an_interval_without_width() -> None:
    assert quantile([7.0] * 100, 95) == Estimate(7.0, Interval(7.0, 7.0))


def test_a_hundred_thousand_values_have_a_narrow_interval() -> None:
    values = [float(rank) for rank in range(1, 100_001)]
    assert quantile(values, 95).interval == Interval(94864.0, 95136.0)


@pytest.mark.parametrize("percent", [50, 95])
def test_the_interval_holds_the_true_percentile_as_often_as_it_says(percent: int) -> None:
    seeded = random.Random(20261122)
    held = 0
    for _ in range(2000):
        interval = quantile([seeded.random() for _ in range(120)], percent).interval
        assert interval is not None
        held += interval.lo <= percent / 100 <= interval.hi
    assert held / 2000 >= 0.95
