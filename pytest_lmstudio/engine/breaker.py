"""The circuit breaker: after several network errors in a row nobody sends for a while, then one probe goes."""

from __future__ import annotations

import asyncio
import math
import struct
import time
from enum import IntEnum
from typing import TYPE_CHECKING, Literal, NamedTuple

from pytest_lmstudio.engine.shared import BREAKER_AT

if TYPE_CHECKING:
    from collections.abc import Callable

    from pytest_lmstudio.engine.shared import Shared
    from pytest_lmstudio.errors import ErrorKind
    from pytest_lmstudio.settings import BreakerLimits

#: After so many pauses in a row without a success, the rest of the calls fail at once.
MOST_PAUSES = 3
#: How often a waiting call looks whether the pause is over before its time.
_LOOK_S = 0.05
#: A probe of which nothing is heard is given up this long after its own deadline.
_PROBE_GRACE_S = 5.0

_LAYOUT = struct.Struct("<IIIIdddd")


class Phase(IntEnum):
    """Whether requests go: all, none for a while, a single one, none any more."""

    CLOSED = 0
    OPEN = 1
    PROBING = 2
    GIVEN_UP = 3


class Admission(NamedTuple):
    """What a call that wants to send may do: go (as the probe, or not), wait, or give up."""

    verdict: Literal["go", "probe", "wait", "give_up"]
    wait_s: float = 0.0


class BreakerState(NamedTuple):
    """The whole state; every change returns a new one. Times are seconds of the monotonic clock, common to a machine.

    Attributes:
        phase: one of `Phase`; as a number, as it comes from the common memory.
        failures: network errors in a row, those that were in flight together counted as one.
        pauses: pauses in a row without a success.
        trips: pauses of the whole run.
        counted_at_s: when the last counted failure happened.
        until_s: open: when the pause ends; probing: when the probe is given up.
        opened_at_s: when the first of the present pauses began.
        paused_s: seconds paused before that.
    """

    phase: int = 0
    failures: int = 0
    pauses: int = 0
    trips: int = 0
    counted_at_s: float = 0.0
    until_s: float = 0.0
    opened_at_s: float = 0.0
    paused_s: float = 0.0

    def admit(self, now_s: float, probe_s: float) -> tuple[BreakerState, Admission]:
        """Ask to send; `probe_s` is how long a probe may take."""
        match self.phase:
            case Phase.CLOSED:
                return self, Admission("go")
            case Phase.GIVEN_UP:
                return self, Admission("give_up")
        if (left_s := self.until_s - now_s) > 0:
            return self, Admission("wait", left_s)
        probing = self._replace(phase=Phase.PROBING, until_s=now_s + probe_s + _PROBE_GRACE_S)
        return probing, Admission("probe")

    def succeeded(self, now_s: float) -> BreakerState:
        """Take an answer: the server is alive."""
        pause_s = now_s - self.opened_at_s if self.phase else 0.0
        return BreakerState(trips=self.trips, paused_s=self.paused_s + pause_s)

    def failed(self, started_s: float, now_s: float, limits: BreakerLimits, *, probe: bool) -> BreakerState:
        """Take a network error of an attempt that began at `started_s`."""
        match self.phase:
            case Phase.PROBING if probe:
                return self.paused(now_s, limits)
            case Phase.CLOSED if started_s >= self.counted_at_s:
                counted = self._replace(failures=self.failures + 1, counted_at_s=now_s)
                return counted.paused(now_s, limits) if counted.failures >= limits.failures else counted
        return self

    def unprobed(self, now_s: float) -> BreakerState:
        """Take back a probe that was given up without a result, so that the next call may probe."""
        return self._replace(until_s=now_s) if self.phase == Phase.PROBING else self

    def paused(self, now_s: float, limits: BreakerLimits) -> BreakerState:
        """Begin a pause, or give up after too many."""
        if self.pauses >= MOST_PAUSES:
            return self._replace(phase=Phase.GIVEN_UP)
        return self._replace(
            phase=Phase.OPEN,
            pauses=self.pauses + 1,
            trips=self.trips + 1,
            until_s=now_s + limits.pause_s,
            opened_at_s=self.opened_at_s or now_s,
        )


class Breaker:
    """The breaker of a run, over all its processes.

    Args:
        shared: what the run's processes share.
        limits: when it opens, and for how long; None is off.
        on_change: called by the process that changed the phase, with the state before and after, and with the kind of
            the error that changed it, None when it was no error.
    """

    def __init__(
        self,
        shared: Shared,
        limits: BreakerLimits | None,
        on_change: Callable[[BreakerState, BreakerState, ErrorKind | None], None],
    ) -> None:
        self._shared = shared
        self._limits = limits
        self._on_change = on_change
        # Held by the process that probes, so that the others notice when it dies.
        self._mark = shared.lock("probe")
        self._marked = False
        self._seen: tuple[bytes, BreakerState] = (bytes(_LAYOUT.size), BreakerState())

    @property
    def gave_up(self) -> bool:
        """Tell whether calls fail at once by now."""
        return self._load().phase == Phase.GIVEN_UP

    async def admitted(self, probe_s: float) -> bool:
        """Wait until requests may go; return False when the breaker gave up. Takes no part in the probing."""
        while True:
            match self._load().admit(time.monotonic(), probe_s)[1]:
                case Admission("give_up"):
                    return False
                case Admission("wait", wait_s) if not self._prober_died():
                    await asyncio.sleep(min(wait_s, _LOOK_S))
                case _:
                    return True

    def ask(self, probe_s: float) -> Admission:
        """Ask to send right now, with a slot in hand."""
        if not self._load().phase:
            return Admission("go")
        with self._shared.guard():
            now_s, state = time.monotonic(), self._load()
            if self._prober_died():
                state = state.unprobed(now_s)
            state, admission = state.admit(now_s, probe_s)
            if admission.verdict == "probe" and self._mark is not None and not self._marked:
                self._marked = self._mark.try_acquire()
            self._store(state)
        return admission

    def succeeded(self, *, probe: bool) -> None:
        """Take an answer of any kind: the server is alive."""
        before = self._load()
        if probe or before.phase or before.failures:
            self._change(lambda state, now_s: state.succeeded(now_s), probe=probe)

    def failed(self, started_s: float, kind: ErrorKind, *, probe: bool) -> None:
        """Take a network error of an attempt that began at `started_s` on the monotonic clock."""
        if (limits := self._limits) is not None:
            self._change(lambda state, now_s: state.failed(started_s, now_s, limits, probe=probe), kind, probe=probe)

    def unprobed(self) -> None:
        """Take back a probe that was given up without a result."""
        self._change(lambda state, now_s: state.unprobed(now_s), probe=True)

    def _change(
        self, change: Callable[[BreakerState, float], BreakerState], kind: ErrorKind | None = None, *, probe: bool
    ) -> None:
        with self._shared.guard():
            before = self._load()
            after = change(before, time.monotonic())
            self._store(after)
            if probe and self._mark is not None:  # before the guard goes: the next prober needs the mark
                self._mark.release()
                self._marked = False
        if before.phase != after.phase:
            self._on_change(before, after, kind)

    def _prober_died(self) -> bool:
        """Tell whether a probe is awaited whose process is gone."""
        if self._mark is None or self._marked or self._load().phase != Phase.PROBING:
            return False
        with self._shared.guard():  # or a prober that is just beginning would find the mark taken by the look at it
            free = self._mark.try_acquire()
            if free:
                self._mark.release()
        return free

    def _load(self) -> BreakerState:
        """Return the state; the first one when what is there can be none."""
        packed = bytes(self._shared.memory[BREAKER_AT : BREAKER_AT + _LAYOUT.size])
        if packed != self._seen[0]:
            self._seen = (packed, _unpacked(packed))
        return self._seen[1]

    def _store(self, state: BreakerState) -> None:
        self._shared.put(BREAKER_AT, _LAYOUT.pack(*state))


def _unpacked(packed: bytes) -> BreakerState:
    found = _LAYOUT.unpack(packed)
    return BreakerState(*found) if found[0] < len(Phase) and all(map(math.isfinite, found)) else BreakerState()
