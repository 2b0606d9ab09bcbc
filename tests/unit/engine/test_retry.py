"""Whether a failed attempt is made again, and the bounds of the wait."""

from __future__ import annotations

import asyncio
import random
from datetime import timedelta
from typing import TYPE_CHECKING

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pytest_lmstudio.engine.failure import Failure
from pytest_lmstudio.engine.retry import (
    STRATEGIES,
    Decision,
    OwnStrategy,
    Retry,
    decide,
    decorrelated,
    exponential,
    pause,
)
from pytest_lmstudio.errors import KINDS, ErrorKind

if TYPE_CHECKING:
    from collections.abc import Callable

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


def test_before_the_first_retry_nothing_was_waited_for() -> None:
    facts = Retry(1, ErrorKind.TIMEOUT, "waiting", 0.8, random=lambda: 1.0)
    assert facts.previous_s == 0.0
    assert decorrelated(facts) == pytest.approx(2.4)


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
    assert decide(failure._replace(forgiven=True), retry(), retries=3, strategy=exponential) == Decision(
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


@pytest.mark.parametrize(("told_s", "wait_s"), [(0, 0.0), (7, 7.0), (0.5, 0.5), (1e9, 60.0), (10**400, 60.0)])
def test_a_users_strategy_is_obeyed_up_to_a_minute(told_s: float, wait_s: float) -> None:
    decision = decide(LATE, retry(), retries=3, strategy=OwnStrategy("mine", lambda _: told_s))
    assert decision == Decision(again=True, wait_s=wait_s)


MINE = "the retry strategy 'mine' of the hook pytest_lmstudio_retry_strategy "


@pytest.mark.parametrize(
    ("told", "shown"),
    [
        (None, "None"),
        (float("nan"), "nan"),
        (float("inf"), "inf"),
        (-0.5, "-0.5"),
        (-5.0, "-5.0"),
        (-(10**400), "-1" + "0" * 400),
        (True, "a bool"),
        ("5", "a str"),
        ([1], "a list"),
        (5j, "a complex"),
        (timedelta(seconds=1), "a timedelta"),
    ],
    ids=str,
)
def test_what_is_no_time_to_wait_ends_the_call_and_names_the_hook(told: object, shown: str) -> None:
    decision = decide(LATE, retry(), retries=3, strategy=OwnStrategy("mine", lambda _: told))
    assert decision == Decision(again=False, wait_s=0.0, problem=f"{MINE}returned {shown}")


class Hostile(Exception):
    """An exception that cannot be shown."""

    def __str__(self) -> str:
        raise ValueError


@pytest.mark.parametrize(
    ("error", "shown"),
    [
        (LookupError("not\x1b[31m there"), r"LookupError: not\x1b[31m there (test_retry.py:{})"),
        (SystemExit(3), "SystemExit: 3 (test_retry.py:{})"),
        (KeyboardInterrupt(), "KeyboardInterrupt (test_retry.py:{})"),
        (pytest.fail.Exception("no"), "Failed: no (test_retry.py:{})"),
        (asyncio.CancelledError("stop"), "asyncio.exceptions.CancelledError: stop (test_retry.py:{})"),
        (Hostile(), "tests.unit.engine.test_retry.Hostile: <exception str() failed> (test_retry.py:{})"),
    ],
    ids=lambda value: type(value).__name__,
)
def test_what_a_users_strategy_raises_ends_the_call_and_is_told_with_its_place(
    error: BaseException, shown: str
) -> None:
    def strategy(_: Retry) -> float:
        raise error

    place = strategy.__code__.co_firstlineno + 1
    decision = decide(LATE, retry(), retries=3, strategy=OwnStrategy("mine", strategy))
    assert decision == Decision(again=False, problem=f"{MINE}raised {shown.format(place)}")


def test_the_place_is_where_it_was_raised_however_deep() -> None:
    def look_up() -> float:
        raise LookupError

    def strategy(_: Retry) -> float:
        return 2 * look_up()

    place = look_up.__code__.co_firstlineno + 1
    decision = decide(LATE, retry(), retries=3, strategy=OwnStrategy("mine", strategy))
    assert decision.problem == f"{MINE}raised LookupError (test_retry.py:{place})"


def noted(error: Exception) -> Exception:
    error.add_note("see the\nsecond table")
    return error


@pytest.mark.parametrize(
    ("error", "said"),
    [
        (noted(LookupError("no table")), "LookupError: no table"),
        (noted(SyntaxError("bad", ("their.py", 3, 1, "x ="))), "SyntaxError: bad"),
        (LookupError("x" * 187), "LookupError: " + "x" * 187),
        (LookupError("x" * 188), "LookupError: " + "x" * 184 + "..."),
    ],
    ids=["a note", "a note and a place", "200 characters", "201 characters"],
)
def test_what_a_users_code_raised_is_told_by_what_it_says_itself_at_most_200_characters(
    error: Exception, said: str
) -> None:
    def strategy(_: Retry) -> float:
        raise error

    place = strategy.__code__.co_firstlineno + 1
    decision = decide(LATE, retry(), retries=3, strategy=OwnStrategy("mine", strategy))
    assert decision.problem == f"{MINE}raised {said} (test_retry.py:{place})"


def test_a_strategy_is_not_asked_when_no_retry_is_left_or_useful() -> None:
    asked = OwnStrategy("mine", lambda _: 1 / 0)
    for failure, attempt in (
        (LATE, 4),
        (Failure(ErrorKind.BAD_REQUEST, ""), 1),
        (Failure(ErrorKind.RATE_LIMITED, "", retry_after_s=121.0), 1),
    ):
        assert decide(failure, retry(attempt), retries=3, strategy=asked) == Decision(again=False)


@given(st.integers(1, 10**6), BASES, st.integers(0, 2**64), st.sampled_from(sorted(STRATEGIES)))
def test_the_same_seed_gives_the_same_waits(attempt: int, base_s: float, seed: int, name: str) -> None:
    def waits() -> list[float]:
        source, found, previous_s = random.Random(seed), [], 0.0
        for number in range(attempt, attempt + 5):
            facts = Retry(number, ErrorKind.TIMEOUT, "waiting", base_s, previous_s, source.random)
            previous_s = STRATEGIES[name](facts)
            found.append(previous_s)
        return found

    assert waits() == waits()


@given(st.floats(0, 120), st.floats(0, 1, exclude_max=True), st.floats(0, 100))
def test_a_server_that_asks_for_time_gets_at_least_that(asked_s: float, share: float, base_s: float) -> None:
    failure = Failure(ErrorKind.RATE_LIMITED, "", retry_after_s=asked_s)
    facts = retry(base_s=base_s, share=share)
    assert decide(failure, facts, retries=3, strategy=exponential) == Decision(
        again=True, wait_s=max(asked_s, exponential(facts))
    )


def test_full_jitter_is_spread_over_the_whole_of_its_bound() -> None:
    source = random.Random(1)
    facts = [Retry(2, ErrorKind.TIMEOUT, "waiting", 0.8, 0.0, source.random) for _ in range(4000)]
    waits = [exponential(one) for one in facts]
    assert 0 <= min(waits) < 0.01
    assert 1.59 < max(waits) <= 1.6
    assert sum(waits) / len(waits) == pytest.approx(0.8, abs=0.02)


class Clock:
    """A clock that sleeping moves."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.now_s = 100.0
        self.naps: list[float] = []
        monkeypatch.setattr("pytest_lmstudio.engine.retry.time.monotonic", lambda: self.now_s)
        monkeypatch.setattr("pytest_lmstudio.engine.retry.asyncio.sleep", self.nap)

    async def nap(self, seconds: float) -> None:
        self.naps.append(seconds)
        self.now_s += seconds


def paused(seconds: float, useful: Callable[[], bool]) -> None:
    """Drive a pause without a loop: with a faked sleep it never waits."""
    with pytest.raises(StopIteration):
        pause(seconds, useful).send(None)


@pytest.mark.parametrize("seconds", [0.0, 0.25, 1.0, 2.5, 120.0])
def test_a_pause_is_as_long_as_it_was_meant(monkeypatch: pytest.MonkeyPatch, seconds: float) -> None:
    clock = Clock(monkeypatch)
    paused(seconds, lambda: True)
    assert sum(clock.naps) == pytest.approx(seconds)
    assert max(clock.naps, default=0.0) <= 1.0


def test_a_pause_ends_within_a_second_once_there_is_no_use_in_it(monkeypatch: pytest.MonkeyPatch) -> None:
    clock = Clock(monkeypatch)
    paused(120.0, lambda: clock.now_s < 102.5)
    assert clock.naps == [1.0, 1.0, 1.0]


def test_a_strategy_knows_what_went_before() -> None:
    seen: list[Retry] = []

    def strategy(facts: Retry) -> float:
        seen.append(facts)
        return 1.0

    decide(LATE, retry(2, 0.5, 3.0), retries=3, strategy=strategy)
    assert [(s.attempt, s.kind, s.phase, s.base_s, s.previous_s) for s in seen] == [(2, "timeout", "waiting", 0.5, 3.0)]
