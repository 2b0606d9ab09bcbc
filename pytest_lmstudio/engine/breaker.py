"""The circuit breaker: after several network errors in a row nobody sends for a while, then one probe goes."""

from __future__ import annotations

import asyncio
import math
import struct
import time
from dataclasses import astuple, dataclass, replace
from typing import TYPE_CHECKING, Literal, NamedTuple

from pytest_lmstudio.engine.shared import BREAKER_AT

if TYPE_CHECKING:
    from collections.abc import Callable

    from pytest_lmstudio.engine.shared import Shared
    from pytest_lmstudio.errors import ErrorKind
    from pytest_lmstudio.settings import BreakerLimits

#: After so many pauses in a row without a success, the rest of the calls fail at once.
MOST_PAUSES = 3
#: How often a waiting call looks whether the probe has come back.
_LOOK_S = 0.05
#: A probe of which nothing is heard is given up this long after its own deadline.
_PROBE_GRACE_S = 5.0

Phase = Literal["closed", "open", "probing", "given_up"]
_PHASES: tuple[Phase, ...] = ("closed", "open", "probing", "given_up")
_LAYOUT = struct.Struct("<IIIIdddd")


class Admission(NamedTuple):
    """What a call that wants to send may do: go (as the probe, or not), wait, or give up."""

    verdict: Literal["go", "probe", "wait", "give_up"]
    wait_s: float = 0.0


@dataclass(frozen=True, slots=True)
class BreakerState:
    """The whole state; every change returns a new one. Times are seconds of the monotonic clock, common to a machine.

    Attributes:
        phase: 0 closed, 1 open, 2 probing, 3 given up.
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
        name = _PHASES[self.phase]
        if name == "closed":
            return self, Admission("go")
        if name == "given_up":
            return self, Admission("give_up")
        if now_s < self.until_s:
            return self, Admission(
                "wait", min(self.until_s - now_s, _LOOK_S) if name == "probing" else self.until_s - now_s
            )
        probing = replace(self, phase=2, until_s=now_s + probe_s + _PROBE_GRACE_S)
        return probing, Admission("probe")

    def succeeded(self, now_s: float) -> BreakerState:
        """Take an answer: the server is alive."""
        if _PHASES[self.phase] in {"open", "probing", "given_up"}:
            paused_s = self.paused_s + now_s - self.opened_at_s
            return BreakerState(trips=self.trips, paused_s=paused_s)
        return replace(self, failures=0, pauses=0)

    def failed(self, started_s: float, now_s: float, limits: BreakerLimits, *, probe: bool) -> BreakerState:
        """Take a network error of an attempt that began at `started_s`."""
        name = _PHASES[self.phase]
        if name == "probing" and probe:
            return self.paused(now_s, limits)
        if name != "closed" or (self.failures and started_s < self.counted_at_s):
            return self
        counted = replace(self, failures=self.failures + 1, counted_at_s=now_s)
        return counted.paused(now_s, limits) if counted.failures >= limits.failures else counted

    def unprobed(self, now_s: float) -> BreakerState:
        """Take back a probe that was given up without a result, so that the next call may probe."""
        return replace(self, until_s=now_s) if _PHASES[self.phase] == "probing" else self

    def paused(self, now_s: float, limits: BreakerLimits) -> BreakerState:
        """Begin a pause, or give up after too many."""
        given_up = self.pauses >= MOST_PAUSES
        return replace(
            self,
            phase=3 if given_up else 1,
            pauses=self.pauses if given_up else self.pauses + 1,
            trips=self.trips if given_up else self.trips + 1,
            until_s=now_s + limits.pause_s,
            opened_at_s=self.opened_at_s if self.pauses else now_s,
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
        self._probe_lock = shared.lock("probe")
        self._probing = False

    @property
    def gave_up(self) -> bool:
        """Tell whether calls fail at once by now."""
        return self._limits is not None and _PHASES[self._load().phase] == "given_up"

    async def admitted(self, probe_s: float) -> bool:
        """Wait until requests may go; return False when the breaker gave up. Takes no part in the probing."""
        while True:
            state = self._load()
            if self._limits is None or state.phase == 0:
                return True
            admission = state.admit(time.monotonic(), probe_s)[1]
            if admission.verdict == "give_up":
                return False
            if admission.verdict != "wait" or self._prober_died():
                return True
            await asyncio.sleep(min(admission.wait_s, 1.0))

    def ask(self, probe_s: float) -> Admission:
        """Ask to send right now, with a slot in hand."""
        if self._limits is None or self._load().phase == 0:
            return Admission("go")
        with self._shared.guard():
            now_s, state = time.monotonic(), self._load()
            if self._prober_died():
                state = state.unprobed(now_s)
            state, admission = state.admit(now_s, probe_s)
            if admission.verdict == "probe":
                self._probing = self._probe_lock is not None and self._probe_lock.try_acquire()
            self._store(state)
        return admission

    def succeeded(self, *, probe: bool) -> None:
        """Take an answer of any kind: the server is alive."""
        if self._limits is None:
            return
        before = self._load()
        if before.phase or before.failures:
            self._change(lambda state, now_s: state.succeeded(now_s))
        if probe:
            self._end_probe()

    def failed(self, started_s: float, kind: ErrorKind, *, probe: bool) -> None:
        """Take a network error of an attempt that began at `started_s` on the monotonic clock."""
        if (limits := self._limits) is None:
            return
        self._change(lambda state, now_s: state.failed(started_s, now_s, limits, probe=probe), kind)
        if probe:
            self._end_probe()

    def unprobed(self) -> None:
        """Take back a probe that was given up without a result."""
        self._change(lambda state, now_s: state.unprobed(now_s))
        self._end_probe()

    def _change(self, change: Callable[[BreakerState, float], BreakerState], kind: ErrorKind | None = None) -> None:
        with self._shared.guard():
            before = self._load()
            after = change(before, time.monotonic())
            self._store(after)
        if before.phase != after.phase:
            self._on_change(before, after, kind)

    def _prober_died(self) -> bool:
        """Tell whether a probe is awaited whose process is gone."""
        if self._probe_lock is None or self._probing or _PHASES[self._load().phase] != "probing":
            return False
        with self._shared.guard():  # or a prober that is just beginning would find the lock taken by the look at it
            free = self._probe_lock.try_acquire()
            if free:
                self._probe_lock.release()
            return free and _PHASES[self._load().phase] == "probing"

    def _end_probe(self) -> None:
        if self._probing and self._probe_lock is not None:
            self._probing = False
            self._probe_lock.release()

    def _load(self) -> BreakerState:
        """Return the state; the first one when what is there can be none."""
        state = BreakerState(*_LAYOUT.unpack_from(self._shared.memory, BREAKER_AT))
        times_s = (state.counted_at_s, state.until_s, state.opened_at_s, state.paused_s)
        return state if state.phase < len(_PHASES) and all(map(math.isfinite, times_s)) else BreakerState()

    def _store(self, state: BreakerState) -> None:
        self._shared.put(BREAKER_AT, _LAYOUT.pack(*astuple(state)))
