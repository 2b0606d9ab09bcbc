"""The circuit breaker of a run, over its processes."""

from __future__ import annotations

import asyncio
import struct
from contextlib import contextmanager
from types import SimpleNamespace
from typing import TYPE_CHECKING

import pytest

from pytest_lmstudio.engine import breaker as room
from pytest_lmstudio.engine.breaker import Admission, Breaker, BreakerState, Phase
from pytest_lmstudio.engine.shared import BREAKER_AT, Shared
from pytest_lmstudio.errors import ErrorKind
from pytest_lmstudio.settings import BreakerLimits

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

LIMITS = BreakerLimits(3, 30.0)
PROBE_S = 45.0
LOST_AFTER_S = PROBE_S + 5.0
CLOSED, OPEN, PROBING, GIVEN_UP = Phase
KIND = ErrorKind.DISCONNECT


class Clock:
    """Time that passes only by sleeping; what others do meanwhile stands in `then`, with its time."""

    def __init__(self) -> None:
        self.now_s = 1000.0
        self.then: list[tuple[float, Callable[[], None]]] = []

    def monotonic(self) -> float:
        return self.now_s

    async def sleep(self, seconds: float) -> None:
        assert seconds > 0
        self.now_s += seconds
        while self.then and self.then[0][0] <= self.now_s:
            self.then.pop(0)[1]()


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    clock = Clock()
    monkeypatch.setattr(room, "time", SimpleNamespace(monotonic=clock.monotonic))
    monkeypatch.setattr(room, "asyncio", SimpleNamespace(sleep=clock.sleep))
    return clock


Pair = tuple[Shared, Shared]


@pytest.fixture
def pair(tmp_path: Path) -> Iterator[Pair]:
    """Return what two processes of a run share."""
    pair = Shared(tmp_path, 4), Shared(tmp_path, 4)
    yield pair
    for shared in pair:
        shared.close()


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
        assert it.gave_up == (probes == 3)
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


def test_every_process_waits_out_the_pause(clock: Clock, pair: Pair) -> None:
    here, there = (breaker(shared, LIMITS, []) for shared in pair)
    trip(here, clock)
    began_s = clock.now_s
    assert asyncio.run(there.admitted(PROBE_S))
    assert clock.now_s - began_s == LIMITS.pause_s


@pytest.mark.parametrize("probing", [False, True], ids=["in a pause", "in a probe"])
def test_a_success_elsewhere_is_noticed_within_50_ms(clock: Clock, pair: Pair, *, probing: bool) -> None:
    here, there = (breaker(shared, LIMITS, []) for shared in pair)
    trip(here, clock)
    if probing:
        clock.now_s += LIMITS.pause_s
        here.ask(PROBE_S)
    began_s = clock.now_s
    clock.then.append((began_s + 0.01, lambda: here.succeeded(probe=probing)))
    assert asyncio.run(there.admitted(PROBE_S))
    assert clock.now_s - began_s == pytest.approx(0.05)
    assert there.ask(PROBE_S) == Admission("go")


def test_an_answer_to_a_request_sent_before_the_breaker_gave_up_resumes(clock: Clock) -> None:
    it = breaker(Shared(None, 4), LIMITS, [])
    trip(it, clock)
    while asyncio.run(it.admitted(PROBE_S)):
        it.ask(PROBE_S)
        it.failed(clock.now_s, KIND, probe=True)
    it.succeeded(probe=False)
    assert asyncio.run(it.admitted(PROBE_S))
    assert it.ask(PROBE_S) == Admission("go")


def test_a_breaker_that_is_off_lets_everything_through(clock: Clock) -> None:
    it = breaker(Shared(None, 4), None, [])
    trip(it, clock, times=50)
    it.succeeded(probe=False)
    assert asyncio.run(it.admitted(PROBE_S))
    assert it.ask(PROBE_S) == Admission("go")


def test_processes_count_together_probe_one_at_a_time_and_announce_once(clock: Clock, pair: Pair) -> None:
    changes: list[tuple[int, int]] = []
    here, there = (breaker(shared, LIMITS, changes) for shared in pair)
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


def test_a_probe_that_was_given_up_without_a_result_leaves_it_to_the_next(clock: Clock, pair: Pair) -> None:
    here, there = (breaker(shared, LIMITS, []) for shared in pair)
    trip(here, clock)
    clock.now_s += LIMITS.pause_s
    assert [it.ask(PROBE_S).verdict for it in (here, there)] == ["probe", "wait"]
    here.unprobed()
    assert [it.ask(PROBE_S).verdict for it in (there, here)] == ["probe", "wait"]
    there.failed(clock.now_s, KIND, probe=True)
    assert here.ask(PROBE_S) == Admission("wait", LIMITS.pause_s)


def test_failures_in_flight_together_count_once_over_processes(clock: Clock, pair: Pair) -> None:
    changes: list[tuple[int, int]] = []
    workers = [breaker(shared, LIMITS, changes) for shared in pair]
    for _ in range(LIMITS.failures):
        assert changes == []
        started_s = clock.now_s
        clock.now_s += 1
        for n in range(8):
            workers[n % 2].failed(started_s, KIND, probe=False)
            clock.now_s += 0.1
    assert changes == [(CLOSED, OPEN)]


@pytest.mark.parametrize(
    "garbage",
    [
        b"\xff" * 48,
        struct.pack("<4I4d", 4, *[0] * 7),
        struct.pack("<4I4d", 9, *[0] * 7),
        struct.pack("<4I4d", 1, 0, 1, 1, 0, float("nan"), 0, 0),
    ],
    ids=["ones", "no phase", "no phase by far", "open for ever"],
)
def test_a_state_that_cannot_be_is_as_good_as_none(clock: Clock, garbage: bytes) -> None:
    shared = Shared(None, 4)
    shared.put(BREAKER_AT, garbage)
    it = breaker(shared, LIMITS, [])
    assert it.ask(PROBE_S) == Admission("go")
    trip(it, clock)
    assert it.ask(PROBE_S) == Admission("wait", LIMITS.pause_s)


def test_a_success_ends_the_row(clock: Clock, pair: Pair) -> None:
    here, there = (breaker(shared, LIMITS, []) for shared in pair)
    for _ in range(3):
        trip(here, clock, times=LIMITS.failures - 1)
        assert here.ask(PROBE_S) == Admission("go")
        there.succeeded(probe=False)


def test_a_healthy_answer_takes_no_lock(monkeypatch: pytest.MonkeyPatch) -> None:
    shared = Shared(None, 4)
    it = breaker(shared, LIMITS, [])
    monkeypatch.setattr(shared, "guard", lambda: pytest.fail("locked"))
    it.succeeded(probe=False)
    assert it.ask(PROBE_S) == Admission("go")


# -- the mark of the prober ------------------------------------------------------------------------


def held(shared: Shared) -> bool:
    """Tell whether any process has the mark."""
    mark = shared.lock("probe")
    assert mark is not None
    if free := mark.try_acquire():
        mark.release()
    return not free


@pytest.mark.parametrize("end", ["succeeded", "failed", "given up"])
def test_whoever_probed_leaves_the_mark_of_it_to_the_next(clock: Clock, pair: Pair, end: str) -> None:
    it = breaker(pair[0], LIMITS, [])
    trip(it, clock)
    clock.now_s += LIMITS.pause_s
    assert it.ask(PROBE_S) == Admission("probe")
    assert held(pair[1])
    it.succeeded(probe=False)  # that of another attempt, which was in flight before the pause
    assert held(pair[1])
    if end == "succeeded":
        it.succeeded(probe=True)
    elif end == "failed":
        it.failed(clock.now_s, KIND, probe=True)
    else:
        it.unprobed()
    assert not held(pair[1])


def test_a_process_may_probe_again_and_again_and_has_the_mark_each_time(clock: Clock, pair: Pair) -> None:
    it = breaker(pair[0], LIMITS, [])
    for _ in range(2):
        trip(it, clock)
        clock.now_s += LIMITS.pause_s
        assert it.ask(PROBE_S) == Admission("probe")
        assert held(pair[1])
        it.succeeded(probe=True)
        assert not held(pair[1])


def test_who_waits_or_gives_up_takes_no_mark(clock: Clock, pair: Pair) -> None:
    here, there = (breaker(shared, LIMITS, []) for shared in pair)
    trip(here, clock)
    assert there.ask(PROBE_S) == Admission("wait", LIMITS.pause_s)
    assert not held(pair[0])
    while asyncio.run(here.admitted(PROBE_S)):
        here.ask(PROBE_S)
        here.failed(clock.now_s, KIND, probe=True)
    assert there.ask(PROBE_S) == Admission("give_up")
    assert not held(pair[0])


def test_a_process_that_probes_again_while_its_probe_hangs_has_the_mark_once(clock: Clock, pair: Pair) -> None:
    here, there = (breaker(shared, LIMITS, []) for shared in pair)
    trip(here, clock)
    for seconds in (LIMITS.pause_s, LOST_AFTER_S):
        clock.now_s += seconds
        assert here.ask(PROBE_S) == Admission("probe")
    here.unprobed()
    assert not held(pair[1])
    assert there.ask(PROBE_S) == Admission("probe")
    assert here.ask(PROBE_S) == Admission("wait", LOST_AFTER_S)


def test_who_asks_in_the_moment_in_which_a_probe_is_taken_back_gets_the_mark_too(
    clock: Clock, pair: Pair, monkeypatch: pytest.MonkeyPatch
) -> None:
    here, there = (breaker(shared, LIMITS, []) for shared in pair)
    trip(here, clock)
    clock.now_s += LIMITS.pause_s
    assert here.ask(PROBE_S) == Admission("probe")
    guard = pair[0].guard

    @contextmanager
    def left() -> Iterator[None]:
        with guard():
            yield
        assert there.ask(PROBE_S) == Admission("probe")

    monkeypatch.setattr(pair[0], "guard", left)
    here.unprobed()
    monkeypatch.undo()
    assert held(pair[0])


@pytest.fixture
def orphaned(clock: Clock, pair: Pair) -> list[Breaker]:
    """Return two processes which await a probe for an hour, as a third one left it that was killed in the probe."""
    both = [breaker(shared, LIMITS, []) for shared in pair]
    trip(both[0], clock)
    clock.now_s += LIMITS.pause_s
    state = BreakerState(*struct.unpack_from("<4I4d", pair[0].memory, BREAKER_AT))
    pair[0].put(BREAKER_AT, struct.pack("<4I4d", *state.admit(clock.now_s, 3600.0)[0]))
    return both


def test_when_the_mark_of_the_prober_is_free_its_process_is_dead(clock: Clock, orphaned: list[Breaker]) -> None:
    here, there = orphaned
    began_s = clock.now_s
    assert asyncio.run(there.admitted(PROBE_S))
    assert [it.ask(PROBE_S).verdict for it in (there, here)] == ["probe", "wait"]
    assert clock.now_s == began_s


def test_who_sees_that_the_prober_died_leaves_the_mark_to_who_probes(orphaned: list[Breaker], pair: Pair) -> None:
    here, there = orphaned
    assert asyncio.run(there.admitted(PROBE_S))
    assert not held(pair[0])
    assert [it.ask(PROBE_S).verdict for it in (here, there)] == ["probe", "wait"]


def test_while_the_prober_lives_nobody_else_probes(clock: Clock, pair: Pair) -> None:
    here, there = (breaker(shared, LIMITS, []) for shared in pair)
    trip(here, clock)
    clock.now_s += LIMITS.pause_s
    assert here.ask(0.5) == Admission("probe")
    for it in (here, there):
        assert it.ask(PROBE_S) == Admission("wait", 5.5)
    began_s = clock.now_s
    assert asyncio.run(there.admitted(PROBE_S))
    assert clock.now_s - began_s == 5.5
