"""Backpressure: the limit goes down when answers get slow or are lost, and up again bit by bit, over all processes.

Additive increase, multiplicative decrease: D. Chiu and R. Jain, "Analysis of the Increase and Decrease Algorithms for
Congestion Avoidance in Computer Networks", 1989.
"""

from __future__ import annotations

import struct
from dataclasses import astuple, dataclass, replace
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable

    from pytest_lmstudio.engine.shared import Shared

#: Where the state lies in the common memory, behind the breaker's.
OFFSET = 128
_LAYOUT = struct.Struct("<ddId")
_SHRINK = 0.5
_WEIGHT = 0.2


@dataclass(frozen=True, slots=True)
class PressureState:
    """The whole state; every change returns a new one.

    Attributes:
        limit: requests that may be in flight; its whole part counts.
        mean_s: mean latency of late, seconds, weighted towards the newest; 0.0 when none was seen since the last cut.
        since_cut: answers and losses since the last cut.
        most: the highest limit.
    """

    limit: float
    mean_s: float = 0.0
    since_cut: int = 0
    most: float = 1.0

    def answered(self, latency_s: float, threshold_s: float) -> PressureState:
        """Take the latency of an answer."""
        mean_s = latency_s if not self.mean_s else self.mean_s + _WEIGHT * (latency_s - self.mean_s)
        seen = replace(self, mean_s=mean_s, since_cut=self.since_cut + 1)
        if mean_s > threshold_s:
            return seen.cut()
        return replace(seen, limit=min(self.most, self.limit + 1.0 / max(1.0, self.limit)))

    def lost(self) -> PressureState:
        """Take a network error."""
        return replace(self, since_cut=self.since_cut + 1).cut()

    def cut(self) -> PressureState:
        """Cut the limit, but once for all requests that were in flight together."""
        if self.since_cut < int(self.limit):
            return self
        return replace(self, limit=max(1.0, self.limit * _SHRINK), since_cut=0, mean_s=0.0)


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
        return self._most if self._threshold_s is None else int(self._load().limit)

    def answered(self, latency_s: float) -> None:
        """Take the latency of an answer."""
        threshold_s = self._threshold_s
        if threshold_s is not None:
            self._change(lambda state: state.answered(latency_s, threshold_s), "latency")

    def lost(self) -> None:
        """Take a network error."""
        if self._threshold_s is not None:
            self._change(PressureState.lost, "errors")

    def _change(self, change: Callable[[PressureState], PressureState], why: str) -> None:
        with self._shared.guard():
            before = self._load()
            after = change(before)
            _LAYOUT.pack_into(self._shared.memory, OFFSET, *astuple(after))
        if int(before.limit) != int(after.limit):
            self._on_change(int(before.limit), int(after.limit), why if after.limit < before.limit else "recovery")

    def _load(self) -> PressureState:
        state = PressureState(*_LAYOUT.unpack_from(self._shared.memory, OFFSET))
        return state if state.most else PressureState(limit=float(self._most), most=float(self._most))
