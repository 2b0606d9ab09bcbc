"""The time of a run: read off the wall once, so that setting the clock in mid-run moves nothing."""

from __future__ import annotations

import time
from typing import NamedTuple


class Clock(NamedTuple):
    """Unix time that goes on evenly, by the monotonic clock, which all processes of a machine share.

    A machine asleep stops it on Linux and macOS, as it stops every limit of ours there, and does not on Windows: times
    then lag behind the wall by the sleep, and no duration holds it.

    Attributes:
        offset_s: what is added to the monotonic clock; the same in all processes of a run.
    """

    offset_s: float

    @classmethod
    def set_now(cls) -> Clock:
        """Return a clock that shows the wall's time now."""
        return cls(time.time() - time.monotonic())

    def now_s(self) -> float:
        """Return the time, Unix seconds."""
        return self.offset_s + time.monotonic()
