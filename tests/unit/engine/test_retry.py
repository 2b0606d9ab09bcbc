"""Whether a failed attempt is made again, and the bounds of the wait."""

from __future__ import annotations

import random
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pytest_lmstudio.engine.classify import Failure
from pytest_lmstudio.engine.retry import STRATEGIES, Decision, Retry, decide, decorrelated, exponential
from pytest_lmstudio.errors import KINDS, ErrorKind

LATE = Failure(ErrorKind.TIMEOUT, "late", "waiting")
SHARES = st.floats(0, 1, exclude_max=True)
BASES = st.floats(0, 86_400)
WAITS = st.floats(0, 86_400)


def retry(attempt: int = 1, base_s: float = 0.8, previous_s: float = 0.0, share: float = 0.5) -> Retry:
    return Retry(attempt, ErrorKind.TIMEOUT, "waiting", base_s, previous_s, lambda: share)


@pytest.mark.parametrize(
    ("attempt", "base_s", "most_s"),
    [(1, 0.8, 0.8), (2, 0.8, 1.6), (3, 0.8, 3.2), (4, 0.8, 6.4), (8, 0.8, 60.0), (10**9, 0.8, 60.0), (1, 90.0, 60.0)],
)
def test_exponential_doubles_its_bound_up_to_a_minute(attempt: int, base_s: float, most_s: float) -> None:
    assert exponential(retry(attempt, base_s, share=1.0)) == pytest.approx(most_s)
    assert exponential(retry(attempt, base_s, share=0.25)) == pytest.approx(most_s / 4)
    assert exponential(retry(attempt, base_s, share=0.0)) == 0.0


@pytest.mark.parametrize(
    ("base_s", "previous_s", "least_s", "most_s"),
    [
        (0.8, 0.0, 0.8, 2.4),
        (0.8, 2.0, 0.8, 6.0),
        (0.8, 0.1, 0.8, 0.8),
        (0.8, 50.0, 0.8, 60.0),
        (90.0, 0.0, 60.0, 60.0),
        (0.0, 0.0, 0.0, 0.0),
    ],
)
def test_decorrelated_lies_between_base_and_three_times_the_wait_before(
    base_s: float, previous_s: float, least_s: float, most_s: float
) -> None:
    assert decorrelated(retry(2, base_s, previous_s, share=0.0)) == pytest.approx(least_s)
    assert decorrelated(retry(2, base_s, previous_s, share=1.0)) == pytest.approx(most_s)


@given(st.integers(1, 10**9), BASES, WAITS, SHARES)
def test_no_wait_leaves_its_bounds(attempt: int, base_s: float, previous_s: float, share: float) -> None:
    facts = retry(attempt, base_s, previous_s, share)
    assert 0 <= exponential(facts) <= min(60.0, base_s * 2.0 ** min(attempt - 1, 60))
    assert min(60.0, base_s) <= decorrelated(facts) <= 60.0
    assert decorrelated(facts) <= max(base_s, 3 * (previous_s or base_s)) * (1 + 1e-9)


@pytest.mark.parametrize("name", STRATEGIES)
def test_the_jitter_is_random_by_default(name: str) -> None:
    facts = Retry(3, ErrorKind.TIMEOUT, "waiting", 0.8, 1.0)
    random.seed(1)
    first = [STRATEGIES[name](facts) for _ in range(20)]
    random.seed(1)
    assert [STRATEGIES[name](facts) for _ in range(20)] == first
    assert len(set(first)) == 20


@pytest.mark.parametrize("kind", ErrorKind)
def test_only_kinds_that_can_pass_are_tried_again(kind: ErrorKind) -> None:
    failure = Failure(kind, "")
    assert decide(failure, retry(), retries=3, strategy=exponential).again is KINDS[kind].retried
    assert decide(replace(failure, forgiven=True), retry(), retries=3, strategy=exponential) == Decision(
        again=True, wait_s=0.4
    )


@pytest.mark.parametrize(("retries", "attempts"), [(0, 1), (3, 4), (5, 6)])
def test_retries_come_after_the_first_attempt(retries: int, attempts: int) -> None:
    made = 1
    while decide(LATE, retry(made), retries=retries, strategy=exponential).again:
        made += 1
    assert made == attempts


@pytest.mark.parametrize(
    ("asked_s", "decision"),
    [
        (None, Decision(again=True, wait_s=0.4)),
        (0.0, Decision(again=True, wait_s=0.4)),
        (0.1, Decision(again=True, wait_s=0.4)),
        (30.0, Decision(again=True, wait_s=30.0)),
        (120.0, Decision(again=True, wait_s=120.0)),
        (120.001, Decision(again=False, wait_s=0.0)),
        (1e9, Decision(again=False, wait_s=0.0)),
    ],
)
def test_retry_after_is_obeyed_up_to_two_minutes(asked_s: float | None, decision: Decision) -> None:
    failure = Failure(ErrorKind.RATE_LIMITED, "", retry_after_s=asked_s)
    assert decide(failure, retry(), retries=3, strategy=exponential) == decision


@pytest.mark.parametrize(
    ("told_s", "wait_s"), [(-5.0, 0.0), (7, 7.0), (1e9, 60.0), (float("inf"), 60.0), (float("nan"), 0.0)]
)
def test_a_users_strategy_is_kept_within_bounds(told_s: float, wait_s: float) -> None:
    decision = decide(LATE, retry(), retries=3, strategy=lambda _: told_s)
    assert decision == Decision(again=True, wait_s=wait_s)


def test_a_strategy_knows_what_went_before() -> None:
    seen: list[Retry] = []

    def strategy(facts: Retry) -> float:
        seen.append(facts)
        return 1.0

    decide(LATE, retry(2, 0.5, 3.0), retries=3, strategy=strategy)
    assert [(s.attempt, s.kind, s.phase, s.base_s, s.previous_s) for s in seen] == [(2, "timeout", "waiting", 0.5, 3.0)]
