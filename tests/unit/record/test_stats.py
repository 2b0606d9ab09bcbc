"""Percentiles, rates, intervals and tallies are exact."""

from __future__ import annotations

from math import comb

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pytest_lmstudio.record.stats import chance_of_more, percentile, ratio, spread, tally, wilson


@pytest.mark.parametrize(
    ("values", "percent", "expected"),
    [
        ([], 50, None),
        ([7.0], 99, 7.0),
        ([4.0, 1.0, 3.0, 2.0], 50, 2.5),
        ([1.0, 2.0, 3.0, 4.0, 5.0], 50, 3.0),
        ([float(n) for n in range(1, 101)], 95, 95.05),
        ([float(n) for n in range(1, 101)], 99, 99.01),
        ([1.0, 2.0], 100, 2.0),
    ],
)
def test_percentiles_are_interpolated_linearly(values: list[float], percent: float, expected: float | None) -> None:
    assert percentile(values, percent) == expected


@given(st.lists(st.floats(-1e9, 1e9), min_size=1), st.integers(0, 100))
def test_a_percentile_lies_between_least_and_most(values: list[float], percent: int) -> None:
    found = percentile(values, percent)
    assert found is not None
    assert min(values) <= found <= max(values)


def test_a_spread_names_its_percentiles_and_rounds_them() -> None:
    assert spread([1.0, 2.0, 4.0001], 50, 95) == {"p50": 2.0, "p95": 3.8}
    assert spread([], 50) == {"p50": None}


def test_a_ratio_of_nothing_is_none() -> None:
    assert (ratio(1, 4), ratio(0, 3), ratio(0, 0)) == (0.25, 0.0, None)


@pytest.mark.parametrize(
    ("hits", "trials", "lo", "hi"),
    [
        # Newcombe, Two-sided confidence intervals for the single proportion, Statistics in Medicine 17 (1998), table I,
        # method 3, to four places.
        (81, 263, 0.2553, 0.3662),
        (15, 148, 0.0624, 0.1605),
        (0, 20, 0.0, 0.1611),
        (1, 29, 0.0061, 0.1718),
    ],
)
def test_the_wilson_interval_is_the_published_one(hits: int, trials: int, lo: float, hi: float) -> None:
    assert wilson(hits, trials) == pytest.approx((lo, hi), abs=5e-5)


@pytest.mark.parametrize(
    ("hits", "trials", "lo", "hi"),
    [
        (2, 30, 0.01847702, 0.21323458),
        (0, 10, 0.0, 0.27753279),
        (10, 10, 0.72246721, 1.0),
        (5, 10, 0.23659309, 0.76340691),
    ],
)
def test_the_wilson_interval_is_the_root_of_its_equation(hits: int, trials: int, lo: float, hi: float) -> None:
    assert wilson(hits, trials) == pytest.approx((lo, hi), abs=1e-8)


def test_fisher_s_chance_is_that_of_his_tea() -> None:
    # Fisher, The Design of Experiments (1935), chapter II: 8 cups, 4 of them with the milk first, 4 or 3 found.
    assert chance_of_more(4, 4, 4, 8) == pytest.approx(1 / 70)
    assert chance_of_more(3, 4, 4, 8) == pytest.approx(17 / 70)
    assert (chance_of_more(0, 4, 4, 8), chance_of_more(5, 4, 4, 8)) == (1.0, 0.0)


@given(
    st.integers(1, 60).flatmap(
        lambda total: st.tuples(st.just(total), st.integers(0, total), st.integers(0, total), st.integers(0, total))
    )
)
def test_fisher_s_chance_is_a_sum_of_exact_counts(numbers: tuple[int, int, int, int]) -> None:
    total, drawn, hits_of_all, hits = numbers
    ways = [comb(hits_of_all, k) * comb(total - hits_of_all, drawn - k) for k in range(hits, drawn + 1)]
    assert chance_of_more(hits, drawn, hits_of_all, total) == pytest.approx(sum(ways) / comb(total, drawn), abs=1e-12)


def test_fisher_s_chance_of_a_long_run_is_found_at_once() -> None:
    assert chance_of_more(6000, 50_000, 10_000, 100_000) < 1e-80


def test_there_is_no_interval_without_trials() -> None:
    assert wilson(0, 0) is None


@given(st.integers(1, 10_000).flatmap(lambda n: st.tuples(st.integers(0, n), st.just(n))))
def test_the_wilson_interval_holds_the_rate_and_stays_within_bounds(counts: tuple[int, int]) -> None:
    hits, trials = counts
    found = wilson(hits, trials)
    assert found is not None
    assert 0.0 <= found.lo <= hits / trials <= found.hi <= 1.0
    assert found.lo < found.hi
    mirrored = wilson(trials - hits, trials)
    assert mirrored == pytest.approx((1 - found.hi, 1 - found.lo))


@pytest.mark.parametrize(
    ("words", "counted"),
    [
        ({"passed", "failed"}, "failed"),
        ({"failed", "error"}, "failed"),
        ({"error", "lm_error", "passed"}, "error"),
        ({"lm_error", "xfailed", "passed"}, "lm_error"),
        ({"xfailed", "passed"}, "xfailed"),
        ({"xpassed", "passed"}, "xpassed"),
        ({"passed", "skipped"}, "skipped"),
        ({"rerun", "passed"}, "passed"),
    ],
)
def test_one_test_counts_once_as_the_gravest_of_its_outcomes(words: set[str], counted: str) -> None:
    counts = tally({"a": words})
    assert counts[counted] == 1
    assert sum(counts.values()) == 1


def test_a_test_without_an_outcome_does_not_count() -> None:
    assert tally({"a": {"rerun"}, "b": ()}) == dict.fromkeys(
        ("passed", "failed", "error", "lm_error", "skipped", "xfailed", "xpassed"), 0
    )
