"""The gate tolerates its limit and nothing above it, and says why."""

from __future__ import annotations

from fractions import Fraction

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from pytest_lmstudio.record.gate import Gate, fate, judge, percent
from pytest_lmstudio.values import rate
from tests.unit.record.logs import bads, cached, goods, report_of


@pytest.mark.parametrize(
    ("sent", "failed", "limit", "verdict", "reason"),
    [
        (30, 1, 0.05, False, "error rate 3.3% (1 of 30 calls lost) is within the limit of 5%"),
        (30, 2, 0.05, True, "error rate 6.7% (2 of 30 calls lost) is above the limit of 5%"),
        (60, 3, 0.05, False, "error rate 5.0% (3 of 60 calls lost) is within the limit of 5%"),
        (1995, 100, 0.05, True, "error rate 5.01% (100 of 1995 calls lost) is above the limit of 5%"),
        (10_000, 499, 0.05, False, "error rate 4.99% (499 of 10000 calls lost) is within the limit of 5%"),
        (10**5, 5001, 0.05, True, "error rate 5.001% (5001 of 100000 calls lost) is above the limit of 5%"),
        (10**6, 50_001, 0.05, True, "error rate 5.0001% (50001 of 1000000 calls lost) is above the limit of 5%"),
        (10**7, 500_001, 0.05, True, "error rate 5.0% (500001 of 10000000 calls lost) is above the limit of 5%"),
        (1, 1, 0.05, True, "error rate 100% (1 of 1 call lost) is above the limit of 5%"),
        (100, 29, 0.29, False, "error rate 29.0% (29 of 100 calls lost) is within the limit of 29%"),
        (1, 1, 1.0, False, "error rate 100% (1 of 1 call lost) is within the limit of 100%"),
        (1000, 1, 0.0, True, "error rate 0.1% (1 of 1000 calls lost) is above the limit of 0%"),
        (0, 0, 0.05, False, "no call was sent to the server"),
    ],
)
def test_the_error_rate_must_not_be_above_the_limit(
    sent: int, failed: int, limit: float, verdict: bool, reason: str
) -> None:
    assert judge(max_error_rate=limit, calls_sent=sent, calls_failed=failed) == Gate(limit, verdict, reason)


def test_the_share_of_lost_tests_must_not_be_above_the_limit_either() -> None:
    gate = judge(max_error_rate=0.05, calls_sent=100, calls_failed=3, tests=20, tests_lost=2)
    assert gate == Gate(0.05, failed=True, reason="10.0% of the LM tests lost (2 of 20) is above the limit of 5%")
    assert judge(max_error_rate=0.05, calls_sent=100, calls_failed=3, tests=20, tests_lost=1).failed is False


def test_both_shares_above_the_limit_are_both_named() -> None:
    gate = judge(max_error_rate=0.05, calls_sent=10, calls_failed=1, tests=10, tests_lost=1)
    assert gate.reason == (
        "error rate 10.0% (1 of 10 calls lost) is above the limit of 5%; "
        "10.0% of the LM tests lost (1 of 10) is above the limit of 5%"
    )


@pytest.mark.parametrize(
    ("categories", "word"),
    [((), "lost"), (("network",), "lost"), (("network", "other"), "failed"), (("auth",), "failed")],
)
def test_calls_are_lost_to_the_network_and_else_they_failed(categories: tuple[str, ...], word: str) -> None:
    gate = judge(max_error_rate=0.05, calls_sent=4, calls_failed=1, categories=categories)
    assert gate.reason == f"error rate 25.0% (1 of 4 calls {word}) is above the limit of 5%"
    assert fate(categories) == word


def test_none_and_all_are_shown_without_decimals() -> None:
    gate = judge(max_error_rate=0.05, calls_sent=2, calls_failed=0, tests=2, tests_lost=2)
    assert gate.reason == "100% of the LM tests lost (2 of 2) is above the limit of 5%"
    gate = judge(max_error_rate=0.05, calls_sent=2, calls_failed=0)
    assert gate.reason == "error rate 0% (0 of 2 calls lost) is within the limit of 5%"


def test_an_interrupted_run_is_not_judged() -> None:
    gate = judge(max_error_rate=0.05, calls_sent=10, calls_failed=10, tests=1, tests_lost=1, interrupted=True)
    assert gate == Gate(0.05, None, "the run was interrupted")


def test_a_limit_is_shown_with_the_decimals_it_has() -> None:
    assert [percent(rate) for rate in (0.05, 0.025, 1.0, 0.0, 0.07)] == ["5%", "2.5%", "100%", "0%", "7%"]
    assert percent(0.000123456) == "0.0123%"


counts = st.integers(1, 5000).flatmap(lambda whole: st.tuples(st.integers(0, whole), st.just(whole)))
#: Limits as they are written: ten-thousandths of a percent, from nothing to all.
limits = st.integers(0, 1_000_000).map(lambda millionth: (millionth, f"{millionth / 10_000:.4f}%"))


@given(counts, limits)
@example((1, 20), (50_000, "5%"))
@example((29, 100), (290_000, "29%"))
@example((333, 1000), (333_000, "33.3%"))
@example((7, 100), (70_000, "7%"))
@example((1, 30), (50_000, "0.05"))
@example((2, 30), (50_000, "0.05"))
def test_a_share_is_judged_as_exact_arithmetic_judges_it(share: tuple[int, int], limit: tuple[int, str]) -> None:
    (part, whole), (millionths, written) = share, limit
    above = Fraction(part, whole) > Fraction(millionths, 1_000_000)
    assert judge(max_error_rate=rate(written), calls_sent=whole, calls_failed=part).failed is above
    of_tests = judge(max_error_rate=rate(written), calls_sent=10**6, calls_failed=0, tests=whole, tests_lost=part)
    assert of_tests.failed is above


@given(counts, st.integers(0, 100))
def test_what_is_tolerated_stays_so_when_less_is_lost(share: tuple[int, int], percents: int) -> None:
    part, whole = share
    most, half, none = (
        judge(max_error_rate=percents / 100, calls_sent=whole, calls_failed=lost).failed
        for lost in (part, part // 2, 0)
    )
    assert most or not half
    assert none is False


def test_rates_of_nothing_are_null() -> None:
    nothing = dict.fromkeys(("error_rate", "disconnect_rate", "first_attempt_failure_rate", "error_rate_ci95"))
    report = report_of([cached("a")])
    assert report["rates"] == nothing
    assert report["gate"] == {"max_error_rate": 0.05, "failed": False, "reason": "no call was sent to the server"}


def test_after_an_interrupt_the_rates_are_those_of_what_was_sent_and_the_gate_is_null() -> None:
    report = report_of([*goods(9), *bads(1)], interrupted=True, llm_tests=10, llm_tests_lost=9)
    assert report["rates"]["error_rate"] == 0.1
    assert report["gate"] == {"max_error_rate": 0.05, "failed": None, "reason": "the run was interrupted"}


def test_numbers_that_may_lack_calls_prove_nothing() -> None:
    gate = judge(max_error_rate=0.05, calls_sent=10, calls_failed=0, unknown="events could not be written")
    assert gate == Gate(
        0.05, failed=True, reason="events could not be written, so nobody knows how many calls were lost"
    )
