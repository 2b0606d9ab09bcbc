"""The circuit breaker keeps to its rules, whatever the order in which attempts start and end."""

from __future__ import annotations

import asyncio
import struct
from dataclasses import astuple, dataclass
from types import SimpleNamespace
from typing import TYPE_CHECKING

import hypothesis.strategies as st
import pytest
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from pytest_lmstudio.engine import breaker as room
from pytest_lmstudio.engine.breaker import Admission, Breaker, BreakerState
from pytest_lmstudio.engine.shared import BREAKER_AT, Shared
from pytest_lmstudio.errors import ErrorKind
from pytest_lmstudio.settings import BreakerLimits

if TYPE_CHECKING:
    from pathlib import Path

LIMITS = BreakerLimits(3, 30.0)
PROBE_S = 45.0
LOST_AFTER_S = PROBE_S + 5.0
CLOSED, OPEN, PROBING, GIVEN_UP = range(4)
KIND = ErrorKind.DISCONNECT


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
            return Admission("wait", min(0.05, left_s)) if left_s > 0 else Admission("probe")
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


# -- the breaker of a run --------------------------------------------------------------------------


class Clock:
    """Time that passes only by sleeping."""

    def __init__(self) -> None:
        self.now_s = 1000.0

    def monotonic(self) -> float:
        return self.now_s

    async def sleep(self, seconds: float) -> None:
        assert seconds > 0
        self.now_s += seconds


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    clock = Clock()
    monkeypatch.setattr(room, "time", SimpleNamespace(monotonic=clock.monotonic))
    monkeypatch.setattr(room, "asyncio", SimpleNamespace(sleep=clock.sleep))
    return clock


def breaker(shared: Shared, limits: BreakerLimits | None, changes: list[tuple[int, int]]) -> Breaker:
    return Breaker(shared, limits, lambda before, after, _: changes.append((before.phase, after.phase)))


def trip(it: Breaker, clock: Clock, times: int = LIMITS.failures) -> None:
    for _ in range(times):
        clock.now_s += 1
        it.failed(clock.now_s, KIND, probe=False)


def test_a_dead_server_holds_a_call_for_three_pauses_and_then_no_longer(clock: Clock) -> None:
    changes: list[tuple[int, int]] = []
    it = breaker(Shared(None, 4), LIMITS, changes)
    trip(it, clock)
    began_s, probes = clock.now_s, 0
    while asyncio.run(it.admitted(PROBE_S)):
        assert it.ask(PROBE_S) == Admission("probe")
        it.failed(clock.now_s, KIND, probe=True)
        probes += 1
    assert (probes, clock.now_s - began_s) == (3, 90.0)
    assert it.ask(PROBE_S) == Admission("give_up")
    assert changes == [(CLOSED, OPEN), (PROBING, OPEN), (PROBING, OPEN), (PROBING, GIVEN_UP)]


def test_a_probe_that_succeeds_lets_everybody_go(clock: Clock) -> None:
    changes: list[tuple[int, int]] = []
    it = breaker(Shared(None, 4), LIMITS, changes)
    trip(it, clock)
    assert asyncio.run(it.admitted(PROBE_S))
    assert [it.ask(PROBE_S).verdict for _ in range(3)] == ["probe", "wait", "wait"]
    it.succeeded(probe=True)
    assert [it.ask(PROBE_S).verdict for _ in range(3)] == ["go", "go", "go"]
    assert changes == [(CLOSED, OPEN), (PROBING, CLOSED)]


def test_an_answer_to_a_request_sent_before_the_breaker_gave_up_resumes(clock: Clock) -> None:
    it = breaker(Shared(None, 4), LIMITS, [])
    trip(it, clock)
    while asyncio.run(it.admitted(PROBE_S)):
        it.ask(PROBE_S)
        it.failed(clock.now_s, KIND, probe=True)
    it.succeeded(probe=False)
    assert asyncio.run(it.admitted(PROBE_S))
    assert it.ask(PROBE_S) == Admission("go")


def test_a_closed_breaker_admits_everybody_and_one_that_gave_up_nobody_however_late() -> None:
    closed, given_up = BreakerState(), BreakerState(phase=GIVEN_UP, until_s=10.0)
    assert closed.admit(0.0, PROBE_S) == (closed, Admission("go"))
    assert given_up.admit(1e9, PROBE_S) == (given_up, Admission("give_up"))


def test_a_breaker_that_is_off_lets_everything_through(clock: Clock) -> None:
    it = breaker(Shared(None, 4), None, [])
    trip(it, clock, times=50)
    it.succeeded(probe=False)
    assert asyncio.run(it.admitted(PROBE_S))
    assert it.ask(PROBE_S) == Admission("go")


def test_processes_count_together_probe_one_at_a_time_and_announce_once(clock: Clock, tmp_path: Path) -> None:
    changes: list[tuple[int, int]] = []
    one, two = (Shared(tmp_path, 4) for _ in range(2))
    here, there = breaker(one, LIMITS, changes), breaker(two, LIMITS, changes)
    trip(here, clock, times=2)
    assert there.ask(PROBE_S) == Admission("go")
    trip(there, clock, times=1)
    assert here.ask(PROBE_S) == Admission("wait", LIMITS.pause_s)
    clock.now_s += LIMITS.pause_s
    assert [it.ask(PROBE_S).verdict for it in (there, here, there)] == ["probe", "wait", "wait"]
    clock.now_s += LOST_AFTER_S  # the prober's process hangs
    assert [it.ask(PROBE_S).verdict for it in (here, there)] == ["probe", "wait"]
    here.succeeded(probe=True)
    assert there.ask(PROBE_S) == Admission("go")
    assert changes == [(CLOSED, OPEN), (PROBING, CLOSED)]
    one.close()
    two.close()


def test_each_change_tells_the_kind_of_the_error_behind_it(clock: Clock) -> None:
    told: list[tuple[int, int, ErrorKind | None]] = []
    it = Breaker(Shared(None, 4), LIMITS, lambda before, after, kind: told.append((before.phase, after.phase, kind)))
    for kind in (ErrorKind.TIMEOUT, ErrorKind.DISCONNECT, ErrorKind.SERVER_ERROR):
        clock.now_s += 1
        it.failed(clock.now_s, kind, probe=False)
    clock.now_s += LIMITS.pause_s
    assert it.ask(PROBE_S).verdict == "probe"
    it.failed(clock.now_s, ErrorKind.CONNECT, probe=True)
    clock.now_s += LIMITS.pause_s
    assert it.ask(PROBE_S).verdict == "probe"
    it.succeeded(probe=True)
    assert told == [
        (CLOSED, OPEN, ErrorKind.SERVER_ERROR),
        (PROBING, OPEN, ErrorKind.CONNECT),
        (PROBING, CLOSED, None),
    ]


def test_one_failure_may_be_enough_and_a_pause_be_short(clock: Clock) -> None:
    changes: list[tuple[int, int]] = []
    it = breaker(Shared(None, 4), BreakerLimits(1, 0.125), changes)
    for _ in range(4):  # never three pauses in a row
        trip(it, clock, times=1)
        assert it.ask(PROBE_S) == Admission("wait", 0.125)
        assert asyncio.run(it.admitted(PROBE_S))
        assert it.ask(PROBE_S) == Admission("probe")
        it.succeeded(probe=True)
    assert changes == [(CLOSED, OPEN), (PROBING, CLOSED)] * 4
    assert not it.gave_up


def test_a_probe_that_was_given_up_without_a_result_leaves_it_to_the_next(clock: Clock, tmp_path: Path) -> None:
    one, two = (Shared(tmp_path, 4) for _ in range(2))
    here, there = breaker(one, LIMITS, []), breaker(two, LIMITS, [])
    trip(here, clock)
    clock.now_s += LIMITS.pause_s
    assert [it.ask(PROBE_S).verdict for it in (here, there)] == ["probe", "wait"]
    here.unprobed()
    assert [it.ask(PROBE_S).verdict for it in (there, here)] == ["probe", "wait"]
    there.failed(clock.now_s, KIND, probe=True)
    assert here.ask(PROBE_S) == Admission("wait", LIMITS.pause_s)
    one.close()
    two.close()


def test_failures_in_flight_together_count_once_over_processes(clock: Clock, tmp_path: Path) -> None:
    changes: list[tuple[int, int]] = []
    one, two = (Shared(tmp_path, 4) for _ in range(2))
    workers = breaker(one, LIMITS, changes), breaker(two, LIMITS, changes)
    for _ in range(LIMITS.failures):
        assert changes == []
        started_s = clock.now_s
        clock.now_s += 1
        for n in range(8):
            workers[n % 2].failed(started_s, KIND, probe=False)
            clock.now_s += 0.1
    assert changes == [(CLOSED, OPEN)]
    one.close()
    two.close()


@pytest.mark.parametrize(
    "garbage",
    [b"\xff" * 48, struct.pack("<4I4d", 9, *[0] * 7), struct.pack("<4I4d", 1, 0, 1, 1, 0, float("nan"), 0, 0)],
    ids=["ones", "no phase", "open for ever"],
)
def test_a_state_that_cannot_be_is_as_good_as_none(clock: Clock, garbage: bytes) -> None:
    shared = Shared(None, 4)
    shared.put(BREAKER_AT, garbage)
    it = breaker(shared, LIMITS, [])
    assert it.ask(PROBE_S) == Admission("go")
    trip(it, clock)
    assert it.ask(PROBE_S) == Admission("wait", LIMITS.pause_s)


def test_a_success_ends_the_row(clock: Clock, tmp_path: Path) -> None:
    one, two = (Shared(tmp_path, 4) for _ in range(2))
    here, there = breaker(one, LIMITS, []), breaker(two, LIMITS, [])
    for _ in range(3):
        trip(here, clock, times=LIMITS.failures - 1)
        there.succeeded(probe=False)
    assert here.ask(PROBE_S) == Admission("go")
    one.close()
    two.close()


@pytest.mark.parametrize("end", ["succeeded", "failed", "given up"])
def test_whoever_probed_leaves_the_mark_of_it_to_the_next(clock: Clock, tmp_path: Path, end: str) -> None:
    shared = Shared(tmp_path, 4)
    it, mark = breaker(shared, LIMITS, []), shared.lock("probe")
    assert mark is not None
    trip(it, clock)
    clock.now_s += LIMITS.pause_s
    assert it.ask(PROBE_S) == Admission("probe")
    assert not mark.try_acquire()
    if end == "succeeded":
        it.succeeded(probe=False)  # that of another attempt, which was in flight before the pause
        assert not mark.try_acquire()
        it.succeeded(probe=True)
    elif end == "failed":
        it.failed(clock.now_s, KIND, probe=True)
    else:
        it.unprobed()
    assert mark.try_acquire()
    mark.release()
    shared.close()


def test_when_the_mark_of_the_prober_is_free_its_process_is_dead(clock: Clock, tmp_path: Path) -> None:
    one, two = (Shared(tmp_path, 4) for _ in range(2))
    here, there = breaker(one, LIMITS, []), breaker(two, LIMITS, [])
    trip(here, clock)
    clock.now_s += LIMITS.pause_s
    state = BreakerState(*struct.unpack_from("<4I4d", one.memory, BREAKER_AT))
    probing = state.admit(clock.now_s, 3600.0)[0]  # as a process left it that was killed in the probe
    one.put(BREAKER_AT, struct.pack("<4I4d", *astuple(probing)))
    began_s = clock.now_s
    assert asyncio.run(there.admitted(PROBE_S))
    assert [it.ask(PROBE_S).verdict for it in (there, here)] == ["probe", "wait"]
    assert clock.now_s == began_s
    one.close()
    two.close()


def test_a_healthy_answer_takes_no_lock(monkeypatch: pytest.MonkeyPatch) -> None:
    shared = Shared(None, 4)
    it = breaker(shared, LIMITS, [])
    monkeypatch.setattr(shared, "guard", lambda: pytest.fail("locked"))
    it.succeeded(probe=False)
    assert it.ask(PROBE_S) == Admission("go")
