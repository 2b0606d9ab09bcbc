"""Backpressure: the limit goes down when answers get slow or are lost, and up again bit by bit, over all processes.

Additive increase, multiplicative decrease: D. Chiu and R. Jain, "Analysis of the Increase and Decrease Algorithms for
Congestion Avoidance in Computer Networks", 1989. As in TCP, what was sent before a cut tells nothing of the limit after
it, so a cut happens once for all requests that were in flight together.
"""

from __future__ import annotations

import math
import struct
import time
from typing import TYPE_CHECKING, NamedTuple

from pytest_lmstudio.engine.shared import PRESSURE_AT

if TYPE_CHECKING:
    from collections.abc import Callable

    from pytest_lmstudio.engine.shared import Shared

_LAYOUT = struct.Struct("<dddI")
_SHRINK = 0.5
_WEIGHT = 0.2
_MOST_ANSWERS = 2**32 - 1


class PressureState(NamedTuple):
    """The whole state; every change returns a new one. Times are seconds of the monotonic clock, common to a machine.

    Attributes:
        limit: requests that may be in flight, from 1 up; its whole part counts.
        mean_s: mean latency of the answers since the last cut, weighted towards the newest, seconds.
        cut_at_s: when the last cut happened.
        answers: answers since then.
    """

    limit: float
    mean_s: float = 0.0
    cut_at_s: float = 0.0
    answers: int = 0

    def answered(
        self, started_s: float, now_s: float, latency_s: float, *, threshold_s: float, most: int
    ) -> PressureState:
        """Take an answer to a request sent at `started_s`; at most `most` may ever be in flight."""
        if started_s < self.cut_at_s:
            return self
        mean_s = self.mean_s + _WEIGHT * (latency_s - self.mean_s) if self.answers else latency_s
        seen = self._replace(mean_s=mean_s, answers=min(self.answers + 1, _MOST_ANSWERS))
        if mean_s <= threshold_s:
            return seen._replace(limit=min(float(most), self.limit + 1.0 / self.limit))
        # Before as many answers came as may be in flight, one slow answer would be the mean.
        return seen.cut(now_s) if seen.answers >= int(self.limit) else seen

    def lost(self, started_s: float, now_s: float) -> PressureState:
        """Take a network error of a request sent at `started_s`."""
        return self if started_s < self.cut_at_s else self.cut(now_s)

    def cut(self, now_s: float) -> PressureState:
        """Return the state after a cut."""
        return PressureState(limit=max(1.0, self.limit * _SHRINK), cut_at_s=now_s)


class Pressure:
    """The limit of a run, as backpressure changes it.

    Args:
        shared: what the run's processes share.
        most: the limit without backpressure.
        threshold_s: mean latency above which the limit is cut; None is off.
        on_change: called with the limit before, the limit now and why, by the process that changed it.
    """

    def __init__(
        self, shared: Shared, most: int, threshold_s: float | None, on_change: Callable[[int, int, str], None]
    ) -> None:
        self._shared = shared
        self._most = most
        self._threshold_s = threshold_s
        self._on_change = on_change

    @property
    def limit(self) -> int:
        """Return how many requests may be in flight right now."""
        return self._most if self._threshold_s is None else int(self._load(time.monotonic()).limit)

    def answered(self, started_s: float, latency_s: float) -> None:
        """Take the latency of an answer to a request that was sent at `started_s` on the monotonic clock."""
        if (threshold_s := self._threshold_s) is not None:
            self._change(
                lambda state, now_s: state.answered(
                    started_s, now_s, latency_s, threshold_s=threshold_s, most=self._most
                ),
                "latency",
            )

    def lost(self, started_s: float) -> None:
        """Take a network error of a request that was sent at `started_s` on the monotonic clock."""
        if self._threshold_s is not None:
            self._change(lambda state, now_s: state.lost(started_s, now_s), "errors")

    def _change(self, change: Callable[[PressureState, float], PressureState], why: str) -> None:
        with self._shared.guard():
            now_s = time.monotonic()
            before = self._load(now_s)
            after = change(before, now_s)
            self._shared.put(PRESSURE_AT, _LAYOUT.pack(*after))
        if int(before.limit) != int(after.limit):
            self._on_change(int(before.limit), int(after.limit), why if after.limit < before.limit else "recovery")

    def _load(self, now_s: float) -> PressureState:
        """Return the state; the first one when there is none yet, or when it is none that can be."""
        state = PressureState(*_LAYOUT.unpack_from(self._shared.memory, PRESSURE_AT))
        sane = 1.0 <= state.limit <= self._most and math.isfinite(state.mean_s) and state.cut_at_s <= now_s
        return state if sane else PressureState(limit=float(self._most))
