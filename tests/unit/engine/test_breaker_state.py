"""The state of the circuit breaker keeps to its rules, whatever the order in which attempts start and end."""

from __future__ import annotations

import struct
from dataclasses import dataclass

import hypothesis.strategies as st
import pytest
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from pytest_lmstudio.engine.breaker import Admission, BreakerState, Phase
from pytest_lmstudio.settings import BreakerLimits

LIMITS = BreakerLimits(3, 30.0)
PROBE_S = 45.0
LOST_AFTER_S = PROBE_S + 5.0
CLOSED, OPEN, PROBING, GIVEN_UP = Phase


PAUSED = BreakerState(OPEN, failures=3, pauses=1, trips=1, counted_at_s=100.0, until_s=130.0, opened_at_s=100.0)
AWAITED = PAUSED._replace(phase=PROBING, until_s=180.0)
HOPELESS = AWAITED._replace(phase=GIVEN_UP, pauses=3, trips=3)


def test_memory_that_nobody_wrote_is_a_closed_breaker() -> None:
    assert BreakerState(*struct.unpack("<4I4d", bytes(48))) == BreakerState()
    assert BreakerState().phase == CLOSED


def test_a_closed_breaker_admits_everybody_and_one_that_gave_up_nobody_however_late() -> None:
    assert BreakerState().admit(0.0, PROBE_S) == (BreakerState(), ("go", 0.0))
    assert HOPELESS.admit(1e9, PROBE_S) == (HOPELESS, ("give_up", 0.0))


@pytest.mark.parametrize(("state", "end_s"), [(PAUSED, 130.0), (AWAITED, 180.0)], ids=["a pause", "a probe"])
def test_a_wait_is_as_long_as_what_is_left_and_then_one_may_probe(state: BreakerState, end_s: float) -> None:
    assert state.admit(end_s - 12.5, PROBE_S) == (state, ("wait", 12.5))
    assert state.admit(end_s, 45.0) == (state._replace(phase=PROBING, until_s=end_s + 50.0), ("probe", 0.0))


def test_an_attempt_that_began_before_the_last_counted_failure_does_not_count() -> None:
    state = BreakerState(failures=1, counted_at_s=100.0)
    assert state.failed(99.875, 101.0, LIMITS, probe=False) == state
    assert state.failed(100.0, 101.0, LIMITS, probe=False) == BreakerState(failures=2, counted_at_s=101.0)


@pytest.mark.parametrize("state", [PAUSED, HOPELESS], ids=["open", "given up"])
def test_a_probe_that_fails_when_nobody_waits_for_one_any_more_changes_nothing(state: BreakerState) -> None:
    assert state.failed(101.0, 140.0, LIMITS, probe=True) == state


def test_a_probe_that_fails_after_another_attempt_closed_the_breaker_is_one_failure() -> None:
    closed = AWAITED.succeeded(140.0)
    assert closed.failed(130.0, 141.0, LIMITS, probe=True) == closed._replace(failures=1, counted_at_s=141.0)


def test_an_attempt_that_fails_while_a_probe_is_awaited_changes_nothing() -> None:
    assert AWAITED.failed(99.0, 140.0, LIMITS, probe=False) == AWAITED


def test_only_a_probe_that_is_awaited_is_taken_back() -> None:
    for state in (BreakerState(), PAUSED, HOPELESS):
        assert state.unprobed(140.0) == state
    assert AWAITED.unprobed(140.0) == AWAITED._replace(until_s=140.0)


def test_a_success_forgets_all_but_the_pauses_of_the_run() -> None:
    assert BreakerState(failures=2, trips=4, counted_at_s=9.0, paused_s=50.0).succeeded(10.0) == BreakerState(
        trips=4, paused_s=50.0
    )
    for state in (PAUSED, AWAITED, HOPELESS):
        ended = state._replace(paused_s=50.0).succeeded(140.0)
        assert ended == BreakerState(trips=state.trips, paused_s=90.0)


def test_the_pauses_in_a_row_are_counted_from_the_first_and_the_fourth_is_none() -> None:
    state = BreakerState(failures=2, counted_at_s=90.0).failed(95.0, 100.0, LIMITS, probe=False)
    assert state == PAUSED
    for n, at_s in enumerate((140.0, 180.0), 2):
        state = state._replace(phase=PROBING).failed(at_s, at_s, LIMITS, probe=True)
        assert state == PAUSED._replace(pauses=n, trips=n, until_s=at_s + 30.0)
    assert state._replace(phase=PROBING).failed(220.0, 220.0, LIMITS, probe=True) == state._replace(phase=GIVEN_UP)


def test_counts_that_are_too_high_already_open_the_breaker_or_end_it() -> None:
    assert BreakerState(failures=7).failed(1.0, 2.0, LIMITS, probe=False).phase == OPEN
    assert AWAITED._replace(pauses=7).failed(131.0, 140.0, LIMITS, probe=True).phase == GIVEN_UP


# -- steps in any order -----------------------------------------------------------------------------


@dataclass(eq=False)
class Flight:
    """An attempt that was let through."""

    started_s: float
    probe: bool


class BreakerRules(RuleBasedStateMachine):
    """The contract's words, kept as plain facts: what happened since the last success, and who probes."""

    def __init__(self) -> None:
        super().__init__()
        self.now_s = 1000.0
        self.state = BreakerState()
        self.flights: list[Flight] = []
        self.counted: list[float] = []  # when each counted failure since the last success happened
        self.pauses: list[float] = []  # when each pause since the last success began
        self.prober: Flight | None = None
        self.all_pauses, self.paused_s = 0, 0.0

    @property
    def paused(self) -> bool:
        return bool(self.pauses)

    @property
    def given_up(self) -> bool:
        return len(self.pauses) > 3

    def expected(self) -> Admission:
        if not self.paused:
            return Admission("go")
        if self.given_up:
            return Admission("give_up")
        if self.prober is not None:
            left_s = self.prober.started_s + LOST_AFTER_S - self.now_s
            return Admission("wait", left_s) if left_s > 0 else Admission("probe")
        left_s = self.pauses[-1] + LIMITS.pause_s - self.now_s
        return Admission("wait", left_s) if left_s > 0 else Admission("probe")

    @rule(seconds=st.sampled_from([0.0, 0.25, 1.0, 10.0, 29.75, 30.0, 50.0]))
    def time_passes(self, seconds: float) -> None:
        self.now_s += seconds
        for flight in [flight for flight in self.flights if self.now_s - flight.started_s > PROBE_S]:
            self.flights.remove(flight)  # an attempt cannot outlive its hard limit; one that died tells nothing

    @rule()
    def somebody_asks(self) -> None:
        expected = self.expected()
        self.state, admission = self.state.admit(self.now_s, PROBE_S)
        assert admission == expected
        if admission.verdict in {"go", "probe"}:
            flight = Flight(self.now_s, admission.verdict == "probe")
            self.flights.append(flight)
            self.prober = flight if flight.probe else self.prober

    @precondition(lambda self: self.flights)
    @rule(data=st.data())
    def an_attempt_succeeds(self, data: st.DataObject) -> None:
        self.flights.remove(data.draw(st.sampled_from(self.flights)))
        self.state = self.state.succeeded(self.now_s)
        self.paused_s += self.now_s - self.pauses[0] if self.pauses else 0.0
        self.counted, self.pauses, self.prober = [], [], None

    @precondition(lambda self: self.flights)
    @rule(data=st.data())
    def an_attempt_fails(self, data: st.DataObject) -> None:
        flight = data.draw(st.sampled_from(self.flights))
        self.flights.remove(flight)
        self.state = self.state.failed(flight.started_s, self.now_s, LIMITS, probe=flight.probe)
        if self.paused:
            if flight.probe and self.prober is not None:
                self.pause()
        elif not any(flight.started_s < at for at in self.counted):  # none of those counted was in flight with it
            self.counted.append(self.now_s)
            if len(self.counted) == LIMITS.failures:
                self.pause()

    @precondition(lambda self: self.prober in self.flights)
    @rule()
    def the_probe_is_given_up_without_a_result(self) -> None:
        assert self.prober is not None
        self.flights.remove(self.prober)
        self.state = self.state.unprobed(self.now_s)
        self.prober.started_s = self.now_s - LOST_AFTER_S  # whoever asks next may probe

    @precondition(lambda self: self.flights)
    @rule(data=st.data())
    def an_attempt_dies_with_its_process(self, data: st.DataObject) -> None:
        self.flights.remove(data.draw(st.sampled_from(self.flights)))

    def pause(self) -> None:
        self.prober = None
        self.pauses.append(self.now_s)
        self.all_pauses += not self.given_up

    @invariant()
    def phase_and_counts_are_those_of_the_words(self) -> None:
        phase = GIVEN_UP if self.given_up else PROBING if self.prober else OPEN if self.paused else CLOSED
        assert self.state.phase == phase
        assert self.state.pauses == min(3, len(self.pauses))
        assert self.state.trips == self.all_pauses
        assert self.state.paused_s == self.paused_s
        assert phase != CLOSED or self.state.failures == len(self.counted)


TestBreakerRules = BreakerRules.TestCase
