"""The gate tolerates its limit and nothing above it, and says why."""

from __future__ import annotations

import pytest

from pytest_lmstudio.record.gate import Gate, judge, percent


@pytest.mark.parametrize(
    ("sent", "failed", "limit", "verdict", "reason"),
    [
        (30, 1, 0.05, False, "error rate 3.3% (1 of 30 calls lost) is within the limit of 5%"),
        (30, 2, 0.05, True, "error rate 6.7% (2 of 30 calls lost) is above the limit of 5%"),
        (60, 3, 0.05, False, "error rate 5.0% (3 of 60 calls lost) is within the limit of 5%"),
        (1995, 100, 0.05, True, "error rate 5.01% (100 of 1995 calls lost) is above the limit of 5%"),
        (100, 29, 0.29, False, "error rate 29.0% (29 of 100 calls lost) is within the limit of 29%"),
        (1, 1, 1.0, False, "error rate 100.0% (1 of 1 calls lost) is within the limit of 100%"),
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


def test_an_interrupted_run_is_not_judged() -> None:
    gate = judge(max_error_rate=0.05, calls_sent=10, calls_failed=10, tests=1, tests_lost=1, interrupted=True)
    assert gate == Gate(0.05, None, "the run was interrupted")


def test_a_limit_is_shown_with_the_decimals_it_has() -> None:
    assert [percent(rate) for rate in (0.05, 0.025, 1.0, 0.0, 0.07)] == ["5%", "2.5%", "100%", "0%", "7%"]
