"""What is written down of what all calls share: pauses of the breaker, and the limit as it goes down and up."""

from __future__ import annotations

from typing import TYPE_CHECKING

from pytest_lmstudio.engine.breaker import MOST_PAUSES, Phase

if TYPE_CHECKING:
    from pytest_lmstudio.engine.breaker import BreakerState
    from pytest_lmstudio.errors import ErrorKind
    from pytest_lmstudio.record.events import EventWriter
    from pytest_lmstudio.settings import BreakerLimits


class Changes:
    """Writes the events of changes; each is written once, by the process that made it.

    Args:
        events: the log.
        limits: when the breaker opens, and for how long; None is off.
    """

    def __init__(self, events: EventWriter, limits: BreakerLimits | None) -> None:
        self._events = events
        self._pause_s = limits.pause_s if limits else 0.0

    def breaker(self, before: BreakerState, after: BreakerState, kind: ErrorKind | None) -> None:
        """Record that the breaker opened, closed or gave up, and the kind of the error behind it."""
        if after.phase == Phase.CLOSED:
            self._events.write("breaker_closed", paused_s=round(after.paused_s - before.paused_s, 3))
            return
        self._events.write(
            "breaker_open",
            failures=after.failures,
            pauses=after.pauses,
            most_pauses=MOST_PAUSES,
            pause_s=self._pause_s,
            gave_up=after.phase == Phase.GIVEN_UP,
            error_kind=kind,
        )

    def limit(self, before: int, now: int, why: str) -> None:
        """Record that the limit changed."""
        self._events.write("concurrency_changed", limit=now, previous=before, reason=why)
