"""Backpressure keeps to its rules, whatever the order in which requests start and end."""

from __future__ import annotations

import itertools
import struct
from dataclasses import dataclass
from types import SimpleNamespace
from typing import TYPE_CHECKING

import hypothesis.strategies as st
import pytest
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from pytest_lmstudio.engine import pressure as room
from pytest_lmstudio.engine.pressure import Pressure, PressureState
from pytest_lmstudio.engine.shared import PRESSURE_AT, Shared

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

MOST, THRESHOLD_S = 8, 2.0


class Clock:
    """Time that passes when told."""

    def __init__(self) -> None:
        self.now_s = 1000.0

    def later(self, seconds: float = 1.0) -> float:
        self.now_s += seconds
        return self.now_s


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    clock = Clock()
    monkeypatch.setattr(room, "time", SimpleNamespace(monotonic=lambda: clock.now_s))
    return clock


@pytest.fixture
def pair(tmp_path: Path) -> Iterator[tuple[Shared, Shared]]:
    pair = Shared(tmp_path, MOST), Shared(tmp_path, MOST)
    yield pair
    for shared in pair:
        shared.close()


Changes = list[tuple[int, int, str]]


def pressure(shared: Shared, changes: Changes, threshold_s: float | None = THRESHOLD_S) -> Pressure:
    return Pressure(shared, MOST, threshold_s, lambda before, now, why: changes.append((before, now, why)))


def test_off_is_off(clock: Clock) -> None:
    shared, changes = Shared(None, MOST), Changes()
    it = pressure(shared, changes, None)
    it.lost(clock.later())
    it.answered(clock.later(), 500.0)
    assert (it.limit, changes, bytes(shared.memory)) == (MOST, [], bytes(len(shared.memory)))


def test_a_limit_that_stays_is_not_announced(clock: Clock) -> None:
    changes = Changes()
    it = Pressure(Shared(None, 1000), 1000, THRESHOLD_S, lambda *change: changes.append(change))
    it.answered(clock.later(), 0.1)
    assert (it.limit, changes) == (1000, [])


def test_a_storm_of_errors_over_all_workers_cuts_once_a_round_down_to_one(
    clock: Clock, pair: tuple[Shared, Shared]
) -> None:
    changes = Changes()
    workers = [pressure(shared, changes) for shared in pair]
    limits = []
    for _ in range(5):
        starts = [clock.later(0.01) for _ in range(workers[0].limit)]
        for n, started_s in enumerate(starts):
            clock.later()
            workers[n % 2].lost(started_s)
        limits.append(workers[1].limit)
    assert limits == [4, 2, 1, 1, 1]
    assert changes == [(8, 4, "errors"), (4, 2, "errors"), (2, 1, "errors")]


def test_good_answers_add_one_a_round_until_the_limit_is_what_it_was(clock: Clock, pair: tuple[Shared, Shared]) -> None:
    changes = Changes()
    workers = [pressure(shared, changes) for shared in pair]
    for _ in range(3):
        workers[0].lost(clock.later())
        clock.later()
    assert workers[1].limit == 1
    changes.clear()
    rounds = []
    while workers[0].limit < MOST:
        for n in range(workers[0].limit):
            workers[n % 2].answered(clock.later(), 0.1)
        rounds.append(workers[1].limit)
        assert len(rounds) < 20
    assert rounds == sorted(rounds)
    assert max(after - before for before, after in itertools.pairwise(rounds)) == 1
    assert changes == [(n, n + 1, "recovery") for n in range(1, MOST)]
    for _ in range(100):
        workers[0].answered(clock.later(), 0.1)
    assert workers[0].limit == MOST


def test_one_slow_answer_is_no_mean_and_a_round_of_them_is(clock: Clock) -> None:
    changes = Changes()
    it = pressure(Shared(None, MOST), changes)
    for n in range(MOST):
        assert it.limit == MOST
        it.answered(clock.later(), 3.0)
        assert len(changes) == (n == MOST - 1)
    assert changes == [(8, 4, "latency")]


def test_after_many_fast_answers_the_mean_needs_several_slow_ones(clock: Clock) -> None:
    changes = Changes()
    it = pressure(Shared(None, MOST), changes)
    for _ in range(50):
        it.answered(clock.later(), 1.0)
    slow = 0
    while not changes:
        it.answered(clock.later(), 3.0)
        slow += 1
    assert (slow, changes) == (4, [(8, 4, "latency")])  # 1.4, 1.72, 1.976, 2.18 s


def test_what_was_sent_before_a_cut_neither_raises_nor_lowers_the_limit(clock: Clock) -> None:
    changes = Changes()
    it = pressure(Shared(None, MOST), changes)
    old = [clock.later(0.01) for _ in range(MOST)]
    it.lost(old[0])
    clock.later()
    for started_s in old[1:4]:
        it.lost(started_s)
    for started_s in old[4:]:
        it.answered(started_s, 0.1)
    assert (it.limit, changes) == (4, [(8, 4, "errors")])


@pytest.mark.parametrize(
    "state",
    [
        (float("nan"), 0.0, 0.0, 0),
        (float("inf"), 0.0, 0.0, 0),
        (0.5, 0.0, 0.0, 0),
        (-3.0, 0.0, 0.0, 0),
        (9.0, 0.0, 0.0, 0),
        (4.0, float("nan"), 0.0, 0),
        (4.0, 0.0, 1e12, 0),
        (4.0, 0.0, float("nan"), 0),
    ],
)
def test_a_state_that_cannot_be_is_as_good_as_none(clock: Clock, state: tuple[float, float, float, int]) -> None:
    shared = Shared(None, MOST)
    shared.put(PRESSURE_AT, struct.pack("<dddI", *state))
    it = pressure(shared, [])
    assert it.limit == MOST
    it.lost(clock.later())
    assert it.limit == MOST // 2


# -- each step alone -------------------------------------------------------------------------------

STEADY = PressureState(limit=4.0, mean_s=1.0, cut_at_s=100.0, answers=3)


def answered(state: PressureState, started_s: float, latency_s: float) -> PressureState:
    return state.answered(started_s, 110.0, latency_s, threshold_s=THRESHOLD_S, most=MOST)


def test_a_run_begins_without_answers_and_without_a_cut() -> None:
    assert PressureState(limit=8.0) == PressureState(limit=8.0, mean_s=0.0, cut_at_s=0.0, answers=0)


def test_the_first_answer_is_the_mean_and_each_later_one_moves_it_by_a_fifth() -> None:
    first = answered(PressureState(limit=4.0), 100.0, 1.5)
    assert first == PressureState(limit=4.25, mean_s=1.5, answers=1)
    assert answered(STEADY, 105.0, 1.5) == PressureState(limit=4.25, mean_s=1.1, cut_at_s=100.0, answers=4)


def test_a_mean_at_the_threshold_is_good_enough() -> None:
    assert answered(PressureState(limit=1.0), 100.0, THRESHOLD_S).limit == 2.0
    assert answered(PressureState(limit=1.0), 100.0, THRESHOLD_S + 0.125) == PressureState(limit=1.0, cut_at_s=110.0)


def test_a_slow_mean_cuts_the_limit_when_as_many_answered_as_may_be_in_flight() -> None:
    slow = PressureState(limit=4.5, mean_s=2.5, cut_at_s=100.0, answers=2)
    assert answered(slow, 105.0, 2.5) == PressureState(limit=4.5, mean_s=2.5, cut_at_s=100.0, answers=3)
    assert answered(answered(slow, 105.0, 2.5), 105.0, 2.5) == PressureState(limit=2.25, cut_at_s=110.0)


def test_what_was_sent_in_the_moment_of_the_cut_counts_and_what_was_sent_before_does_not() -> None:
    assert answered(STEADY, 99.875, 50.0) == STEADY.lost(99.875, 110.0) == STEADY
    assert answered(STEADY, 100.0, 1.0).answers == 4
    assert STEADY.lost(100.0, 110.0) == PressureState(limit=2.0, cut_at_s=110.0)


def test_the_limit_stops_at_its_bounds() -> None:
    assert answered(PressureState(limit=7.9375), 100.0, 0.1).limit == 8.0
    assert PressureState(limit=1.5).cut(110.0) == PressureState(limit=1.0, cut_at_s=110.0)


def test_the_count_of_answers_does_not_overflow() -> None:
    full = PressureState(limit=8.0, mean_s=1.0, answers=2**32 - 1)
    assert full.answered(1.0, 2.0, 1.0, threshold_s=THRESHOLD_S, most=MOST).answers == 2**32 - 1


# -- in any order -----------------------------------------------------------------------------------


@dataclass(eq=False)
class Flight:
    """A request in flight, sent while so many cuts had happened."""

    started_s: float
    cuts: int


class PressureRules(RuleBasedStateMachine):
    """Requests start, and are answered fast, slowly, or never; the rules are told by what the limit did."""

    def __init__(self) -> None:
        super().__init__()
        self.now_s = 1000.0
        self.state = PressureState(limit=float(MOST))
        self.flights: list[Flight] = []
        self.cuts = 0

    def change(self, state: PressureState) -> None:
        self.before, self.state = self.state, state
        self.cuts += state.limit < self.before.limit or state.cut_at_s > self.before.cut_at_s

    def land(self, data: st.DataObject) -> Flight:
        flight = data.draw(st.sampled_from(self.flights))
        self.flights.remove(flight)
        return flight

    @rule(seconds=st.sampled_from([0.125, 1.0, 60.0]))
    def time_passes(self, seconds: float) -> None:
        self.now_s += seconds

    @precondition(lambda self: len(self.flights) < int(self.state.limit))
    @rule()
    def one_is_sent(self) -> None:
        self.now_s += 0.001
        self.flights.append(Flight(self.now_s, self.cuts))

    @precondition(lambda self: self.flights)
    @rule(data=st.data(), latency_s=st.sampled_from([0.1, 1.9, 2.0, 2.1, 50.0]))
    def one_is_answered(self, data: st.DataObject, latency_s: float) -> None:
        flight = self.land(data)
        self.now_s += 0.001
        self.change(self.state.answered(flight.started_s, self.now_s, latency_s, threshold_s=THRESHOLD_S, most=MOST))
        if flight.cuts < self.cuts - (self.state.cut_at_s > self.before.cut_at_s):
            assert self.state == self.before  # it was in flight with those that caused the last cut
        elif self.state.mean_s and self.state.mean_s <= THRESHOLD_S:
            assert self.state.limit == min(MOST, self.before.limit + 1 / self.before.limit)
        else:
            assert self.state.limit in {self.before.limit, max(1.0, self.before.limit / 2)}

    @precondition(lambda self: self.flights)
    @rule(data=st.data())
    def one_is_lost(self, data: st.DataObject) -> None:
        flight, cuts = self.land(data), self.cuts
        self.now_s += 0.001
        self.change(self.state.lost(flight.started_s, self.now_s))
        halved = max(1.0, self.before.limit / 2)
        assert self.state.limit == (halved if flight.cuts == cuts else self.before.limit)

    @invariant()
    def the_limit_stays_within_its_bounds(self) -> None:
        assert 1.0 <= self.state.limit <= MOST
        assert self.state.mean_s >= 0.0


TestPressureRules = PressureRules.TestCase
